"""Classes of OpenMMLab in weight files: what they become, and that they stay what they are made for."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from det_mmdet import plugin, stand_ins

from detcore.errors import CheckpointError
from detcore.plugins.checkpoints import CheckpointTable
from detcore.weights.reader import MappingStandIn, StandIn, read_weights_file

FOLDER = Path(__file__).parents[1] / "core" / "weights"
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])


def helper(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


openmmlab, assembler = helper("openmmlab_files"), helper("weights_assembler")


@pytest.fixture
def read(tmp_path):
    def save_and_read(value, zipped=True):
        path = tmp_path / "a.pth"
        path.write_bytes(openmmlab.saved({"x": value}, _use_new_zipfile_serialization=zipped))
        return read_weights_file(path)["x"]

    return save_and_read


def is_plain(value):
    if isinstance(value, dict):
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(is_plain, value))
    return type(value) in (bool, int, float, str, bytes, type(None), torch.Tensor)


@FORMATS
def test_a_history_becomes_its_numbers(read, zipped):
    got = read(openmmlab.HistoryBuffer([1.5, 0.5]), zipped)
    assert got["log_history"].tolist() == [1.5, 0.5]
    assert got["count_history"].tolist() == [1, 1]
    assert got["max_length"] == 1000000
    assert list(got) == ["log_history", "count_history", "max_length"]
    assert read(openmmlab.HistoryBuffer([]), zipped)["log_history"].shape == (0,)


@FORMATS
def test_configs_become_dicts_whoever_wrote_them(read, zipped):
    inner = {"type": "X", "parts": [{"a": 1}], "sizes": (1, 2)}
    for cls in (openmmlab.ConfigDict, openmmlab.Dict, openmmlab.DictOf1x):
        nested = cls(model=cls(type="X", parts=[cls(a=1)], sizes=(1, 2)), lr=0.1, empty=cls())
        got = read(nested, zipped)
        assert got == {"model": inner, "lr": 0.1, "empty": {}}
        assert [type(got), type(got["model"]), type(got["model"]["parts"][0])] == [dict, dict, dict]
    for cls, part in ((openmmlab.Config, openmmlab.ConfigDict), (openmmlab.ConfigOf1x, openmmlab.DictOf1x)):
        assert read(cls(part(model=part(inner))), zipped) == {"model": inner}


@FORMATS
def test_a_message_hub_becomes_what_later_files_hold(read, zipped):
    scalars = {"loss": openmmlab.HistoryBuffer([2.0])}
    hub = openmmlab.MessageHub(
        _instance_name="x",
        _log_scalars=scalars,
        _runtime_info={"iter": np.int64(3)},
        _resumed_keys={"loss": True},
    )
    got = read(hub, zipped)
    assert got["log_scalars"]["loss"]["log_history"].tolist() == [2.0]
    assert (got["runtime_info"], got["resumed_keys"]) == ({"iter": 3}, {"loss": True})
    assert list(got) == ["log_scalars", "runtime_info", "resumed_keys"]


@FORMATS
def test_names_of_pure_python_configs_become_dotted_names(read, zipped):
    lazy, attribute = openmmlab.LazyObject, openmmlab.LazyAttr
    module = lazy(_module="mmdet.models", _imported="RetinaNet", location="x.py, line 1")
    assert read(module, zipped) == "mmdet.models.RetinaNet"
    assert read(lazy(_module=["torch.optim", "torch.nn"], _imported=None, location=None), zipped) == "torch"
    part = attribute(name="SGD", source=module, location=None, _module="torch.optim")
    assert read(part, zipped) == "torch.optim.SGD"


@FORMATS
def test_the_function_of_a_schedule_becomes_its_name(read, zipped):
    function = openmmlab.OneCycleParamScheduler._annealing_cos
    assert read({"anneal_func": function, "last_step": 3}, zipped) == {
        "anneal_func": "_annealing_cos",
        "last_step": 3,
    }


@pytest.mark.parametrize("make", ["content_of_3x", "content_of_2x"])
@FORMATS
def test_whole_files_become_plain_data(read, make, zipped):
    content = getattr(openmmlab, make)()
    got = read(content, zipped)
    assert list(got) == list(content)
    assert is_plain(got)
    if make == "content_of_3x":
        assert got["message_hub"]["runtime_info"] == {
            "epoch": 1, "best": 0.5, "seen": 3, "ok": True, "cfg": "lr = 0.1",
        }  # fmt: skip
        assert got["meta"]["dataset_meta"] == {"classes": ("cat", "dog"), "palette": [(1, 2, 3)]}
        assert got["param_schedulers"][0] == {"milestones": {8: 1, 11: 1}, "last_step": 3}
        assert got["ema_state_dict"]["steps"] == 3
    else:
        assert got["meta"]["config"] == openmmlab.CONFIG
        assert got["meta"]["CLASSES"] == ("cat", "dog")


def test_every_scope_is_asked_and_one_answers():
    named = {}
    for scope in ("mmdet", "mmengine", "mmcv", "mmcls", "mmpretrain"):
        table = CheckpointTable(scope, "det-mmdet")
        plugin.detcore_checkpoints(table)
        named[scope] = table.stand_ins
    assert {scope for scope, names in named.items() if names} == {"mmdet"}
    for reference in named["mmdet"].values():
        target = reference.load()
        assert issubclass(target, StandIn | MappingStandIn)
        assert not any(name in vars(target) for name in ("__new__", "__init__", "__setstate__", "__call__"))
        assert "__dict__" not in dir(target(1, 2)) or issubclass(target, MappingStandIn)


STATES = (
    b"N", b")", b"]", b"}", assembler.number(7), assembler.text("x"), assembler.plain({"__class__": 1}),
    assembler.plain({"plain": 1, "state": 2, "arguments": 3, "__dict__": {}}),
    assembler.plain(({}, {"plain": 1})), assembler.plain((None, {"__class__": None})),
    assembler.plain({1: 2}), assembler.tensor(), assembler.name("torch.Size"), b"(" + b"h\x00" * 3 + b"t",
)  # fmt: skip
NAMES = sorted(full for names in plugin.STAND_INS.values() for full in names)


@pytest.mark.parametrize("full", NAMES)
def test_whatever_state_a_file_sets_it_is_plain_data_or_a_typed_error(tmp_path, full):
    path, refused = tmp_path / "a.pth", 0
    for state in STATES:
        for make in (b")R", b")\x81", assembler.items(b"N", b"}", assembler.text("x")) + b"R"):
            value = assembler.name(full) + make + b"q\x00" + state + b"b"
            path.write_bytes(assembler.archive(assembler.entry(value)))
            try:
                assert is_plain(read_weights_file(path))
            except CheckpointError:
                refused += 1
    assert refused


def test_a_stand_in_stays_one_whatever_a_file_sets():
    for name in ("HistoryBuffer", "MessageHub", "Config", "LazyName", "Scheduler"):
        made = getattr(stand_ins, name)()
        made.__setstate__({"plain": None, "__class__": int, "state": 1})
        assert type(made).__name__ == name
        assert made.plain.__func__ is getattr(stand_ins, name).plain
