"""Addresses of the weights that OpenMMLab's names mean: ``open-mmlab://detectron2/resnet50_caffe``.

``addresses.json`` holds them: scheme -> name -> path below :data:`HOST`; ``deprecated``: old -> new name.
``tests/parity/published_weights.py`` reads it from mmengine 0.10.7.
"""

import difflib
import json
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urljoin

from detcore.errors import CheckpointError

HOST = "https://download.openmmlab.com/"
# The same files at other addresses of OpenMMLab: its bucket, and the one it used until August 2020.
MIRRORS = (
    HOST,
    "https://openmmlab.oss-cn-hangzhou.aliyuncs.com/",
    "https://openmmlab.oss-accelerate.aliyuncs.com/",
    "https://open-mmlab.s3.ap-northeast-2.amazonaws.com/",
    "https://s3.ap-northeast-2.amazonaws.com/open-mmlab/",
)


def openmmlab(name: str) -> list[str]:
    """Addresses of ``open-mmlab://...`` (and ``openmmlab://``): converted and pretrained backbones.

    Raises:
        CheckpointError: There is no such name.
    """
    model = name.partition("://")[2]
    return _look_up("openmmlab", _read()["deprecated"].get(model, model), name)


def mmcls(name: str) -> list[str]:
    """Addresses of ``mmcls://...``: models of MMClassification, of which the backbone is meant.

    Raises:
        CheckpointError: There is no such name.
    """
    return _look_up("mmcls", name.partition("://")[2], name)


def jhu(name: str) -> list[str]:
    """Addresses of ``jhu://...``, which is ``open-mmlab://jhu/...``: backbones with group normalisation.

    Raises:
        CheckpointError: There is no such name.
    """
    return _look_up("openmmlab", f"jhu/{name.partition('://')[2].removeprefix('jhu/')}", name)


def _look_up(table: str, model: str, name: str) -> list[str]:
    known = _read()
    if model in known[table]:
        return [urljoin(HOST, known[table][model])]
    close = [f"open-mmlab://{each}" for each in difflib.get_close_matches(model, known["openmmlab"], 3)]
    close += [f"mmcls://{each}" for each in difflib.get_close_matches(model, known["mmcls"], 1, 0.9)]
    hint = f"close names: {', '.join(close)}" if close else f"there are {', '.join(sorted(known[table]))}"
    raise CheckpointError(f"{name}: no weights of that name were published; {hint} (see also torchvision://)")


@cache
def _read() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(
        files(__package__).joinpath("addresses.json").read_text(encoding="utf-8")
    )
    return read
