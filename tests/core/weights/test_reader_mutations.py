"""Ten thousand changes of whole weight files: each is read as plain data or refused with a typed error.

Every change is made from a seed, and read in a child process, which tells where it stands: a crash within
torch, a hang, another exception, or anything that the child does besides reading ends it.
"""

import importlib.util
import io
import mmap
import os
import pickletools
import random
import signal
import struct
import sys
import traceback
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from detcore.errors import CheckpointError
from detcore.weights.reader import read_weights_file

SECONDS = 10  # for one file, on a busy machine
FORBIDDEN = (
    "os.", "subprocess.", "shutil.", "socket.", "ctypes.", "exec", "compile", "import", "pty.", "pickle.",
)  # fmt: skip
NUMBERS = (0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**62)
HOSTILE = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n",
)  # fmt: skip
OPCODES = bytes(ord(opcode.code) for opcode in pickletools.opcodes)


def sibling(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


openmmlab = sibling("openmmlab_files")


class Originals:
    """Whole files, and the parts of them that are changed."""

    def __init__(self):
        content = openmmlab.content_of_3x()
        self.archive = openmmlab.saved(content)
        self.stream = openmmlab.saved(content, _use_new_zipfile_serialization=False)
        with zipfile.ZipFile(io.BytesIO(self.archive)) as archive:
            self.records = {name: archive.read(name) for name in archive.namelist()}
        self.pickled_name = next(name for name in self.records if name.endswith("/data.pkl"))
        self.pickled = self.records[self.pickled_name]
        self.starts = [position for _, _, position in pickletools.genops(self.pickled)]
        self.directory = self.archive.index(b"PK\x01\x02")

    def with_pickle(self, pickled):
        """The archive with another pickle, and its checksum right."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, data in self.records.items():
                archive.writestr(name, pickled if name == self.pickled_name else data)
        return out.getvalue()


def flipped(chance, data, first=0):
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        changed[chance.randrange(first, len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def inserted(chance, data):
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(chance.choice((1, 2, 4, 30))) + data[at:]


def deleted(chance, data):
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.choice((1, 2, 4, 30)) :]


def spliced(chance, data):
    length = chance.choice((4, 20, 200))
    source, at = chance.randrange(len(data)), chance.randrange(len(data))
    return data[:at] + data[source : source + length] + data[at + chance.choice((0, length)) :]


def cut(chance, data):
    return data[: chance.randrange(len(data))]


def _pieces(chance, original):
    """Where one instruction of the pickle begins and ends."""
    index = chance.randrange(len(original.starts) - 1)
    return original.starts[index], original.starts[index + 1]


def other_opcode(chance, original):
    start, _ = _pieces(chance, original)
    return original.pickled[:start] + bytes([chance.choice(OPCODES)]) + original.pickled[start + 1 :]


def more_opcodes(chance, original):
    start, _ = _pieces(chance, original)
    added = bytes(chance.choice(OPCODES) for _ in range(chance.choice((1, 2, 5))))
    return original.pickled[:start] + added + original.pickled[start:]


def exchanged(chance, original):
    (a, b), (c, d) = sorted((_pieces(chance, original), _pieces(chance, original)))
    pickled = original.pickled
    return pickled[:a] + pickled[c:d] + pickled[b:c] + pickled[a:b] + pickled[d:] if b <= c else pickled[:a]


def other_number(chance, original):
    value = chance.choice(NUMBERS) * chance.choice((1, -1))
    start, end = _pieces(chance, original)
    long = b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    short = b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else long
    return original.pickled[:start] + short + original.pickled[end:]


def other_name(chance, original):
    names = [i for i in range(len(original.starts) - 1) if original.pickled[original.starts[i]] == ord("c")]
    index = chance.choice(names)
    start, end = original.starts[index], original.starts[index + 1]
    return original.pickled[:start] + chance.choice(HOSTILE) + original.pickled[end:]


ON_BYTES = (flipped, inserted, deleted, spliced, cut)
ON_INSTRUCTIONS = (other_opcode, more_opcodes, exchanged, other_number, other_name)


def mutation(index, original):
    """The file of this number: always the same."""
    chance = random.Random(index)
    kind = index % 10
    if kind < 4:
        return original.with_pickle(chance.choice(ON_INSTRUCTIONS)(chance, original))
    if kind < 6:
        return original.with_pickle(chance.choice(ON_BYTES)(chance, original.pickled))
    if kind < 8:
        return chance.choice(ON_BYTES)(chance, original.stream)
    if kind == 8:
        return chance.choice(ON_BYTES)(chance, original.archive)
    return flipped(chance, original.archive, original.directory)


def is_plain(value):
    if isinstance(value, dict):
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(is_plain, value))
    known = (bool, int, float, complex, str, bytes, bytearray, type(None), torch.Tensor, torch.dtype)
    return type(value) in known


class Notes:
    """What the child leaves for its parent: which file it reads since when, and how many were what."""

    FORM = struct.Struct("<3q8s400s")

    def __init__(self):
        self.memory = mmap.mmap(-1, self.FORM.size)

    def write(self, index, read, refused, what=b"", text=""):
        self.memory[:] = self.FORM.pack(index, read, refused, what, text.encode()[:400])

    def read(self):
        index, read, refused, what, text = self.FORM.unpack(self.memory[:])
        return index, read, refused, what.rstrip(b"\0").decode(), text.rstrip(b"\0").decode(errors="replace")


def child(path, first, last, original, notes):
    """Read these files; the exit code says how it went."""
    read = refused = 0
    watching = [False]

    def hear(event, arguments):
        other = event == "open" and (str(arguments[0]) != str(path) or arguments[1] not in ("rb", "r"))
        if watching[0] and (other or event.startswith(FORBIDDEN)):
            notes.write(index, read, refused, b"acted", f"{event} {arguments}")
            os._exit(3)

    index = first
    sys.addaudithook(hear)
    for index in range(first, last):
        path.write_bytes(mutation(index, original))
        notes.write(index, read, refused)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        watching[0] = True
        try:
            content = read_weights_file(path)
            watching[0] = False
            if not is_plain(content):
                notes.write(index, read, refused, b"mixed", str(type(content)))
                os._exit(4)
            read += 1
        except CheckpointError:
            refused += 1
        except BaseException:
            watching[0] = False
            notes.write(index, read, refused, b"leaked", traceback.format_exc()[-400:])
            os._exit(5)
        watching[0] = False
    notes.write(last, read, refused, b"done")
    os._exit(0)


def read_all(path, first, last, original):
    """Number of files that were read and refused; fails with the number of the one that did otherwise."""
    notes = Notes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        process = os.fork()
    if process == 0:
        child(path, first, last, original, notes)
    _, status = os.waitpid(process, 0)
    index, read, refused, what, text = notes.read()
    assert status == 0, f"file {index}: status {status}, {what}: {text}"
    assert what == "done"
    assert read + refused == last - first
    return read, refused


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    files = Originals()
    path = tmp_path_factory.mktemp("warm") / "a.pth"
    for data in (files.archive, files.stream, files.with_pickle(files.pickled)):  # late imports happen here
        path.write_bytes(data)
        assert is_plain(read_weights_file(path))
    return files


def test_a_thousand_changed_files_are_plain_data_or_typed_errors(tmp_path, original):
    read, refused = read_all(tmp_path / "a.pth", 0, 1000, original)
    assert read > 50  # changes reach the pickle machine, and some leave data
    assert refused > 300


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(1, 10))
def test_nine_thousand_more(tmp_path, original, thousand):
    read, refused = read_all(tmp_path / "a.pth", 1000 * thousand, 1000 * (thousand + 1), original)
    assert min(read, refused) > 50


def test_a_child_that_crashes_hangs_or_acts_is_noticed(tmp_path, original, monkeypatch):
    path = tmp_path / "a.pth"
    for act, message in (
        (lambda _: signal.raise_signal(signal.SIGKILL), f"status {signal.SIGKILL.value}"),
        (lambda _: os.system("true"), "acted: os.system"),
        (lambda _: {}["x"], "leaked"),
        (lambda _: object(), "mixed"),
    ):
        monkeypatch.setitem(globals(), "read_weights_file", act)
        with pytest.raises(AssertionError, match=f"file 0: .*{message}"):
            read_all(path, 0, 1, original)
    monkeypatch.setitem(globals(), "SECONDS", 0.2)
    monkeypatch.setitem(globals(), "read_weights_file", lambda _: signal.pause())
    with pytest.raises(AssertionError, match=f"file 0: status {signal.SIGALRM.value}"):
        read_all(path, 0, 1, original)
