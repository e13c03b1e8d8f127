"""Names of weights: the addresses that they mean, and the file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from detcore.errors import CheckpointError, PluginError
from detcore.plugins import host
from detcore.plugins.checkpoints import PublishedModel
from detcore.plugins.discovery import KNOWN_SCHEMES, pip_line
from detcore.registry.scopes import Reference
from detcore.weights.download import download
from detcore.weights.mirrors import with_mirrors
from detcore.weights.transfer import Patience

_CORE_SCHEMES = ("file", "http", "https", "modelzoo", "torchvision")
_SCHEME = re.compile(r"([A-Za-z][\w.+-]*)://")
_ZOO = re.compile(r"([A-Za-z_]\w*)::(.+)")


def fetch(source: str | Path, patience: Patience | None = None) -> Path:
    """The local file of weights: a path as it is, everything else downloaded unless it is in the cache.

    Args:
        source: A path; an http(s) address; ``torchvision://resnet50``, ``open-mmlab://detectron2/resnet50_caffe``
            and the schemes of other plugins; ``mmdet::retinanet_r50_fpn_1x_coco`` for a published model.
        patience: When to give up a download.

    Returns:
        The file. A path is not checked for existence.

    Raises:
        CheckpointError: The name is unknown, or the file cannot be downloaded.
    """
    addresses = addresses_of(source)
    if isinstance(addresses, Path):
        return addresses
    return download(addresses[0], with_mirrors(addresses), patience)


def addresses_of(source: str | Path) -> list[str] | Path:
    """Where the weights of that name lie: http(s) addresses, the preferred first, or a path. Asks no network.

    Raises:
        CheckpointError: The name is unknown.
    """
    name = str(source)
    found = _SCHEME.match(name)
    scheme = found[1].lower() if found else ""
    if scheme == "file":
        return Path(url2pathname(urlsplit(name).path))
    if scheme in ("http", "https"):
        try:
            urlsplit(name)
        except ValueError as error:
            raise CheckpointError(f"{name} is no address: {error}") from error
        return [name]
    if scheme in ("modelzoo", "torchvision"):
        return [_torchvision(name)]
    if scheme:
        addresses: list[str] = _scheme(scheme, name).load()(name)
        return addresses
    if _ZOO.fullmatch(name) and not Path(name).exists():
        return published_model(name).addresses
    return Path(name).expanduser()


def published_model(name: str) -> PublishedModel:
    """The config and the weights that a name like ``mmdet::retinanet_r50_fpn_1x_coco`` means.

    Args:
        name: With ``package::``, or without: then all plugins are asked.

    Raises:
        CheckpointError: Nobody published a model of that name.
    """
    zoos = {zoo: target for table in host().checkpoints() for zoo, target in table.zoos.items()}
    stated = _ZOO.fullmatch(name)
    if stated is None:
        failures = []
        for zoo, target in zoos.items():
            try:
                return _ask(target, f"{zoo}::{name}")
            except CheckpointError as error:
                failures.append(str(error))
        raise CheckpointError("; ".join(failures) or f"{name}: no plugin here knows published models")
    if stated[1] not in zoos:
        remedy = pip_line(stated[1])
        known = ", ".join(f"{zoo}::" for zoo in sorted(zoos)) or "no other"
        raise CheckpointError(
            f"{name}: nobody here knows the published models of {stated[1]}; "
            + (remedy or f"there is {known}")
        )
    return _ask(zoos[stated[1]], name)


def wanted_prefix(source: str | Path) -> str:
    """Which part of a file is meant by its name: ``"backbone."`` for classification models, mostly ``""``."""
    found = _SCHEME.match(str(source))
    if found is None or found[1].lower() in _CORE_SCHEMES:
        return ""
    scheme = found[1].lower()
    return next((table.prefixes[scheme] for table in host().checkpoints() if scheme in table.prefixes), "")


def _ask(target: Reference, name: str) -> PublishedModel:
    model: PublishedModel = target.load()(name)
    return model


def _scheme(scheme: str, name: str) -> Reference:
    schemes: dict[str, Reference] = {}
    for table in host().checkpoints():
        for each, target in table.schemes.items():
            if each in schemes:
                raise PluginError(f"{schemes[each].owner} and {target.owner} both resolve {each}://")
            schemes[each] = target
    if scheme in schemes:
        return schemes[scheme]
    if scheme in KNOWN_SCHEMES:
        raise CheckpointError(
            f"{name}: {scheme}:// is resolved by a plugin that is "
            f"{host().describe(KNOWN_SCHEMES[scheme])}; or download the file and give its path"
        )
    known = ", ".join(f"{each}://" for each in sorted({*_CORE_SCHEMES, *schemes}))
    raise CheckpointError(f"{name}: nobody here resolves {scheme}://; there are {known}")


def _torchvision(name: str) -> str:
    """The address of weights that torchvision publishes, ``resnet50`` or ``resnet50.IMAGENET1K_V2``."""
    import torchvision

    model, _, wanted = name.partition("://")[2].partition(".")
    try:
        weights = torchvision.models.get_model_weights(model)
    except ValueError as error:
        known = torchvision.models.list_models(module=torchvision.models)
        close = difflib.get_close_matches(model, known, 3) or known
        raise CheckpointError(
            f"{name}: torchvision has no model {model!r}; there are {', '.join(close)}"
        ) from error
    members = {key.lower(): member for key, member in weights.__members__.items()}
    # The plain name means the first weights that were published: what recipes of detectors were tuned with.
    key = wanted.lower() or ("imagenet1k_v1" if "imagenet1k_v1" in members else next(iter(members), ""))
    if key not in members:
        there = f"there are {', '.join(members)}" if members else "it publishes none"
        raise CheckpointError(f"{name}: {model} has no weights {wanted!r}; {there}")
    address: str = members[key].url
    return address
