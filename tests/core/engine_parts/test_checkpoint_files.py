"""Files of checkpoints: whole or refused, whatever happens while they are written or lie on the disk."""

import builtins
import collections
import contextlib
import errno
import io
import os
import pathlib
import pickle
import random
import resource
import signal
import subprocess
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from detcore.engine.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint, verify_checkpoint
from detcore.engine.checkpoint.files import MARK, temporary_path
from detcore.engine.checkpoint.seal import SEAL_LENGTH
from detcore.errors import CheckpointError


def trained_content(step, width=4):
    """A model after one step of Adam, with all that belongs to it."""
    torch.manual_seed(step)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(2, 3, 8, 8)).mean().backward()
    optimizer.step()
    return {
        "meta": {"iter": step, "epoch": 1},
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_what_was_saved_is_loaded_and_plain_torch_reads_it_too(tmp_path):
    path = tmp_path / "run" / "epoch_1.pth"
    content = trained_content(7)
    save_checkpoint(path, content)
    assert equal(load_checkpoint(path, require_checksum=True), content)
    assert equal(torch.load(path, weights_only=True)["state_dict"], content["state_dict"])
    assert load_checkpoint(path)["state_dict"]._metadata == content["state_dict"]._metadata
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"detcore1 step=000000000007 ")
    assert leftovers(path.parent) == []


@pytest.mark.parametrize("require", [True, False])
def test_200_flipped_bits_and_50_truncations_are_noticed_and_the_one_before_is_used(
    tmp_path, caplog, require
):
    folder = CheckpointFolder(tmp_path)
    before = folder.save("epoch_1.pth", trained_content(10))
    path = folder.save("epoch_2.pth", trained_content(20))
    whole = path.read_bytes()
    chance = random.Random(0)
    seal = [(len(whole) - SEAL_LENGTH) * 8 + chance.randrange(SEAL_LENGTH * 8) for _ in range(60)]
    flips = [*seal, *(chance.randrange(len(whole) * 8) for _ in range(140))]
    cuts = [*range(len(whole) - 20, len(whole)), *(chance.randrange(len(whole)) for _ in range(30))]
    damaged = []
    for bit in flips:
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << (bit % 8)
        damaged.append(bytes(broken))
    damaged += [whole[:cut] for cut in cuts]
    assert len(damaged) == 250
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"epoch_2\.pth"):
            load_checkpoint(path, require_checksum=require)
        caplog.clear()
        assert folder.newest_good() == before
        assert "passed over" in caplog.text
        assert "epoch_2.pth" in caplog.text
    path.write_bytes(whole)
    assert folder.newest_good() == path


def test_bytes_that_were_added_are_noticed(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, trained_content(1))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_foreign_files_are_read_but_not_where_only_ours_will_do(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"state_dict": {"conv1.weight": torch.ones(2)}}, path)
    assert load_checkpoint(path)["state_dict"]["conv1.weight"].sum() == 2
    with pytest.raises(CheckpointError, match=r"resnet\.pth has no whole checksum"):
        load_checkpoint(path, require_checksum=True)
    torch.save({"w": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert list(load_checkpoint(path)) == ["w"]


def test_a_file_of_ours_that_another_program_rewrote_says_so(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"x": 1})
    torch.save(torch.load(path, weights_only=True), path)
    with pytest.raises(CheckpointError, match=f"detcore wrote it.*{MARK}"):
        load_checkpoint(path)


class Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.canary),))


def test_files_that_would_run_code_are_refused_with_their_names(tmp_path):
    canary = tmp_path / "canary"
    things = {
        "calls what builtins.getattr makes": Evil(canary),
        "holds posix.system": os.system,
        "holds collections.UserDict": collections.UserDict(),
    }
    for name, thing in things.items():
        path = tmp_path / "a.pth"
        torch.save({"state_dict": {}, "thing": thing}, path)
        with pytest.raises(CheckpointError, match=rf"a\.pth is refused: it {name}") as caught:
            load_checkpoint(path)
        assert "weights_only" not in str(caught.value)
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(CheckpointError, match=r"plain\.pkl"):
        load_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" + bytes(100), bytes(5000)])
def test_files_that_are_no_checkpoint_are_named(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_checkpoint(path)
    assert "no whole checksum" in verify_checkpoint(path)


def test_missing_files_are_named_with_what_is_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*b\.pth; that folder holds no"):
        load_checkpoint(tmp_path / "b.pth")
    save_checkpoint(tmp_path / "a.pth", {})
    with pytest.raises(CheckpointError, match=r"in that folder: a\.pth"):
        load_checkpoint(tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="nor a folder"):
        load_checkpoint(tmp_path / "c" / "b.pth")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path)


def test_a_file_that_holds_no_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(tmp_path / "a.pth")


def test_numbers_of_numpy_parameters_and_other_dicts_become_plain(tmp_path):
    big = torch.arange(1000.0)
    shared = torch.ones(3)
    save_checkpoint(
        tmp_path / "a.pth",
        {
            "score": np.float64(0.5),
            "count": np.int64(3),
            "flag": np.bool_(True),
            "array": np.arange(3, dtype=np.float32),
            "parameter": nn.Parameter(torch.ones(2)),
            "counter": collections.Counter("aab"),
            "path": tmp_path,
            "view": big[:2],
            "one": shared,
            "two": shared,
            np.int64(4): (1, [None, 2.5, "x", b"y", True]),
            "set": {1},
        },
    )
    got = load_checkpoint(tmp_path / "a.pth")
    assert (got["score"], got["count"], got["flag"]) == (0.5, 3, True)
    assert {type(got[key]) for key in ("score", "count", "flag")} == {float, int, bool}
    assert equal(got["array"], torch.arange(3.0))
    assert type(got["parameter"]) is torch.Tensor
    assert got["counter"] == {"a": 2, "b": 1}
    assert type(got["counter"]) is dict
    assert got["path"] == str(tmp_path)
    assert got["view"].untyped_storage().nbytes() == 8
    assert got["one"].data_ptr() == got["two"].data_ptr()
    assert got[4] == (1, [None, 2.5, "x", b"y", True])
    assert got["set"] == {1}


def test_anything_else_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"x": 1})
    for content, place in (
        ({"hooks": [{"best": object()}]}, r"hooks\[0\]\.best.*builtins\.object"),
        ({"names": np.array(["a"])}, r"names.*ndarray"),
        ({"f": print}, "f.*builtin_function"),
        ({(1, object()): 1}, "tuple is not plain data"),
    ):
        with pytest.raises(CheckpointError, match=place):
            save_checkpoint(path, content)
    endless = {}
    endless["self"] = endless
    with pytest.raises(CheckpointError, match="within itself"):
        save_checkpoint(path, endless)
    assert load_checkpoint(path) == {"x": 1}
    assert leftovers(tmp_path) == []


def failure_of(path, content):
    try:
        save_checkpoint(path, content)
    except CheckpointError as error:
        return str(error)
    return None


class FailingFile(io.FileIO):
    """Fails at the n-th write."""

    left = 0
    code = errno.ENOSPC

    def write(self, data):
        FailingFile.left -= 1
        if FailingFile.left < 0:
            raise OSError(FailingFile.code, os.strerror(FailingFile.code))
        return super().write(data)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_when_any_write_fails_the_old_file_stays_and_nothing_is_left(tmp_path, monkeypatch, code):
    path = tmp_path / "epoch_1.pth"
    old, new = ({"meta": {"iter": i}, "w": torch.full((9000,), float(i)), "b": torch.ones(i)} for i in (1, 2))
    save_checkpoint(path, old)
    plain_open = pathlib.Path.open
    monkeypatch.setattr(
        pathlib.Path,
        "open",
        lambda self, mode="r", *a, **k: (
            FailingFile(self, "w") if mode == "wb" else plain_open(self, mode, *a, **k)
        ),
    )
    FailingFile.code = code
    for allowed in range(10_000):
        FailingFile.left = allowed
        failure = failure_of(path, new)
        if failure is None:
            break
        assert str(path) in failure
        assert os.strerror(code) in failure
        assert "MiB free" in failure
        assert equal(load_checkpoint(path, require_checksum=True), old)
        assert leftovers(tmp_path) == []
    assert allowed > 20
    assert equal(load_checkpoint(path, require_checksum=True), new)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_when_the_disk_fails_at_the_end_the_old_file_stays(tmp_path, monkeypatch, call):
    path = tmp_path / "epoch_1.pth"
    save_checkpoint(path, {"x": 1})

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*epoch_1\.pth: Input/output error"):
        save_checkpoint(path, {"x": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"x": 1}
    assert leftovers(tmp_path) == []


def test_an_interrupt_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"x": 1})

    def interrupt(self, data):
        raise KeyboardInterrupt

    monkeypatch.setattr("detcore.engine.checkpoint.seal.SealingWriter._put", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"x": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"x": 1}
    assert leftovers(tmp_path) == []


def test_a_file_larger_than_the_system_allows_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"x": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        with pytest.raises(CheckpointError, match="File too large"):
            save_checkpoint(path, {"weights": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert load_checkpoint(path) == {"x": 1}
    assert leftovers(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    try:
        save_checkpoint(disk / "a.pth", {"x": 1})
        with pytest.raises(CheckpointError, match=r"No space left on device \(0\.\d MiB free in .*disk\)"):
            save_checkpoint(disk / "a.pth", {"weights": torch.zeros(1 << 18)})
        assert load_checkpoint(disk / "a.pth") == {"x": 1}
        assert leftovers(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "a.pth", {})


def test_killed_while_saving_the_file_is_the_old_or_the_new_one(tmp_path):
    path = tmp_path / "epoch_1.pth"
    versions = [{"meta": {"iter": i}, "w": torch.full((200_000,), float(i))} for i in range(2)]
    save_checkpoint(path, versions[0])
    chance = random.Random(3)
    half_written = 0
    for _ in range(25):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                for i in range(10_000):
                    save_checkpoint(path, versions[i % 2])
            os._exit(1)
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        got = load_checkpoint(path, require_checksum=True)
        assert equal(got, versions[got["meta"]["iter"]])
        half_written += bool(leftovers(tmp_path))
        CheckpointFolder(tmp_path).remove_leftovers()
        assert leftovers(tmp_path) == []
    assert half_written > 0


def test_the_temporary_file_stands_in_the_same_folder(tmp_path):
    assert temporary_path(tmp_path / "a.pth").parent == tmp_path
    assert builtins.str(os.getpid()) in temporary_path(tmp_path / "a.pth").name
