"""What is made in place of OpenMMLab's classes when one of their weight files is read: data, no behaviour."""

from typing import Any

from detcore.weights.reader import MappingStandIn, StandIn


class HistoryBuffer(StandIn):
    """The values of a log, ``mmengine.logging.HistoryBuffer``."""

    __slots__ = ()

    def plain(self) -> Any:
        """``{'log_history': Tensor[N], 'count_history': Tensor[N], 'max_length': int}``.

        The methods for statistics, which old files carry along, are left out.
        """
        state = self.named_state()
        return {
            "log_history": state.get("_log_history"),
            "count_history": state.get("_count_history"),
            "max_length": state.get("max_length"),
        }


class MessageHub(StandIn):
    """Logs and counters of a run; files since mmengine 0.2 hold them as dicts."""

    __slots__ = ()

    def plain(self) -> Any:
        """``{'log_scalars': ..., 'runtime_info': ..., 'resumed_keys': ...}``, as today's files have them."""
        state = self.named_state()
        return {key: state.get(f"_{key}", {}) for key in ("log_scalars", "runtime_info", "resumed_keys")}


class ConfigDict(MappingStandIn):
    """Part of a config, and ``addict.Dict``, on which it is built: a dict."""


class Config(StandIn):
    """A whole config."""

    __slots__ = ()

    def plain(self) -> Any:
        """The dict in it; its file name and text are left out."""
        state = self.state
        return state[0] if isinstance(state, tuple) and state else self.named_state().get("_cfg_dict")


class InstanceData(StandIn):
    """Boxes and scores of an image, in files of proposals."""

    __slots__ = ()

    def plain(self) -> Any:
        """Its fields, by name; the sets that list them are left out."""
        return {key: value for key, value in self.named_state().items() if not key.startswith("_")}


class Scheduler(StandIn):
    """A schedule, whose class files name beside one of its functions; it is never restored itself."""

    __slots__ = ()


class LazyName(StandIn):
    """A name that a config in pure Python imports, ``mmengine.config.lazy.LazyObject`` or ``LazyAttr``."""

    __slots__ = ()

    def plain(self) -> Any:
        """The name with its module: ``'mmdet.models.RetinaNet'``."""
        state = self.named_state()
        module, name = state.get("_module"), state.get("name", state.get("_imported"))
        if isinstance(module, list | tuple):  # several modules of one package
            module = str(module[0]).partition(".")[0] if module else None
        return ".".join(part for part in (module, name) if isinstance(part, str))
