"""Weights of older MMDetection become those of 3.x: names of tensors, and what 1.x stored otherwise.

Where 3.x itself renames while it loads, or has a converter, the rule is the same. Weights of moving averages:
a checkpoint of mmengine's EMAHook holds the averaged weights in ``state_dict`` (and the trained ones in
``ema_state_dict``), so they are what is loaded, as there.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from det_mmdet.upgrade_1x import upgrade_1x
from detcore.errors import CheckpointError

logger = logging.getLogger(__name__)

# Of every model: parts whose names changed between 2.x and 3.x, or within them.
_RENAMED = (
    (r"^bbox_head\.(?:fcos|fovea)_(cls|reg|centerness)\.", r"bbox_head.conv_\1."),  # before 2.0
    (r"\.(conv\d)_offset\.(weight|bias)$", r".\1.conv_offset.\2"),  # deformable convolutions before mmcv 1.0
)
# Of SSD before 2.14: its extra layers were the backbone's, and each prediction a bare convolution.
_SSD = (
    (r"^(backbone|neck)\.l2_norm\.", "neck.l2_norm."),
    (r"^bbox_head\.(cls|reg)_convs\.(\d+)\.(weight|bias)$", r"bbox_head.\1_convs.\2.0.\3"),
)
_SSD_EXTRA = re.compile(r"^backbone\.extra\.(\d{1,3})\.")
# Of DETR and Deformable DETR of 2.x: the transformer was the head's.
_DETR = (
    (r"^bbox_head\.input_proj\.", "neck.convs.0.conv."),
    (r"^bbox_head\.query_embedding\.", "query_embedding."),
    (r"^bbox_head\.transformer\.level_embeds$", "level_embed"),
    (r"^bbox_head\.transformer\.reference_points\.", "reference_points_fc."),
    (r"^bbox_head\.transformer\.enc_output\.", "memory_trans_fc."),
    (r"^bbox_head\.transformer\.enc_output_norm\.", "memory_trans_norm."),
    (r"^bbox_head\.transformer\.pos_trans\.", "pos_trans_fc."),
    (r"^bbox_head\.transformer\.pos_trans_norm\.", "pos_trans_norm."),
    (r"^bbox_head\.transformer\.(encoder|decoder)\.", r"\1."),
    (r"^((?:encoder|decoder)\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"^(decoder\.layers\.\d+)\.attentions\.1\.", r"\1.cross_attn."),
    (r"^((?:encoder|decoder)\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
)
# The normalisation of images, which release candidates of 3.0 saved; a config says it.
_DROPPED = re.compile(r"^data_preprocessor\.(mean|std)$")


def upgraded(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a file with the names and the layout of MMDetection 3.x.

    Args:
        content: Of any file that detcore did not write; it is not changed.

    Returns:
        A copy with another ``state_dict``, or the same object where nothing is old in it.
    """
    wrapped = isinstance(content.get("state_dict"), Mapping)
    state = content["state_dict"] if wrapped else content
    if not state or not all(isinstance(name, str) for name in state):
        return content
    if not any(isinstance(value, Tensor) for value in state.values()):
        return content
    meta = content.get("meta") if wrapped else None
    stated = meta.get("mmdet_version") if isinstance(meta, Mapping) else None
    version = _version(stated)
    prefix = "module." if all(name.startswith("module.") for name in state) else ""  # of data parallelism
    current = OrderedDict((name.removeprefix(prefix), value) for name, value in state.items())
    if version is not None and version < (2, 5):
        try:
            current = upgrade_1x(current, version)
        except (AttributeError, KeyError, RuntimeError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"weights that say they are of MMDetection {stated} are not laid out like those"
                f" ({type(error).__name__}: {error})"
            ) from error
    current = _renamed(_without_copies(current))
    current = OrderedDict((prefix + name, value) for name, value in current.items())
    if list(current) == list(state) and all(current[name] is state[name] for name in state):
        return content
    logger.info("weights of an older MMDetection: %d of %d tensors have other names now or are left out",
                len(state.keys() - current.keys()), len(state))  # fmt: skip
    if hasattr(state, "_metadata"):
        current._metadata = state._metadata  # type: ignore[attr-defined]
    return {**content, "state_dict": current} if wrapped else current


def _version(stated: Any) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", stated) if isinstance(stated, str) else None
    return (int(found[1]), int(found[2])) if found else None


def _without_copies(state: Mapping[str, Any]) -> "OrderedDict[str, Any]":
    """Without what 2.x kept beside averaged weights: the trained ones, as ``ema_backbone_conv1_weight``."""
    copies = {"ema_" + name.replace(".", "_") for name in state}
    kept = [name for name in state if name not in copies and not _DROPPED.match(name)]
    return OrderedDict((name, state[name]) for name in kept)


def _renamed(state: Mapping[str, Any]) -> "OrderedDict[str, Any]":
    rules = list(_RENAMED)
    if any(_SSD_EXTRA.match(name) for name in state):
        rules += _SSD
    if any(name.startswith("bbox_head.transformer.") for name in state):
        rules += _DETR
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    return OrderedDict((_rename(name, compiled), value) for name, value in state.items())


def _rename(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    extra = _SSD_EXTRA.match(name)
    if extra:
        layer = int(extra[1])  # a layer of the neck is a pair: 1x1, then 3x3
        return f"neck.extra_layers.{layer // 2}.{layer % 2}.conv.{name[extra.end() :]}"
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name
