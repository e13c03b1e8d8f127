"""One reader for weight files: what it gives for whole files of every format."""

import argparse
import collections
import datetime
import importlib.util
import io
import pathlib
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detcore.engine.checkpoint import load_checkpoint, save_checkpoint
from detcore.errors import CheckpointError
from detcore.plugins import PluginHost, replace_host
from detcore.plugins.checkpoints import CheckpointTable
from detcore.plugins.discovery import Installed
from detcore.weights import load_state
from detcore.weights.reader import MARK, StandIn, read_weights_file, upgraded

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])


def sibling(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


openmmlab = sibling("openmmlab_files")


@pytest.fixture
def read(tmp_path):
    """Save, and read back."""

    def save_and_read(content, zipped=True, **options):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        return read_weights_file(tmp_path / "a.pth", **options)

    return save_and_read


@FORMATS
def test_state_dicts_come_back_as_they_were_with_their_versions(read, zipped):
    state = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict()
    got = read({"state_dict": state, "epoch": 3}, zipped)["state_dict"]
    assert type(got) is collections.OrderedDict
    assert got._metadata == state._metadata
    assert list(got) == list(state)
    assert all(torch.equal(got[key], state[key]) for key in state)


@FORMATS
def test_tensors_of_every_kind_come_back(read, zipped):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "view": base[:, 1], "transposed": base.transpose(0, 2), "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2),
        "expanded": torch.ones(1).expand(50), "half": base.half(), "bfloat": base.bfloat16(),
        "bool": base > 3,
        "complex": torch.ones(2, dtype=torch.complex64).conj(), "bytes": torch.arange(5, dtype=torch.uint8),
        "parameter": nn.Parameter(base),
    }  # fmt: skip
    if zipped:
        tensors["wide"] = torch.ones(2, dtype=torch.uint64)
        tensors["eight"] = torch.ones(2).to(torch.float8_e4m3fn)
    got = read(tensors, zipped)
    for name, tensor in tensors.items():
        assert type(got[name]) is torch.Tensor
        assert got[name].dtype == tensor.dtype
        assert got[name].stride() == tensor.stride()
        assert torch.equal(got[name].to(torch.complex64), tensor.to(torch.complex64))
        assert not got[name].requires_grad


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_sparse_tensors_come_back(read):
    assert torch.equal(read({"x": torch.eye(3).to_sparse()})["x"].to_dense(), torch.eye(3))


@FORMATS
def test_tensors_that_share_memory_go_on_sharing_it(read, zipped):
    base = torch.zeros(10)
    got = read({"base": base, "view": base[2:4], "again": base, "list": [base]}, zipped)
    got["base"][2] = 7
    assert got["view"].tolist() == [7, 0]
    assert got["again"] is got["base"]
    assert got["list"][0] is got["base"]


@FORMATS
def test_the_place_of_tensors_is_the_one_asked_for(read, zipped):
    assert read({"x": torch.ones(2)}, zipped, map_location="meta")["x"].device.type == "meta"
    assert read({"x": torch.ones(2)}, zipped, map_location=torch.device("cpu"))["x"].device.type == "cpu"
    with pytest.raises(CheckpointError, match=r"torch cannot read .*a\.pth to 'nowhere'"):
        read({"x": torch.ones(2)}, zipped, map_location="nowhere")


@FORMATS
def test_values_of_numpy_become_numbers_text_and_tensors(read, zipped):
    got = read(
        {
            "float": np.float64(2.5),
            "int": np.int32(-3),
            "bool": np.bool_(True),
            "complex": np.complex64(1j),
            "text": np.str_("hé"),
            "bytes": np.bytes_(b"ab"),
            "big": np.arange(4, dtype=">i4").reshape(2, 2),
            "column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "empty": np.zeros((0, 4), np.float32),
            "names": np.array(["a", "bc"]),
            "scalar": np.array(1.5),
            np.int64(7): "key",
        },
        zipped,
    )
    assert (got["float"], got["int"], got["bool"], got["complex"]) == (2.5, -3, True, 1j)
    assert [type(got[key]) for key in ("float", "int", "bool", "complex")] == [float, int, bool, complex]
    assert (got["text"], got["bytes"], got["names"], got[7]) == ("hé", b"ab", ["a", "bc"], "key")
    assert got["big"].tolist() == [[0, 1], [2, 3]]
    assert got["big"].dtype == torch.int32
    assert got["column"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert got["empty"].shape == (0, 4)
    assert got["scalar"].item() == 1.5


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@FORMATS
def test_numpy_is_known_under_its_old_and_its_new_module(tmp_path, zipped, module):
    out = io.BytesIO()
    torch.save({"a": np.arange(3), "b": np.float32(0.5)}, out, _use_new_zipfile_serialization=zipped)
    data = out.getvalue()
    assert data.count(b"numpy._core.multiarray\n") + data.count(b"numpy.core.multiarray\n") == 2
    if zipped:
        files = sibling("weights_assembler")
        start = data.index(b"\x80\x02}")
        pickled = data[start : data.index(b".PK", start) + 1] if b".PK" in data[start:] else data[start:]
        pickled = pickled[: pickled.rindex(b"u.") + 2]
        data = files.archive(_under(pickled, module))
    else:
        data = _under(data, module)
    (tmp_path / "a.pth").write_bytes(data)
    got = read_weights_file(tmp_path / "a.pth")
    assert got["a"].tolist() == [0, 1, 2]
    assert got["b"] == 0.5


def _under(pickled, module):
    for before in (b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"):
        pickled = pickled.replace(b"c" + before, b"c" + module.encode() + b"\n")
    return pickled


@FORMATS
def test_other_values_become_plain_data(read, zipped):
    zone = datetime.timezone(datetime.timedelta(hours=2))
    values = {
        "deque": (collections.deque([1, 2], maxlen=5), [1, 2]),
        "default": (collections.defaultdict(list, {"a": [1]}), {"a": [1]}),
        "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
        "ordered": (collections.OrderedDict(a=1), {"a": 1}),
        "set": ({1, "a"}, {1, "a"}),
        "frozen": (frozenset({2}), {2}),
        "complex": (1 + 2j, 1 + 2j),
        "bytes": (b"\x00\xff", b"\x00\xff"),
        "none": (b"", b""),
        "array": (bytearray(b"ab"), bytearray(b"ab")),
        "slice": (slice(1, 2), (1, 2, None)),
        "path": (pathlib.PurePosixPath("/a/b.c"), "/a/b.c"),
        "relative": (pathlib.PurePosixPath("a") / "b", "a/b"),
        "moment": (datetime.datetime(2024, 5, 17, 9, 30, tzinfo=zone), "2024-05-17T09:30:00+02:00"),
        "day": (datetime.date(2024, 5, 17), "2024-05-17"),
        "time": (datetime.time(9, 30), "09:30:00"),
        "span": (datetime.timedelta(minutes=1), 60.0),
        "options": (argparse.Namespace(lr=0.1, steps=[1]), {"lr": 0.1, "steps": [1]}),
        "device": (torch.device("cuda", 1), "cuda:1"),
        "dtype": (torch.float16, torch.float16),
        "size": (torch.Size([1, 2]), torch.Size([1, 2])),
        "long": (-(2**300), -(2**300)),
        "text": ("é\ud800", "é\ud800"),
        "key": ({(1, "a"): None, None: 1, 2.5: True}, {(1, "a"): None, None: 1, 2.5: True}),
    }
    got = read({key: value for key, (value, _) in values.items()}, zipped)
    for key, (_, expected) in values.items():
        assert got[key] == expected, key
        assert type(got[key]) is type(expected), key


@pytest.mark.parametrize("make", ["content_of_3x", "content_of_2x"])
@FORMATS
def test_files_of_mmdetection_are_read_without_openmmlab(tmp_path, make, zipped):
    data = openmmlab.saved(getattr(openmmlab, make)(), _use_new_zipfile_serialization=zipped)
    (tmp_path / "a.pth").write_bytes(data)
    content = load_checkpoint(tmp_path / "a.pth")
    state, optimizer = openmmlab.trained()
    assert all(torch.equal(content["state_dict"][key], state[key]) for key in state)
    assert torch.equal(
        content["optimizer"]["state"][0]["momentum_buffer"], optimizer["state"][0]["momentum_buffer"]
    )
    assert content["meta"]["hook_msgs"]["best_score"] == 0.25
    assert list(load_state(tmp_path / "a.pth")) == list(state)
    assert not {name for name in sys.modules if name.startswith(("mmengine.", "mmcv."))}
    save_checkpoint(tmp_path / "b.pth", content)  # all of it is plain
    assert list(load_checkpoint(tmp_path / "b.pth")) == list(content)


def test_settings_of_yacs_become_dicts(tmp_path):
    files = sibling("weights_assembler")
    settings = files.name("yacs.config.CfgNode") + b")\x81" + files.text("lr") + b"K\x01s"
    frozen = settings + files.plain({"__immutable__": False, "items": None}) + b"b"
    (tmp_path / "a.pth").write_bytes(files.archive(files.entry(frozen)))
    assert read_weights_file(tmp_path / "a.pth") == {"x": {"lr": 1}}


def test_files_of_torch_before_1_6_may_refer_to_parts_of_storages(tmp_path):
    files = sibling("weights_assembler")
    part = files.items(files.text("part"), files.number(1), files.number(2))
    held = files.old_storage(view=part)
    floats = struct.pack("<q4f", 4, 1, 2, 3, 4)
    data = files.stream(files.entry(files.tensor((2,), held=held)), data=floats)
    (tmp_path / "a.pth").write_bytes(data)
    assert read_weights_file(tmp_path / "a.pth")["x"].tolist() == [2, 3]


def test_files_without_checksums_are_read_and_others_are_compared(tmp_path):
    options = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.ones(100)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(options)
    assert read_weights_file(tmp_path / "a.pth")["x"].sum() == 100
    torch.save({"x": torch.ones(100)}, tmp_path / "b.pth")
    data = (tmp_path / "b.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(data.replace(struct.pack("<f", 1), struct.pack("<f", 2), 1))
    with pytest.raises(CheckpointError, match="do not agree with their checksum"):
        read_weights_file(tmp_path / "b.pth")


@pytest.fixture
def without_plugins():
    before = replace_host(PluginHost({"DETCORE_DISABLE_PLUGINS": "mmdet"}))
    yield
    replace_host(before)


def test_a_class_that_a_plugin_would_know_is_named_with_the_plugin(tmp_path, without_plugins):
    (tmp_path / "a.pth").write_bytes(openmmlab.saved({"x": openmmlab.HistoryBuffer([1.0])}))
    message = r"it holds mmengine\.logging\.history_buffer\.HistoryBuffer, .*mmengine is blocked: disabled by"
    with pytest.raises(CheckpointError, match=message):
        read_weights_file(tmp_path / "a.pth")


def test_a_class_of_a_package_whose_plugin_is_not_installed_names_its_pip_line(tmp_path):
    before = replace_host(PluginHost({}, find=lambda: Installed({})))
    try:
        (tmp_path / "a.pth").write_bytes(openmmlab.saved({"x": openmmlab.Dict(a=1)}))
        with pytest.raises(CheckpointError, match=r"addict\.addict\.Dict.* pip install det-mmdet"):
            read_weights_file(tmp_path / "a.pth")
    finally:
        replace_host(before)


class Impostor:
    """Made by torch itself if it can be."""

    made = 0

    def __init__(self, *arguments):
        Impostor.made += 1

    def __setstate__(self, state):
        Impostor.made += 1


def test_what_this_process_told_torch_makes_no_difference_and_stays_as_it_was(tmp_path):
    full = "mmengine.logging.history_buffer.HistoryBuffer"
    (tmp_path / "a.pth").write_bytes(openmmlab.saved({"x": openmmlab.HistoryBuffer([1.0])}))
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([(Impostor, full), Impostor])
    try:
        assert read_weights_file(tmp_path / "a.pth")["x"]["log_history"].tolist() == [1.0]
        assert Impostor.made == 0
        assert set(torch.serialization.get_safe_globals()) == {*before, (Impostor, full), Impostor}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_torch_forgets_the_stand_ins_after_every_load(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    (tmp_path / "a.pth").write_bytes(openmmlab.saved({"x": openmmlab.HistoryBuffer([1.0])}))
    read_weights_file(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match="HistoryBuffer was not an allowed global"):
        torch.load(tmp_path / "a.pth", weights_only=True)


def test_several_threads_read_at_once(tmp_path):
    (tmp_path / "a.pth").write_bytes(openmmlab.saved(openmmlab.content_of_3x()))
    failures = []

    def read_often():
        try:
            for _ in range(10):
                assert len(read_weights_file(tmp_path / "a.pth")) == 6
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_stand_in_keeps_what_it_is_given_and_does_nothing():
    made = StandIn(1, "a")
    made.__setstate__({"__class__": int, "plain": None})
    assert type(made) is StandIn
    assert (made.arguments, made.state) == ((1, "a"), {"__class__": int, "plain": None})
    with pytest.raises(CheckpointError, match="a StandIn is neither a tensor nor plain data"):
        made.plain()
    with pytest.raises(AttributeError):
        made.other = 1


def test_content_that_detcore_wrote_is_not_upgraded():
    content = {MARK: 1, "x": 1}
    assert upgraded(content) is content
    assert upgraded([1]) == [1]


def test_content_of_others_goes_through_the_plugins_upgrades(tmp_path, monkeypatch):
    table = CheckpointTable("test", "det-test 1.0")
    table.upgrade("renaming_for_test:rename")
    module = type(sys)("renaming_for_test")
    module.rename = lambda content: {key.replace("old", "new"): value for key, value in content.items()}
    monkeypatch.setitem(sys.modules, "renaming_for_test", module)
    monkeypatch.setattr(PluginHost, "checkpoints", lambda self: [table])
    torch.save({"old.w": torch.ones(1)}, tmp_path / "a.pth")
    assert list(load_checkpoint(tmp_path / "a.pth")) == ["new.w"]
    assert list(load_state(tmp_path / "a.pth")) == ["new.w"]
    save_checkpoint(tmp_path / "b.pth", {"old.w": torch.ones(1)})
    assert list(load_checkpoint(tmp_path / "b.pth")) == ["old.w"]
