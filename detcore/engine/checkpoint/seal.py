"""The checksum that a checkpoint carries, as the comment at the end of its zip archive.

``torch.save`` writes a zip archive, whose last record ends with a comment of free length; every reader skips
it. Ours is ``detcore1 step=000000000012 crc=xxxxxxxx sha256=...``: the SHA-256 of every byte before it,
comment length included. ``step`` orders a folder's files without loading them, and has a checksum of its own,
so that a damaged number is noticed, too, before the file is read.
"""

import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO

SHA_LENGTH = 64
CHUNK = 1 << 20


@dataclass(frozen=True)
class Seal:
    """What a file says of itself.

    Attributes:
        step: Training steps done when it was saved.
        head: The comment without the checksum.
        sha256: 64 hexadecimal digits.
    """

    step: int
    head: bytes
    sha256: str


def seal_head(step: int) -> bytes:
    """The comment's first part."""
    progress = f"step={step:012d}"
    return f"detcore1 {progress} crc={zlib.crc32(progress.encode()):08x} sha256=".encode()


SEAL_LENGTH = len(seal_head(0)) + SHA_LENGTH
_PATTERN = re.compile(rb"detcore1 step=(\d{12}) crc=[0-9a-f]{8} sha256=([0-9a-f]{64})", re.DOTALL)


def read_seal(file: BinaryIO) -> Seal | None:
    """The seal at the end of a file; None if there is none, or it is not whole."""
    size = file.seek(0, 2)
    if size < SEAL_LENGTH + 2:
        return None
    file.seek(size - SEAL_LENGTH - 2)
    tail = file.read(SEAL_LENGTH + 2)
    match = _PATTERN.fullmatch(tail[2:])
    if match is None or tail[:2] != SEAL_LENGTH.to_bytes(2, "little"):
        return None
    step = int(match[1])
    head = tail[2:-SHA_LENGTH]
    return Seal(step, head, match[2].decode()) if head == seal_head(step) else None


def compute_sha256(file: BinaryIO) -> str:
    """SHA-256 of everything in a sealed file but the digest itself, which is its last 64 bytes."""
    left = file.seek(0, 2) - SHA_LENGTH
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


class SealingWriter:
    """Takes the bytes of an archive as ``torch.save`` writes them, and writes them on with the seal at the
    end.

    An exception inside torch's writer would end in a second one that hides the first, or worse; so the first
    is kept and what follows is dropped. :meth:`finish` raises it.

    Args:
        file: Open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: BaseException | None = None
        self.num_bytes = 0
        self._held = b""

    def write(self, data: bytes | memoryview) -> int:
        """Write on all but the last two bytes so far: they may turn out to be the length of the comment."""
        view = memoryview(data)
        if self.error is None:
            try:
                if len(view) >= 2:
                    self._put(self._held)
                    self._put(view[:-2])
                    self._held = bytes(view[-2:])
                else:
                    joined = self._held + bytes(view)
                    self._put(joined[:-2])
                    self._held = joined[-2:]
            except BaseException as error:
                self.error = error
        return len(view)

    def flush(self) -> None:
        """Nothing to do before :meth:`finish`."""

    def finish(self, step: int) -> None:
        """Write the seal.

        Raises:
            OSError: The first error that writing met.
        """
        if self.error is not None:
            raise self.error
        if self._held != b"\0\0":
            raise RuntimeError("torch.save wrote an archive that does not end with an empty comment")
        self._put(SEAL_LENGTH.to_bytes(2, "little"))
        self._put(seal_head(step))
        self.file.write(self.digest.hexdigest().encode())
        self.file.flush()

    def _put(self, data: bytes | memoryview) -> None:
        self.digest.update(data)
        self.file.write(data)
        self.num_bytes += len(data)
