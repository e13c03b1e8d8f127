"""The model zoo of MMDetection 3.3.0: ``mmdet::retinanet/retinanet_r50_fpn_1x_coco``.

``zoo.json`` holds it: ``models``: config without its ending -> path of the weights below
:data:`~det_mmdet.addresses.HOST`, or their address; ``names``: other names of a model -> its config.
``tests/parity/published_weights.py`` reads it from the wheel's metafiles.
"""

import difflib
import json
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urljoin

from det_mmdet.addresses import HOST
from detcore.errors import CheckpointError
from detcore.plugins.checkpoints import PublishedModel


def published(name: str) -> PublishedModel:
    """Config and weights of a model, by its config (``mmdet::retinanet/retinanet_r50_fpn_1x_coco``, also with
    ``.py`` or without the folder) or by a name that MMDetection gives it (``mmdet::rtmdet-s``).

    Raises:
        CheckpointError: There is no such model, or nobody published weights for it.
    """
    wanted = name.partition("::")[2].removesuffix(".py").strip("/")
    read = _read()
    config = wanted if wanted in read["models"] else _by_name().get(wanted.rpartition("/")[2].lower())
    if config is None or ("/" in wanted and config.rpartition("/")[0] != wanted.rpartition("/")[0]):
        close = difflib.get_close_matches(wanted.rpartition("/")[2].lower(), _by_name(), 3)
        hint = f"; close names: {', '.join(f'mmdet::{each}' for each in close)}" if close else ""
        raise CheckpointError(f"{name}: MMDetection published no weights of that name{hint}")
    return PublishedModel(f"mmdet::{config}.py", [urljoin(HOST, read["models"][config])])


@cache
def _by_name() -> dict[str, str]:
    """Every name without a folder, in small letters -> config."""
    read = _read()
    named = {name.lower(): config for name, config in read["names"].items()}
    return named | {config.rpartition("/")[2].lower(): config for config in read["models"]}


@cache
def _read() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(files(__package__).joinpath("zoo.json").read_text(encoding="utf-8"))
    return read
