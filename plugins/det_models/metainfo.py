"""What heads ask of the images' metainfo."""

from collections.abc import Iterable, Mapping
from typing import Any

MetaInfo = Mapping[str, Any]


def with_scale_factor(meta: MetaInfo) -> MetaInfo:
    """A pipeline without a resize writes no factor; the image has its own size then."""
    if "scale_factor" in meta or "ori_shape" not in meta or meta["ori_shape"] != meta.get("img_shape"):
        return meta
    return {**meta, "scale_factor": (1.0, 1.0)}


def each_meta(batch_img_metas: Iterable[MetaInfo], name: str) -> list[Any]:
    """One metainfo field of every image."""
    metas = list(batch_img_metas)
    for number, meta in enumerate(metas):
        if name not in meta:
            raise ValueError(
                f"sample {number} ({meta.get('img_path') or 'no img_path'}) has no {name} in its metainfo, "
                f"which the head needs; PackDetInputs(meta_keys=...) should keep it. It has "
                f"{', '.join(sorted(meta)) or 'none'}"
            )
    return [meta[name] for meta in metas]
