"""Modules that know how their weights start."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from torch import nn

from detcore.nn.initializers import InitCfg, initialize
from detcore.registry import WEIGHT_INITIALIZERS, Deferred

logger = logging.getLogger(__name__)

DeferredInit = Annotated[InitCfg, Deferred(WEIGHT_INITIALIZERS)]


class BaseModule(nn.Module):
    """A module whose ``init_cfg`` says how its weights start.

    Nothing happens before :meth:`init_weights` is called, on the outermost module. Then, from the outside in,
    each module applies its own ``init_cfg`` to all that is below it, so that an inner module has the last
    word; ``Pretrained`` of a module comes after everything inside it.

    Args:
        init_cfg: One or several ``dict(type=..., layer=..., override=..., **arguments)``.
    """

    def __init__(self, init_cfg: DeferredInit = None) -> None:
        super().__init__()
        self._is_init = False
        self.init_cfg = init_cfg

    @property
    def is_init(self) -> bool:
        """Whether :meth:`init_weights` has been called."""
        return self._is_init

    @is_init.setter
    def is_init(self, value: bool) -> None:
        self._is_init = value

    def init_weights(self) -> None:
        """Initialise the weights of this module and of those in it, once.

        Raises:
            ConfigError: An ``init_cfg`` is malformed.
            CheckpointError: Pretrained weights cannot be read, or do not fit.
        """
        if self._is_init:
            logger.warning("init_weights of %s has been called before; its weights stay", type(self).__name__)
            return
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, Mapping) else list(self.init_cfg or ())
        initialize(self, [cfg for cfg in cfgs if not _is_pretrained(cfg)])
        for child in _initialisable(self):
            if not getattr(child, "is_init", False):
                child.init_weights()
        initialize(self, [cfg for cfg in cfgs if _is_pretrained(cfg)])
        self._is_init = True

    def __repr__(self) -> str:
        text = super().__repr__()
        return f"{text}\ninit_cfg={self.init_cfg}" if self.init_cfg else text


def _is_pretrained(cfg: Mapping[str, Any]) -> bool:
    kind = cfg.get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2] == "Pretrained"


def _initialisable(module: nn.Module, nested: bool = False) -> Iterator[Any]:
    """The nearest modules below that initialise themselves.

    A direct child may be any module with an ``init_weights``. Within plain containers only ours count: there
    may be foreign models, whose own ``init_weights`` would undo the weights that they came with.
    """
    for child in module.children():
        if isinstance(child, BaseModule) or (not nested and hasattr(child, "init_weights")):
            yield child
        else:
            yield from _initialisable(child, nested=True)


class Sequential(BaseModule, nn.Sequential):
    """``nn.Sequential`` with an ``init_cfg``."""

    def __init__(self, *args: Any, init_cfg: DeferredInit = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.Sequential.__init__(self, *args)


class ModuleList(BaseModule, nn.ModuleList):
    """``nn.ModuleList`` with an ``init_cfg``."""

    def __init__(self, modules: Iterable[nn.Module] | None = None, init_cfg: DeferredInit = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleList.__init__(self, modules)


class ModuleDict(BaseModule, nn.ModuleDict):
    """``nn.ModuleDict`` with an ``init_cfg``."""

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, init_cfg: DeferredInit = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleDict.__init__(self, modules)
