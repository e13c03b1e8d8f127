"""Makes a config do a single step and a single evaluation, on drawn data where there is none."""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detcore.config import Config
from detcore.data import BaseDetDataset
from detcore.data.drawn import tiny_coco
from detcore.registry import DATASETS, MODELS
from detcore.structures.proposals import image_key

_EVALUATED = 8  # images of the configured data that the evaluation looks at
_DRAWN = 6


def make_dry(cfg: Config, folder: Path) -> list[str]:
    """Change ``cfg`` in place.

    Nothing is saved, no pretrained weights are fetched, no worker processes are started; everything goes to
    ``folder``.

    Args:
        cfg: The config of a training.
        folder: Gets drawn pictures and the log.

    Returns:
        Lines that say what was replaced.
    """
    notes = []
    cfg["work_dir"] = str(folder)
    cfg["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 1, "val_interval": 1}
    hooks = dict(cfg.get("default_hooks") or {})
    cfg["default_hooks"] = {
        **hooks,
        "checkpoint": None,
        "logger": {**(hooks.get("logger") or {}), "interval": 1},
    }
    cfg["resume"] = False
    cfg["visualizer"] = cfg["vis_backends"] = None
    _without_pretrained(cfg.get("model"))
    if cfg.get("load_from") and not Path(cfg["load_from"]).exists():  # names are not downloaded for a dry run
        notes.append(f"dry run: {cfg['load_from']} is not there; the weights are random")
        cfg["load_from"] = None
    for mode in ("train", "val"):
        loader = cfg.get(f"{mode}_dataloader")
        if not isinstance(loader, dict):
            continue
        loader["num_workers"], loader["persistent_workers"] = 0, False
        leaves = list(_leaves(loader.get("dataset"), cfg.get("default_scope")))
        missing = [path for leaf in leaves if (path := _missing(leaf)) is not None]
        if missing:
            notes.append(f"dry run: {missing[0]} is not there; {mode} uses {_DRAWN} drawn pictures")
            annotations = _draw(leaves, folder / mode, cfg.get("default_scope"))
            if mode == "train":
                notes += _without_data_of_its_own(cfg.get("model"), cfg.get("default_scope"))
            if mode == "val":
                kept = {"ann_file": str(annotations), "metric": _figures(cfg.get("val_evaluator"))}
                cfg["val_evaluator"] = {"type": "datasets.CocoMetric", **kept}
        elif mode == "val":
            for leaf in leaves:
                _shorten(leaf, cfg.get("default_scope"))
    return notes


def _without_data_of_its_own(model: Any, scope: str | None) -> Iterator[str]:
    """Leave out what tells a model of the configured images; it says nothing of drawn ones."""
    if not isinstance(model, dict):
        return
    kind = MODELS.get(model["type"], default_scope=model.get("_scope_", scope))
    for place in getattr(kind, "DATA_SETTINGS", ()):
        *outer, last = place.split(".")
        part: Any = model
        for key in outer:
            part = part.get(key) or {}
        if part.get(last) is not None:
            part[last] = None
            yield f"dry run: model.{place} is left out, as it is not about drawn pictures"


def _figures(evaluator: Any) -> list[str]:
    """Figures of boxes, of masks, or both, as the config asks for; whatever else it asks for, of boxes."""
    given = evaluator.get("metric") if isinstance(evaluator, dict) else None
    names = [given] if isinstance(given, str) else list(given or ())
    return [name for name in names if name in ("bbox", "segm")] or ["bbox"]


def _leaves(dataset: Any, scope: str | None) -> Iterator[dict[str, Any]]:
    """The data sets behind wrappers such as RepeatDataset and ConcatDataset."""
    if not isinstance(dataset, dict):
        return
    inner = dataset.get("dataset", dataset.get("datasets"))
    if inner is None:
        yield dataset
    for each in inner if isinstance(inner, list | tuple) else [inner]:
        yield from _leaves(each, scope)


def _shorten(leaf: dict[str, Any], scope: str | None) -> None:
    kind = DATASETS.get(leaf["type"], default_scope=scope)
    if isinstance(kind, type) and issubclass(kind, BaseDetDataset):
        leaf["indices"] = _EVALUATED


def _missing(leaf: dict[str, Any]) -> Path | None:
    root = Path(leaf.get("data_root") or ".")
    named = [leaf.get("ann_file"), leaf.get("proposal_file"), *(leaf.get("data_prefix") or {}).values()]
    paths = [root / name for name in named if isinstance(name, str) and name]
    return next((path for path in paths if not path.exists()), None)


def _draw(leaves: list[dict[str, Any]], folder: Path, scope: str | None) -> Path:
    """Let every leaf read drawn pictures, with its own classes."""
    annotations = tiny_coco(folder, num=_DRAWN, image_size=(160, 120))
    classes = _classes(leaves[0], scope)
    content = json.loads(annotations.read_text())
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    for annotation in content["annotations"]:
        annotation["category_id"] = (annotation["category_id"] - 1) % len(classes) + 1
    annotations.write_text(json.dumps(content))
    proposals = _propose(content, folder)
    for leaf in leaves:
        proposing = {"proposal_file": str(proposals)} if leaf.get("proposal_file") else {}
        kept: dict[str, Any] = {
            key: leaf[key] for key in ("pipeline", "test_mode", "_scope_", "backend_args") if key in leaf
        }
        leaf.clear()
        leaf.update(
            kept,
            type="datasets.CocoDataset",
            ann_file=str(annotations),
            data_root="",
            data_prefix={"img": str(folder / "images")},
            metainfo={"classes": classes},
            **proposing,
        )
    return annotations


def _propose(content: dict[str, Any], folder: Path) -> Path:
    """Proposals for drawn pictures, for those data sets that bring some: where the shapes are."""
    images: dict[str, dict[str, list[Any]]] = {}
    for image in content["images"]:
        own = [each["bbox"] for each in content["annotations"] if each["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in own]
        key = image_key(str(folder / "images" / image["file_name"]))
        images[key] = {"bboxes": boxes, "scores": [1.0] * len(boxes)}
    file = folder / "proposals.json"
    file.write_text(json.dumps({"images": images}))
    return file


def _classes(leaf: dict[str, Any], scope: str | None) -> tuple[str, ...]:
    classes = (leaf.get("metainfo") or {}).get("classes")
    if classes is None:
        classes = getattr(DATASETS.get(leaf["type"], default_scope=scope), "METAINFO", {}).get("classes")
    return tuple(classes or ("object",))


def _without_pretrained(part: Any) -> None:
    if isinstance(part, dict):
        inits = part.get("init_cfg")
        if isinstance(inits, dict) and inits.get("type") == "Pretrained":
            part["init_cfg"] = None
        if part.get("pretrained"):  # True, or a name of weights
            part["pretrained"] = False if part["pretrained"] is True else None
        for value in part.values():
            _without_pretrained(value)
    elif isinstance(part, list | tuple):
        for value in part:
            _without_pretrained(value)
