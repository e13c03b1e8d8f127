"""What ``detcore download`` does for one name."""

import filecmp
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detcore.config import Config
from detcore.errors import CheckpointError, ConfigError
from detcore.plugins.checkpoints import PublishedModel
from detcore.weights import fetch
from detcore.weights.fetch import addresses_of, published_model

logger = logging.getLogger(__name__)


def download(name: str, dest: str | None) -> Iterator[Path]:
    """Fetch what the name means.

    Args:
        name: Of weights, or of a published model.
        dest: Folder for copies of weights and config; None leaves the weights in the cache.

    Yields:
        The files that are there now.

    Raises:
        CheckpointError: The name is unknown, the file cannot be fetched, or DIR has another file of its name.
    """
    model = published_model(name) if "://" not in name else None
    addresses = model.addresses if model else addresses_of(name)
    if isinstance(addresses, Path):
        raise CheckpointError(f"{name} is a file already")
    path = fetch(addresses[0])
    if dest is None:
        yield path
        return
    folder = Path(dest).expanduser()
    target = folder / unquote(urlsplit(addresses[0]).path).rpartition("/")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(path, target)
        yield target
        if model is not None:
            yield from _write_config(model, folder)
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {error.strerror or error}") from error


def _write_config(model: PublishedModel, folder: Path) -> Iterator[Path]:
    """The config with all that it inherits, in one file."""
    try:
        text = Config.fromfile(model.config).pretty_text
    except ConfigError as error:
        logger.warning("the config is not here: %s", error)
        return
    target = folder / model.config.rpartition("/")[2]
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    try:
        _copy(temporary, target)
    finally:
        temporary.unlink()
    yield target


def _copy(source: Path, target: Path) -> None:
    """Copy; a file of that name that says something else is the user's, and stays."""
    if target.exists():
        if not filecmp.cmp(source, target, shallow=False):
            raise CheckpointError(
                f"{target} is there and has another content; move it away, or name another DIR"
            )
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
