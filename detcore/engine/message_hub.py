"""What users' modules read and write under mmengine's name "message hub": figures and facts of a run.

A hub belongs to its runner and holds next to nothing itself: where the run stands is asked of the runner, its
figures are those of the log. Models and transforms that have no runner at hand find the hub of the newest
run of this process by :meth:`MessageHub.get_current_instance`.
"""

import statistics
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from detcore.errors import ConfigError

_MODES = ("train", "val", "test")
_KEPT = 1000  # values of a figure that is not the log's
# What the run itself tells, under mmengine's names.
_FACTS = ("iter", "epoch", "max_iters", "max_epochs", "seed", "experiment_name", "work_dir", "cfg")

_newest: "weakref.ref[MessageHub] | None" = None  # of this process; what makes it findable without a runner


class ScalarHistory:
    """The values of one figure that are still known, oldest first: the log keeps those that it smooths over.

    Args:
        values: The numbers.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.data = list(values)

    def current(self) -> float:
        """The newest one."""
        return self._last(1)[-1]

    def mean(self, window_size: int | None = None) -> float:
        """Mean of the newest ``window_size``, or of all."""
        return statistics.fmean(self._last(window_size))

    def min(self, window_size: int | None = None) -> float:
        """Least of the newest ``window_size``, or of all."""
        return min(self._last(window_size))

    def max(self, window_size: int | None = None) -> float:
        """Greatest of the newest ``window_size``, or of all."""
        return max(self._last(window_size))

    def _last(self, window_size: int | None) -> list[float]:
        if not self.data:
            raise ValueError("the figure has no value yet")
        return self.data if window_size is None else self.data[-window_size:]


class MessageHub:
    """Figures and facts of one run.

    Figures whose names begin with ``train/``, ``val/`` or ``test/`` are those of the log: what is written to
    one is smoothed, shown and recorded with the losses. Facts are ``iter``, ``epoch``, ``max_iters``,
    ``max_epochs``, ``seed``, ``experiment_name``, ``work_dir``, ``cfg``, ``dataset_meta``, and those noted.

    Args:
        runner: The run; None for a hub that knows only what it is told.
    """

    def __init__(self, runner: Any = None) -> None:
        self._runner = runner
        self._scalars: dict[str, deque[float | torch.Tensor]] = {}
        self._infos: dict[str, Any] = {}
        self._forgotten: set[str] = set()  # what checkpoints shall not keep
        if runner is not None:
            global _newest
            _newest = weakref.ref(self)

    @classmethod
    def get_current_instance(cls) -> "MessageHub":
        """The hub of the newest run of this process; an empty one where there is none."""
        return (_newest() if _newest is not None else None) or cls()

    @classmethod
    def get_instance(cls, name: str, **_: Any) -> "MessageHub":
        """The same: hubs have no names here, each belongs to its run."""
        return cls.get_current_instance()

    # --- figures ---

    def update_scalar(
        self, key: str, value: float | torch.Tensor, count: int = 1, resumed: bool = True
    ) -> None:
        """Add a value to a figure; a tensor of one element is not read now.

        Args:
            key: Its name; ``train/...`` goes to the log.
            value: The value.
            count: Over how many samples it is a mean; kept for callers, has no effect.
            resumed: Whether checkpoints keep it; those of the log are kept in any case.

        Raises:
            ConfigError: The tensor has more than one element.
        """
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ConfigError(f"the figure {key!r} is one number, got a tensor of shape {tuple(value.shape)}")
        mode, _, name = key.partition("/")
        if self._runner is not None and mode in _MODES and name:
            self._runner.log_processor.record(mode, {name: value})
        else:
            self._scalars.setdefault(key, deque(maxlen=_KEPT)).append(value)
            self._keep(key, resumed)

    def update_scalars(self, log_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Add to several figures: name -> value, or ``dict(value=..., count=...)``."""
        for key, value in log_dict.items():
            self.update_scalar(key, value["value"] if isinstance(value, Mapping) else value, 1, resumed)

    def get_scalar(self, key: str) -> ScalarHistory:
        """A figure by its name (``train/loss``, ``train/lr``); reading one makes the device finish its work.

        Raises:
            KeyError: There is no such figure (yet).
        """
        values = self.log_scalars.get(key)
        if values is None:
            raise KeyError(f"there is no figure {key!r}; there are {', '.join(self.log_scalars) or 'none'}")
        return values

    @property
    def log_scalars(self) -> dict[str, ScalarHistory]:
        """All figures by their names."""
        found = {name: ScalarHistory(list(map(float, many))) for name, many in self._scalars.items()}
        if self._runner is None:
            return found
        found.update({f"train/{name}": ScalarHistory([rate]) for name, rate in self._runner.rates.items()})
        # A log processor of a user's own need not tell what it keeps.
        histories: Mapping[str, Any] = getattr(self._runner.log_processor, "histories", dict)()
        for mode, named in histories.items():
            found.update({f"{mode}/{name}": ScalarHistory(values) for name, values in named.items()})
        return found

    # --- facts ---

    def update_info(self, key: str, value: Any, resumed: bool = True) -> None:
        """Note a fact.

        Args:
            key: Its name.
            value: Anything; what shall outlive a resume must be plain data or tensors.
            resumed: Whether checkpoints keep it.
        """
        self._infos[key] = value
        self._keep(key, resumed)

    def update_info_dict(self, info_dict: Mapping[str, Any], resumed: bool = True) -> None:
        """Note several facts."""
        for key, value in info_dict.items():
            self.update_info(key, value, resumed)

    def pop_info(self, key: str, default: Any = None) -> Any:
        """Take a noted fact away and give it."""
        return self._infos.pop(key, default)

    def get_info(self, key: str, default: Any = None) -> Any:
        """A fact: one that was noted, else the run's own."""
        if key in self._infos:
            return self._infos[key]
        if self._runner is None:
            return default
        if key == "dataset_meta":
            return getattr(getattr(self._runner.train_dataloader, "dataset", None), "metainfo", default)
        if key == "cfg":
            return self._runner.config_text
        return getattr(self._runner, key, default) if key in _FACTS else default

    @property
    def runtime_info(self) -> dict[str, Any]:
        """All facts by their names."""
        keys: Iterable[str] = () if self._runner is None else (*_FACTS, "dataset_meta")
        return {**{key: self.get_info(key) for key in keys}, **self._infos}

    def state_dict(self) -> dict[str, Any]:
        """The facts and figures that users added and a resumed run shall know; empty if there are none."""
        scalars = {key: list(map(float, many)) for key, many in self._scalars.items()}
        parts = {"infos": self._infos, "scalars": scalars}
        kept = {
            part: {key: value for key, value in named.items() if key not in self._forgotten}
            for part, named in parts.items()
        }
        return {part: named for part, named in kept.items() if named}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._infos.update(state.get("infos", {}))
        for key, many in state.get("scalars", {}).items():
            self._scalars[key] = deque(many, maxlen=_KEPT)

    def _keep(self, key: str, resumed: bool) -> None:
        (self._forgotten.discard if resumed else self._forgotten.add)(key)
