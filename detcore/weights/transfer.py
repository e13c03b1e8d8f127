"""One transfer over http(s): bytes from an address appended to a file, hashed as they come."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from detcore import __version__

CHUNK = 1 << 16
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses of a server that may answer in a moment
Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there, and with how many there will be where that is known."""


@dataclass(frozen=True)
class Patience:
    """How long a transfer is waited for.

    Attributes:
        timeout: Seconds without a byte before a connection is given up.
        tries: How often one address is asked.
        pause: Seconds before the second try; each later one waits twice as long.
        least_rate: Bytes per second below which a server is too slow.
        window: Seconds over which the rate is taken.
    """

    timeout: float = 30.0
    tries: int = 4
    pause: float = 1.0
    least_rate: float = 1024.0
    window: float = 60.0


class TransferError(Exception):
    """What went wrong between here and a server.

    Args:
        reason: In words.
        again: Whether the same address may do better in a moment.
    """

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def transfer(address: str, part: Path, patience: Patience, progress: Progress) -> str:
    """Fetch what ``part`` lacks of the file behind an address.

    Args:
        address: Starts with ``http://`` or ``https://``.
        part: What an earlier try got, or a file that is not there yet. Grows; is begun anew where the server
            cannot continue.
        patience: When to give up.
        progress: Is told how far it is.

    Returns:
        The SHA-256 of the whole file, 64 hexadecimal digits.

    Raises:
        TransferError: The server or the way to it fails; what came so far is in ``part``.
        OSError: The disk fails.
    """
    digest = hashlib.sha256()
    have = _hash_file(part, digest)
    try:
        response = _open(address, have, patience)
    except _NothingLeft as error:
        part.unlink()  # it is longer than the file: of another one, or whole but never verified
        raise TransferError(str(error), again=True) from error
    with response:
        if have and response.status != http.client.PARTIAL_CONTENT:
            have, digest = 0, hashlib.sha256()
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        with part.open("ab" if have else "wb") as file:
            have = _copy(response, file, digest, (have, total), patience, progress)
    if total is not None and have != total:
        raise TransferError(f"the connection ended after {have} of {total} bytes", again=True)
    return digest.hexdigest()


def shown(address: str) -> str:
    """An address for messages: without password, and without the query, which may hold a signature."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _NothingLeft(TransferError):
    """The server has no bytes after those that are here."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http(s) only, and never from an encrypted address to an open one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        target = urljoin(req.full_url, newurl)
        allowed = ("https",) if req.full_url.startswith("https:") else ("https", "http")
        if urlsplit(target).scheme not in allowed:
            fp.close()
            raise TransferError(f"it redirects to {shown(target)}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, target)


def _open(address: str, have: int, patience: Patience) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"detcore/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    handlers: list[urllib.request.BaseHandler] = [_Redirects()]
    try:
        if _is_loopback(urlsplit(address).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy has another idea of what that is
        request = urllib.request.Request(quote(address, safe=":/?#[]@!$&'()*+,;=%~"), headers=headers)
        response = urllib.request.build_opener(*handlers).open(request, timeout=patience.timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, have) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        cut = isinstance(error, ConnectionResetError | http.client.RemoteDisconnected)
        raise TransferError(_reason(error), again=cut) from error
    kind = response.headers.get_content_type()
    if kind == "text/html":
        response.close()
        raise TransferError("it answers with a web page instead of the file")
    start = response.headers.get("Content-Range", "")
    if response.status == http.client.PARTIAL_CONTENT and not start.startswith(f"bytes {have}-"):
        response.close()
        raise TransferError(f"asked to go on at byte {have}, it sent {start or 'it knows not what'}")
    opened: http.client.HTTPResponse = response
    return opened


def _refusal(error: urllib.error.HTTPError, have: int) -> TransferError:
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
        return _NothingLeft("it has no more bytes than are here already")
    return TransferError(f"it answers {error.code} {error.reason}", again=error.code in _PASSING)


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    digest: Any,
    extent: tuple[int, int | None],
    patience: Patience,
    progress: Progress,
) -> int:
    """Copy until the end; the bytes that are there then. A cut loses nothing of what came before it."""
    have, total = extent
    began, before = time.monotonic(), have
    while True:
        try:
            chunk = response.read1(CHUNK)  # what one packet brought: a trickle must not hide in a large read
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransferError(f"{_reason(error)} after {have} bytes", again=have > extent[0]) from error
        if not chunk:
            return have
        file.write(chunk)
        digest.update(chunk)
        have += len(chunk)
        progress(have, total)
        passed = time.monotonic() - began
        if passed >= patience.window:
            if have - before < patience.least_rate * passed:
                raise TransferError(f"it is too slow: {have - before} bytes in {passed:.0f} s", again=False)
            began, before = time.monotonic(), have


def _hash_file(path: Path, digest: Any) -> int:
    """Bytes in the file, which go into the digest; 0 where there is none."""
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return 0
    return size


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
