"""Hostile weight files are refused with a typed error that says why, and nothing in them runs."""

import importlib.util
import os
import pickle
import resource
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from detcore.engine.checkpoint import load_checkpoint, verify_checkpoint
from detcore.errors import CheckpointError
from detcore.weights import load_state
from detcore.weights.reader import read_weights_file, values


def sibling(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


assembler, _, hostile = [sibling(name) for name in ("weights_assembler", "hostile_pickles", "hostile_files")]
CASES = hostile.cases("CANARY")
GOOD = (
    assembler.archive(assembler.entry(assembler.tensor())),
    assembler.stream(assembler.entry(assembler.tensor(held=assembler.old_storage()))),
)
FORBIDDEN = (
    "os.", "subprocess.", "shutil.", "socket.", "ctypes.", "pty.", "exec", "compile", "import", "code.",
    "mmap.", "pickle.", "marshal.", "tempfile.", "webbrowser.", "urllib.", "builtins.input",
    "builtins.breakpoint",
)  # fmt: skip


class Watch:
    """What the process does besides opening one file to read; Python tells it, while a path is set."""

    def __init__(self):
        self.path = None
        self.seen = []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if self.path is None:
            return
        reads = event == "open" and str(arguments[0]) == str(self.path) and arguments[1] in ("rb", "r")
        if (event == "open" and not reads) or event.startswith(FORBIDDEN):
            self.seen.append((event, str(arguments)[:200]))


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    path = tmp_path_factory.mktemp("warm") / "a.pth"
    parts = assembler.call("mmengine.config.config.ConfigDict"), assembler.latin(b"x")
    known = assembler.archive(assembler.entry(assembler.items(*parts)))
    for data in (*GOOD, known):  # what torch imports late, and plugins, it imports here
        path.write_bytes(data)
        read_weights_file(path)
    return Watch()


def test_files_written_by_hand_are_read_where_they_are_not_hostile(tmp_path):
    for data in GOOD:
        (tmp_path / "a.pth").write_bytes(data)
        assert torch.equal(read_weights_file(tmp_path / "a.pth")["x"], torch.zeros(4))


@pytest.mark.parametrize("case", ["call posix.system", "call builtins.eval", "call subprocess.check_output"])
def test_the_calls_are_alive_python_itself_runs_them(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    data, _ = CASES[case]
    start = data.index(b"\x80\x02}")
    pickle.loads(data[start:])
    assert Path("CANARY").exists()


def test_the_watch_hears_what_a_file_would_do(tmp_path, watch):
    watch.path, watch.seen = tmp_path / "a.pth", []
    try:
        os.system("true")
        (tmp_path / "b").write_text("x")
        (tmp_path / "a.pth").write_bytes(b"x")
    finally:
        watch.path = None
    assert [event for event, _ in watch.seen] == ["os.system", "open", "open"]


def test_there_are_more_than_two_numbers_hostile_files():
    assert len(CASES) > 200


@pytest.mark.parametrize("case", list(CASES))
def test_a_hostile_file_is_refused_and_nothing_in_it_runs(tmp_path, monkeypatch, watch, case):
    monkeypatch.chdir(tmp_path)
    data, message = CASES[case]
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch.path, watch.seen = path, []
    try:
        with pytest.raises(CheckpointError, match=rf"a\.pth is (refused|damaged).*({message})") as caught:
            read_weights_file(path)
    finally:
        watch.path = None
    assert watch.seen == []
    assert [each.name for each in tmp_path.iterdir()] == ["a.pth"]
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 256 * 1024
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


def test_every_way_into_the_library_refuses_them_alike(tmp_path):
    path = tmp_path / "a.pth"
    for case in (
        "call os.system",
        "getattr then call",
        "two data.pkl",
        "stream that calls",
        "tensor of 400 GB",
    ):
        path.write_bytes(CASES[case][0])
        for read in (load_checkpoint, load_state, read_weights_file):
            with pytest.raises(CheckpointError, match=rf"a\.pth is (refused|damaged).*({CASES[case][1]})"):
                read(path)
        with (
            path.open("rb") as file,
            pytest.raises(CheckpointError, match=rf"a\.pth is .*({CASES[case][1]})"),
        ):
            read_weights_file(file)


def test_folders_pipes_sockets_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "link.pth").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s.pth"))
        kinds = {"pipe": "a pipe", "folder": "a folder", "link": "a device", "s": "a socket"}
        for stem, kind in kinds.items():
            path = tmp_path / f"{stem}.pth"
            for read in (read_weights_file, load_checkpoint, load_state):
                with pytest.raises(
                    CheckpointError, match=rf"cannot read .*{stem}\.pth: it is {kind}, not a file"
                ):
                    read(path)
            assert f"it is {kind}" in verify_checkpoint(path)


def repeated(dotted, made):
    """A list of 120 copies of something, each made by a call."""
    return b"]" + made + b"q\x01a(" + (assembler.name(dotted) + b"h\x01\x85R") * 120 + b"e"


def test_a_file_that_takes_too_many_steps_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "MAX_OPERATIONS", 10_000)
    path = tmp_path / "a.pth"
    numbers = b"(" + b"".join(map(assembler.number, range(200)))
    many = (
        b"]" + b"Na" * 6000,
        repeated("collections.deque", b"]" + numbers + b"e"),
        repeated("builtins.set", b"]" + numbers + b"e"),
        repeated("collections.Counter", b"}" + numbers + b"u"),
    )
    for pickled in many:
        path.write_bytes(assembler.archive(assembler.entry(pickled)))
        with pytest.raises(CheckpointError, match="it takes more than 10000 steps"):
            read_weights_file(path)


@pytest.mark.slow
def test_the_most_that_a_file_may_ask_for_takes_bounded_time_and_memory(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(
        assembler.archive(assembler.entry(b"]" + assembler.text("x") + b"q\x00a" + b"]a" * 1_499_000))
    )
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_weights_file(path)["x"]) == 1_499_001
    assert time.process_time() - start < 120
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1 << 20
