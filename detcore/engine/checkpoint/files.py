"""Writing a checkpoint so that it is there whole or not at all, and reading it so that damage is noticed."""

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from detcore.engine.checkpoint.plain import to_plain
from detcore.engine.checkpoint.seal import SealingWriter, compute_sha256, read_seal
from detcore.errors import CheckpointError
from detcore.weights import fetch
from detcore.weights.files import load_file
from detcore.weights.reader import MARK, open_regular, read_weights_file, upgraded


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint: under another name first, onto the disk, then renamed.

    Whatever happens, the file of that name is afterwards either the old one or the new one, whole.

    Args:
        path: Usually ``*.pth``. ``torch.load(path, weights_only=True)`` reads it.
        content: Tensors and plain data; ``content['meta']['iter']``, where it is, is the file's age among
            others.

    Raises:
        CheckpointError: When the content holds something else, or the disk is full or broken.
    """
    path = Path(path)
    plain = {**to_plain(content), MARK: 1}
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _write(file, plain, _steps(content))
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error} ({_free_space(path.parent)});"
            " the file that was there before is as it was"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_checkpoint(
    path: str | Path, map_location: str | torch.device = "cpu", *, require_checksum: bool = False
) -> dict[str, Any]:
    """Read a checkpoint, as tensors and plain data; never runs code from it.

    A file that carries our checksum must agree with it. A file without one is read if it was written by
    another program, unless ``require_checksum`` is set: then a missing checksum is damage. What another
    program wrote in an older layout, a plugin may turn into today's.

    Args:
        path: A file of ``save_checkpoint`` or ``torch.save``, or another name of weights (see ``fetch``).
        map_location: Device of the tensors.
        require_checksum: Set where only a file of our own will do, as for resuming a run from its folder.

    Raises:
        CheckpointError: When there is no such file, it is damaged, or it holds more than tensors and plain
            data.
    """
    path = fetch(path)
    if path.suffix == ".safetensors":
        return dict(load_file(path, str(map_location)))
    try:
        with open_regular(path) as file:
            sealed = _check_seal(file, path, require_checksum)
            content = read_weights_file(file, map_location, verified=sealed)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}{_neighbours(path)}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict with weights")
    if MARK not in content:
        return dict(upgraded(content))
    del content[MARK]
    if not sealed:
        raise CheckpointError(
            f"{path} is damaged: detcore wrote it, but the checksum at its end is missing or broken"
            f" (if another program rewrote it on purpose, let it drop the key '{MARK}')"
        )
    return content


def verify_checkpoint(path: str | Path) -> str | None:
    """What is wrong with a checkpoint of ours, in words; None if it is whole. Reads all, loads nothing."""
    try:
        with open_regular(Path(path)) as file:
            _check_seal(file, Path(path), True)
    except OSError as error:
        return f"cannot read {path}: {error.strerror or error}"
    except CheckpointError as error:
        return str(error)
    return None


def temporary_path(path: Path) -> Path:
    """Where this process writes what is to become ``path``: in its folder, hidden, and known as its own."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def write_text(path: Path, text: str) -> None:
    """Replace a small text file in one move."""
    temporary = temporary_path(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error} ({_free_space(path.parent)})"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write(file: BinaryIO, plain: dict[str, Any], step: int) -> None:
    writer = SealingWriter(file)
    try:
        torch.save(plain, cast(IO[bytes], writer))  # it needs no more than write and flush
    except Exception:
        if writer.error is None:
            raise
    writer.finish(step)
    os.fsync(file.fileno())


def _check_seal(file: BinaryIO, path: Path, required: bool) -> bool:
    """Whether the file carries a checksum, which is right then."""
    seal = read_seal(file)
    if seal is None:
        if required:
            raise CheckpointError(
                f"{path} has no whole checksum at its end: it is cut off or damaged,"
                " or was not written by detcore"
            )
        return False
    if compute_sha256(file) != seal.sha256:
        raise CheckpointError(f"{path} is damaged: its bytes do not agree with the checksum at its end")
    return True


def _steps(content: Mapping[str, Any]) -> int:
    meta = content.get("meta")
    steps = meta.get("iter", 0) if isinstance(meta, Mapping) else 0
    return steps if isinstance(steps, int) and 0 <= steps < 10**12 else 0


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a loss of power."""
    if os.name == "nt":
        return  # folders cannot be opened there; the rename is journaled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "free space unknown"
    return f"{free / 2**20:.1f} MiB free in {folder}"


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent})"
    names = sorted(p.name for p in path.parent.glob("*.pth"))
    return f"; in that folder: {', '.join(names[-8:])}" if names else "; that folder holds no .pth file"
