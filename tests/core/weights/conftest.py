"""A server on the loopback address, whose answers each test decides, and an empty cache."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from detcore.weights.transfer import Patience

PATIENT = Patience(timeout=5, tries=3, pause=0.01)
HASTY = Patience(timeout=0.3, tries=2, pause=0.01)


def named(content: bytes, stem: str = "model") -> str:
    """A file name with the checksum of its content, as OpenMMLab and torchvision write it."""
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth"


class Server:
    """Serves ``files`` (path -> bytes) or calls ``answers`` (path -> function of the request handler)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str | None]] = []  # path and Range of each request
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("Range")))
                answer = server.answers.get(self.path)
                if answer is not None:
                    with contextlib.suppress(ConnectionError):  # the client has given up
                        answer(self)
                elif self.path in server.files:
                    send(self, server.files[self.path])
                else:
                    self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"


Handler = BaseHTTPRequestHandler


def send(handler: Handler, content: bytes, *, cut: int | None = None, delay: float = 0) -> None:
    """Answer with a file, from where the request asks; ``cut`` closes the connection after so many bytes."""
    wanted = handler.headers.get("Range")
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
    handler.send_response(206 if wanted else 200)
    if wanted:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    handler.wfile.flush()
    time.sleep(delay)
    handler.wfile.write(content[start : None if cut is None else start + cut])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of detcore, torch and mmengine; no test sees the user's."""
    for name in ("DETCORE_OFFLINE", "DETCORE_WEIGHTS_MIRROR", "MMENGINE_HOME", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "cache" / "weights"
