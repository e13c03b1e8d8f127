"""Files behind addresses, and the names under which torchvision publishes its own."""
from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detcore.errors import CheckpointError
from detcore.weights.files import load_file

logger = logging.getLogger(__name__)
_HASHED_NAME = re.compile(r"-([a-f0-9]{8,})\.")


def load_url(url: str, map_location: str) -> Mapping[str, Any]:
    """The content of a file behind an address; downloaded once, into torch's cache.

    A hash in the file's name (``resnet50-0676ba61.pth``) is checked.

    Raises:
        CheckpointError: It cannot be downloaded, or ``DETCORE_OFFLINE`` forbids it.
    """
    name = url.rpartition("/")[2].partition("?")[0].partition("#")[0]
    hashed = _HASHED_NAME.search(name)
    if not name.strip("."):
        raise CheckpointError(f"{url} names no file")
    if hashed is None:  # another address may end in the same name, and must not get this one's file
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}_{name}"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not cached.is_file():
        if os.environ.get("DETCORE_OFFLINE", "").lower() not in ("", "0", "false"):
            raise CheckpointError(f"DETCORE_OFFLINE is set and {url} is not here; put it to {cached}")
        _download(url, cached, hashed.group(1) if hashed else None)
    return load_file(cached, map_location)


def _download(url: str, cached: Path, hash_prefix: str | None) -> None:
    logger.info("downloading %s to %s", url, cached)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), hash_prefix, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, ValueError) as error:  # no network; a wrong hash; a malformed address
        raise CheckpointError(
            f"{url} cannot be downloaded ({error}); put the file to {cached}, or give a local path"
        ) from error


def load_torchvision(name: str, map_location: str) -> Mapping[str, Any]:
    """Weights that torchvision publishes: ``torchvision://resnet50``, ``torchvision://resnet50.IMAGENET1K_V2``.

    Raises:
        CheckpointError: torchvision has no such model or weights, or they cannot be downloaded.
    """
    import torchvision

    model, _, wanted = name.partition("://")[2].partition(".")
    try:
        weights = torchvision.models.get_model_weights(model)
    except ValueError as error:
        known = ", ".join(torchvision.models.list_models(module=torchvision.models))
        raise CheckpointError(f"{name}: torchvision has no model {model!r}; there are {known}") from error
    members = {member.name.lower(): member for member in weights}
    # The plain name means the first weights that were published: what recipes of detectors were tuned with.
    key = wanted.lower() or ("imagenet1k_v1" if "imagenet1k_v1" in members else next(iter(members)))
    if key not in members:
        raise CheckpointError(f"{name}: {model} has no weights {wanted!r}; there are {', '.join(members)}")
    return load_url(members[key].url, map_location)
