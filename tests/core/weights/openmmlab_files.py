"""Weight files with OpenMMLab's classes in them, made without it: modules of those names, for a while."""

import contextlib
import io
import sys
import types
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import torch
from torch import nn

CONFIG = {"model": {"type": "X", "parts": [{"a": 1}], "sizes": (1, 2)}, "lr": 0.1}


class HistoryBuffer:
    """Pickles as ``mmengine.logging.history_buffer.HistoryBuffer`` does: with its methods for statistics."""

    def __init__(self, values):
        self.max_length = 1000000
        self._log_history = np.array(values, dtype=np.float64)
        self._count_history = np.ones(len(values), dtype=np.int64)

    def mean(self):
        raise AssertionError("no method of a stand-in is ever called")

    def __getstate__(self):
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}


class MessageHub:
    """Pickles its attributes."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class ConfigDict(dict):
    """Pickles as one call with a plain dict, as in mmengine 0.10."""

    def __reduce_ex__(self, protocol):
        return (type(self), (dict(self),), None, None, None, None)


class Dict(dict):
    """Pickles as ``addict.Dict`` does: its items as arguments, as items and as state."""

    def __getnewargs__(self):
        return tuple(self.items())

    def __getstate__(self):
        return self

    def __setstate__(self, state):
        raise AssertionError("no method of a stand-in is ever called")


class Config:
    """Pickles as a tuple whose first part is the config."""

    def __init__(self, config):
        self.config = config

    def __getstate__(self):
        return (self.config, "/home/someone/x.py", "lr = 0.1", {}, True, {"numpy"})


class LazyObject:
    """Pickles its attributes."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class LazyAttr(LazyObject):
    """The same."""


class OneCycleParamScheduler:
    """Files of its schedules name one of its functions."""

    def _annealing_cos(self):
        raise AssertionError("no method of a stand-in is ever called")


class DictOf1x(Dict):
    """``mmcv.utils.config.ConfigDict``."""


class ConfigOf1x(Config):
    """``mmcv.utils.config.Config``."""

    def __getstate__(self):
        return (self.config, "/home/someone/x.py", "lr = 0.1")


NAMES = {
    HistoryBuffer: "mmengine.logging.history_buffer.HistoryBuffer",
    MessageHub: "mmengine.logging.message_hub.MessageHub",
    ConfigDict: "mmengine.config.config.ConfigDict",
    Config: "mmengine.config.config.Config",
    LazyObject: "mmengine.config.lazy.LazyObject",
    LazyAttr: "mmengine.config.lazy.LazyAttr",
    OneCycleParamScheduler: "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler",
    Dict: "addict.addict.Dict",
    DictOf1x: "mmcv.utils.config.ConfigDict",
    ConfigOf1x: "mmcv.utils.config.Config",
}


@contextlib.contextmanager
def named_as_theirs():
    """The classes above bear OpenMMLab's names, under which pickle finds them; afterwards nobody does."""
    before, own = dict(sys.modules), {}
    try:
        for cls, full in NAMES.items():
            module, _, name = full.rpartition(".")
            own[cls] = (cls.__module__, cls.__qualname__)
            cls.__module__, cls.__qualname__ = module, name
            for function in vars(cls).values():
                if isinstance(function, types.FunctionType):
                    function.__module__, function.__qualname__ = module, f"{name}.{function.__name__}"
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
            setattr(sys.modules[module], name, cls)
        yield
    finally:
        for cls, (module, name) in own.items():
            cls.__module__, cls.__qualname__ = module, name
        for name in set(sys.modules) - set(before):
            if name.partition(".")[0] in ("mmengine", "mmcv", "addict"):
                del sys.modules[name]


def saved(content, **options):
    """The bytes of ``torch.save``."""
    out = io.BytesIO()
    with named_as_theirs():
        torch.save(content, out, **options)
    return out.getvalue()


def trained(width=2):
    """A state dict and the state of an optimiser after one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 1, 4, 4)).mean().backward()
    optimizer.step()
    return model.state_dict(), optimizer.state_dict()


def content_of_3x():
    """What ``mmengine``'s runner saves: everything, and the averaged weights."""
    state, optimizer = trained()
    scalars = OrderedDict({"train/loss": HistoryBuffer([1.5, 0.5]), "train/lr": HistoryBuffer([])})
    info = OrderedDict(epoch=1, best=np.float32(0.5), seen=np.int64(3), ok=np.bool_(True), cfg="lr = 0.1")
    cosine = OneCycleParamScheduler._annealing_cos
    return {
        "meta": {
            "epoch": 1, "iter": 10, "cfg": "lr = 0.1", "seed": 0, "experiment_name": "x",
            "time": "20240517_093000",
            "mmengine_version": "0.10.7", "dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3)]},
            "hook_msgs": {"best_score": np.float64(0.25), "last_ckpt": "/home/someone/epoch_1.pth"},
        },
        "state_dict": state,
        "message_hub": {
            "log_scalars": scalars, "runtime_info": info, "resumed_keys": {"train/loss": True, "epoch": True},
        },
        "optimizer": optimizer,
        "param_schedulers": [{"milestones": Counter([8, 11]), "last_step": 3}, {"anneal_func": cosine}],
        "ema_state_dict": OrderedDict(steps=torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}),
    }  # fmt: skip


def content_of_2x():
    """What ``mmcv`` 1.x saves for MMDetection 2.x, with a config that was never turned into text."""
    state, optimizer = trained()
    config = DictOf1x(model=DictOf1x(type="X", parts=[DictOf1x(a=1)], sizes=(1, 2)), lr=0.1)
    return {
        "meta": {
            "mmdet_version": "2.28.2", "config": ConfigOf1x(config), "CLASSES": ("cat", "dog"),
            "PALETTE": [(1, 2, 3)], "env_info": "sys.platform: linux", "time": "Fri May 17 09:30:00 2024",
            "epoch": 1, "iter": 10,
            "hook_msgs": {"best_score": np.float64(0.25)}, "counts": defaultdict(int, a=1), "seen": {1, 2},
        },
        "state_dict": state,
        "optimizer": optimizer,
    }  # fmt: skip
