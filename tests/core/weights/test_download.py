"""Downloads from a server on this machine: what arrives is whole, or an error names every failure."""

import functools
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request

import pytest

from detcore.errors import CheckpointError
from detcore.weights import transfer as transfer_module
from detcore.weights.cache import cached_name, checksum_in, weights_folder
from detcore.weights.download import download
from detcore.weights.fetch import fetch
from detcore.weights.transfer import Patience

from .conftest import HASTY, PATIENT, named, send

CONTENT = bytes(range(256)) * 2000
NAME = named(CONTENT)


def get(server, *paths, patience=PATIENT):
    places = [f"{server.url}/{path}" for path in paths]
    return download(places[0], places, patience)


def test_a_file_is_downloaded_once_and_its_checksum_verified(server, cache):
    server.files[f"/a/{NAME}"] = CONTENT
    path = get(server, f"a/{NAME}")
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert get(server, f"a/{NAME}") == path
    assert server.asked == [(f"/a/{NAME}", None)]
    assert not list(cache.glob(".*.part"))


def test_a_file_with_another_checksum_is_refused_and_nothing_stays(server, cache):
    server.files[f"/{NAME}"] = b"another file"
    promise = rf"12 bytes have the SHA-256 .*promises {NAME[6:14]}"
    with pytest.raises(CheckpointError, match=promise) as caught:
        get(server, NAME)
    assert f"Put the file to {cache / NAME}" in str(caught.value)
    assert [p.name for p in cache.iterdir()] == [f".{NAME}.lock"]


@pytest.mark.parametrize(
    ("name", "checksum"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("shufflenetv2_x1-5666bf0f80.pth", "5666bf0f80"),
        ("x_20200130-99879813.pth", "99879813"),
        ("x-0676ba61.pth.tar", "0676ba61"),
        ("model-20230131.pth", None),
        ("latest.pth", None),
        ("swin_tiny_patch4_window7_224.pth", None),
    ],
)
def test_names_promise_checksums_but_dates_are_none(name, checksum):
    assert checksum_in(name) == checksum


def test_names_without_checksum_are_told_apart_by_their_addresses(server, cache):
    server.files |= {"/a/latest.pth": b"a", "/b/latest.pth": b"b"}
    assert get(server, "a/latest.pth").read_bytes() == b"a"
    assert get(server, "b/latest.pth").read_bytes() == b"b"
    assert get(server, "a/latest.pth").read_bytes() == b"a"
    assert len(server.asked) == 2
    for nameless in ("https://example.org/", "https://example.org/..", "https://example.org/a%5c..%5cb"):
        with pytest.raises(CheckpointError, match="names no file"):
            cached_name(nameless)
    assert cached_name("https://example.org/%2e%2e%2fx-0676ba61.pth") == "x-0676ba61.pth"


def test_the_next_mirror_is_asked_where_one_fails_and_every_failure_is_named(server, cache, caplog):
    server.answers[f"/sick/{NAME}"] = lambda handler: handler.send_error(503)
    server.files[f"/wrong/{NAME}"] = b"x"
    server.answers[f"/page/{NAME}"] = page
    places = [f"gone/{NAME}", f"sick/{NAME}", f"wrong/{NAME}", f"page/{NAME}"]
    with pytest.raises(CheckpointError) as caught:
        get(server, *places)
    text = str(caught.value)
    for part in ("gone", "404", "sick", "503", "wrong", "SHA-256", "page", "a web page instead", "MIRROR"):
        assert part in text
    asked = [path for path, _ in server.asked]
    assert [asked.count(f"/{place}") for place in places] == [1, PATIENT.tries, 1, 1]
    server.files[f"/good/{NAME}"] = CONTENT
    with caplog.at_level(logging.WARNING):
        assert get(server, *places, f"good/{NAME}").read_bytes() == CONTENT
    assert "404" in caplog.text


def page(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    handler.end_headers()
    handler.wfile.write(b"<html>This domain has expired</html>")


def cut_then_whole(content, cuts, handler):
    send(handler, content, cut=cuts.pop(0) if cuts else None)


def test_a_cut_connection_goes_on_where_it_was_cut(server):
    server.answers[f"/{NAME}"] = functools.partial(cut_then_whole, CONTENT, [100_000, 50_000])
    assert get(server, NAME).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_without_checksum_a_cut_download_begins_anew(server):
    server.answers["/latest.pth"] = functools.partial(cut_then_whole, CONTENT, [100_000])
    assert get(server, "latest.pth").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, None]


def test_a_server_that_cannot_continue_sends_all_again(server):
    cuts = [100_000, None]

    def ignore_range(handler):
        del handler.headers["Range"]
        send(handler, CONTENT, cut=cuts.pop(0))

    server.answers[f"/{NAME}"] = ignore_range
    assert get(server, NAME).read_bytes() == CONTENT


def test_a_connection_that_is_always_cut_gives_up_and_keeps_what_came_for_the_next_time(server, cache):
    server.answers[f"/{NAME}"] = lambda handler: send(handler, CONTENT, cut=1000)
    with pytest.raises(CheckpointError, match="the connection ended after 3000 of 512000 bytes"):
        get(server, NAME)
    assert not (cache / NAME).exists()
    server.answers.clear()
    server.files[f"/{NAME}"] = CONTENT
    assert get(server, NAME).read_bytes() == CONTENT
    assert server.asked[-1] == (f"/{NAME}", "bytes=3000-")


@pytest.mark.parametrize("rest", [b"of another file", CONTENT, CONTENT + b"and more"])
def test_what_an_earlier_process_left_behind_never_spoils_the_file(server, cache, rest):
    cache.mkdir(parents=True)
    (cache / f".{NAME}.part").write_bytes(rest)

    def answer(handler):
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(CONTENT):
            handler.send_error(416)
        else:
            send(handler, CONTENT)

    server.answers[f"/{NAME}"] = answer
    assert get(server, NAME).read_bytes() == CONTENT


def redirect(target):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_redirections_are_followed_to_http_only(server, tmp_path):
    server.files["/real"] = CONTENT
    server.answers[f"/moved/{NAME}"] = redirect("/real")
    assert get(server, f"moved/{NAME}").read_bytes() == CONTENT
    (tmp_path / "secret").write_bytes(b"secret")
    for number, target in enumerate(((tmp_path / "secret").as_uri(), "ftp://127.0.0.1/x", "data:,x")):
        server.answers[f"/{number}.pth"] = redirect(target)
        with pytest.raises(CheckpointError, match=r"not followed|not allowed"):
            get(server, f"{number}.pth")
    server.answers["/loop.pth"] = redirect("/loop.pth")
    with pytest.raises(CheckpointError, match="302"):
        get(server, "loop.pth")


def test_an_encrypted_address_never_leads_to_an_open_one():
    request = Request("https://example.org/a")
    redirects = transfer_module._Redirects()
    closed = []
    handle = type("Handle", (), {"close": lambda self: closed.append(1)})()
    with pytest.raises(transfer_module.TransferError, match="not followed"):
        redirects.redirect_request(request, handle, 302, "", {}, "http://example.org/a")
    assert closed
    followed = redirects.redirect_request(request, handle, 302, "Found", {}, "/b")
    assert followed.full_url == "https://example.org/b"


def test_a_server_that_falls_silent_is_given_up(server):
    server.answers["/slow.pth"] = lambda handler: send(handler, CONTENT, delay=1)
    with pytest.raises(CheckpointError, match="does not answer in time"):
        get(server, "slow.pth", patience=HASTY)


def test_a_trickle_is_too_slow(server):
    def trickle(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            transfer_module.time.sleep(0.02)

    server.answers["/slow.pth"] = trickle
    with pytest.raises(CheckpointError, match="it is too slow"):
        get(server, "slow.pth", patience=Patience(timeout=1, tries=1, window=0.2))


def test_unreachable_and_malformed_addresses_are_errors_not_tracebacks(cache):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused at once
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/a.pth"
        for address in (closed, "http://127.0.0.1:notaport/a.pth", "http:///a.pth", "http://[::1/a.pth"):
            with pytest.raises(CheckpointError, match=r"cannot be downloaded|is no address"):
                fetch(address, HASTY)


def test_messages_hide_passwords_and_signatures(server):
    address = server.url.replace("//", "//me:secret@") + "/x.pth?Signature=hidden"
    with pytest.raises(CheckpointError) as caught:
        download(address, [f"{server.url}/x.pth?Signature=hidden"], HASTY)
    assert "hidden" not in str(caught.value)
    assert transfer_module.shown(address) == f"{server.url}/x.pth"


def test_offline_no_socket_is_opened_and_the_error_says_where_the_file_goes(server, cache, monkeypatch):
    server.files[f"/{NAME}"] = CONTENT
    monkeypatch.setenv("DETCORE_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="DETCORE_OFFLINE is set") as caught:
        get(server, NAME)
    assert str(cache / NAME) in str(caught.value)
    assert not server.asked
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT)
    assert get(server, NAME) == cache / NAME
    (cache / NAME).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is damaged; put the file"):
        get(server, NAME)
    assert (cache / NAME).read_bytes() == b"damaged"


def test_a_damaged_file_in_the_cache_is_kept_aside_and_fetched_again(server, cache, caplog):
    server.files[f"/{NAME}"] = CONTENT
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(b"cut off")
    with caplog.at_level(logging.WARNING):
        assert get(server, NAME).read_bytes() == CONTENT
    assert (cache / f"{NAME}.damaged").read_bytes() == b"cut off"
    assert "kept as" in caplog.text


@pytest.mark.parametrize("folder", ["hub/checkpoints", "user/torch/checkpoints", "user/mmengine", "user/mim"])
def test_files_that_torch_or_mmengine_downloaded_are_used_where_their_checksum_fits(
    server, tmp_path, folder, caplog
):
    server.files[f"/{NAME}"] = CONTENT
    other = tmp_path / folder / NAME
    other.parent.mkdir(parents=True)
    other.write_bytes(CONTENT)
    assert get(server, NAME) == other
    assert not server.asked
    other.write_bytes(b"cut off")
    assert get(server, NAME).read_bytes() == CONTENT
    assert "is not used" in caplog.text
    assert other.read_bytes() == b"cut off"


def test_a_disk_that_refuses_is_an_error_that_says_so(server, cache, tmp_path, monkeypatch):
    server.files[f"/{NAME}"] = CONTENT
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"cannot write .*DETCORE_CACHE=FOLDER"):
        get(server, NAME)


def test_a_name_that_no_disk_can_hold_is_an_error_too(server):
    with pytest.raises(CheckpointError, match=r"cannot write .*too long"):
        get(server, "x" * 300 + ".pth")


def test_a_full_disk_leaves_nothing_behind(server, cache, monkeypatch):
    server.files[f"/{NAME}"] = CONTENT

    def full(*args):
        (cache / f".{NAME}.part").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detcore.weights.download.transfer", full)
    with pytest.raises(CheckpointError, match=r"No space left on device .*MiB free"):
        get(server, NAME)
    assert [p.name for p in cache.iterdir()] == [f".{NAME}.lock"]


def test_a_proxy_is_not_asked_for_this_machine(server, monkeypatch):
    server.files[f"/{NAME}"] = CONTENT
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert get(server, NAME).read_bytes() == CONTENT


def test_processes_that_want_one_file_at_once_download_it_once(server, cache):
    server.answers[f"/{NAME}"] = lambda handler: send(handler, CONTENT, delay=1)
    code = (
        "import sys; from detcore.weights.download import download;"
        f"print(download('{server.url}/{NAME}', ['{server.url}/{NAME}']))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert printed == [str(cache / NAME)] * 2
    assert len(server.asked) == 1


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DETCORE_CACHE", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "x" / "weights"
    monkeypatch.delenv("DETCORE_CACHE")
    assert weights_folder() == tmp_path / "user" / "detcore" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert weights_folder() == tmp_path / ".cache" / "detcore" / "weights"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(CheckpointError, match="set DETCORE_CACHE"):
        weights_folder()
