"""Are the files there that a config names?"""
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detcore.engine.check.reading import datasets, dicts, entries, name_of_type, table
from detcore.engine.settings import RunConfig
from detcore.registry.problems import Problem
from detcore.registry.spelling import ranked

LOCAL = (None, "local", "disk")


def check_files(cfg: RunConfig, modes: Sequence[str]) -> Iterator[Problem]:
    """Annotations, proposals, folders of images, weights that are not there; addresses are not looked at."""
    for mode in modes:
        path = f"{mode}_dataloader.dataset"
        for place, dataset in datasets(table(cfg.get(f"{mode}_dataloader")).get("dataset"), path):
            yield from _check_dataset(dataset, place)
        if mode != "train":
            evaluator = cfg.get(f"{mode}_evaluator")
            for place, metric in dicts(entries(evaluator), f"{mode}_evaluator"):
                if _is_local(metric.get("ann_file")) and _reads_locally(metric):
                    where = place if not isinstance(evaluator, Mapping) else place.replace(".0", "", 1)
                    yield from _missing(f"{where}.ann_file", "", metric["ann_file"])
    if _is_local(cfg.get("load_from")):
        yield from _missing("load_from", "", cfg["load_from"])
    for place, inner in dicts(cfg.get("model"), "model"):
        if name_of_type(inner) == "Pretrained" and _is_local(inner.get("checkpoint")):
            yield from _missing(f"{place}.checkpoint", "", inner["checkpoint"])


def _check_dataset(dataset: Mapping[str, Any], path: str) -> Iterator[Problem]:
    root = dataset.get("data_root") or ""
    if not _reads_locally(dataset) or not isinstance(root, str) or "://" in root:
        return
    if root and not Path(root).exists():
        yield from _missing(f"{path}.data_root", "", root)
        return
    for name in ("ann_file", "proposal_file"):
        if _is_local(dataset.get(name)):
            yield from _missing(f"{path}.{name}", root, dataset[name])
    for name, folder in table(dataset.get("data_prefix")).items():
        if _is_local(folder):
            yield from _missing(f"{path}.data_prefix.{name}", root, folder)


def _reads_locally(cfg: Mapping[str, Any]) -> bool:
    return table(cfg.get("backend_args")).get("backend") in LOCAL


def _is_local(path: Any) -> bool:
    """Whether it is the path of a file here, and not an address or a name in some collection."""
    return isinstance(path, str) and bool(path) and "://" not in path and "::" not in path


def _missing(place: str, root: str, name: str) -> Iterator[Problem]:
    path = Path(os.path.join(root, name))  # noqa: PTH118  (as data sets join them)
    try:
        there = path.exists()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        text = f"{path} does not exist"
        yield Problem(place, text, _nearest(path), subject=f"file.{path.absolute()}")


def _nearest(path: Path) -> str:
    """What there is instead, in the nearest folder above that exists."""
    for folder, wanted in zip(path.parents, [path, *path.parents], strict=False):
        if folder.is_dir():
            names = sorted(each.name for each in folder.iterdir())[:2000]
            close = ranked(wanted.name, names)
            if close:
                return f"did you mean {str(folder / close[0][1])!r}?"
            return f"the folder {str(folder.absolute())!r} has no {wanted.name!r}"
    return ""
