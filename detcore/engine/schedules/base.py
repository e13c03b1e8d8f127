"""What all schedules share: when they act, on what, and how they are saved."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from detcore.engine.optim_wrapper import OptimWrapper
from detcore.errors import ConfigError

logger = logging.getLogger(__name__)

INF = int(1e9)
"""As ``end``: the schedule acts to the end of the run."""


class ParamScheduler:
    """Moves one setting of all parameter groups, step by step.

    Each step computes the next value from the current one, so that several schedules may act on one setting,
    in turn or at once. The first step is made by the constructor, so the value it leaves is that of the first
    iteration (or epoch). Subclasses implement :meth:`_get_value`.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting, such as ``lr`` or ``momentum``.
        begin: First step (iteration or epoch) at which it acts.
        end: First step at which it acts no more.
        last_step: Steps it has acted already minus 1; other than -1 only where ``initial_*`` is in the
            groups.
        by_epoch: Whether steps are epochs; else iterations.
        verbose: Log every change at INFO level.
        convert_to_iter_based: A setting of configs, which `build_schedules` acts on: the schedule is written
            in epochs and moves at every iteration.

    Raises:
        ConfigError: A setting makes no sense.
    """

    need_val_args = False
    per_epoch: tuple[str, ...] = ()
    """Names of arguments that count epochs, besides begin and end: for ``convert_to_iter_based``."""

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
        convert_to_iter_based: bool = False,
    ) -> None:
        if convert_to_iter_based:
            raise ConfigError(
                f"{type(self).__name__}: convert_to_iter_based needs to know how long an epoch is: build it "
                "by build_schedules(cfg, optim, epoch_length=...), as a run does"
            )
        if end <= begin:
            raise ConfigError(
                f"{type(self).__name__}: end must be larger than begin, got begin={begin}, end={end}"
            )
        self.optimizer = optimizer
        self.param_name = param_name
        self.begin, self.end = begin, end
        self.by_epoch = by_epoch
        self.verbose = verbose
        self.last_step = last_step
        self._global_step = -1
        self.base_values = list(self._initial_values())
        self._start()

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        epoch_length: int,
        begin: float = 0,
        end: float = INF,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> "ParamScheduler":
        """Build one that acts by iteration from arguments that count epochs.

        Args:
            *args: As the constructor's.
            epoch_length: Iterations in an epoch.
            begin: Epoch, may be a fraction.
            end: Epoch, may be a fraction.
            by_epoch: Must be True.
            **kwargs: As the constructor's; those in ``per_epoch`` are multiplied, too.
        """
        if not by_epoch:
            raise ConfigError(f"{cls.__name__}: convert_to_iter_based needs by_epoch=True")
        for name in cls.per_epoch:
            if kwargs.get(name) is not None:
                value = kwargs[name]
                many = isinstance(value, list | tuple)
                kwargs[name] = [part * epoch_length for part in value] if many else value * epoch_length
        kwargs["begin"] = int(begin * epoch_length)
        kwargs["end"] = INF if end == INF else int(end * epoch_length)
        return cls(*args, **{**kwargs, "by_epoch": False})

    def step(self) -> None:
        """Go to the next step; within ``begin`` and ``end`` this sets new values."""
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._set_values(self._get_value())

    def get_last_value(self) -> list[float]:
        """The current value of each group."""
        return [group[self.param_name] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Counters and base values; the current values are in the optimiser's own state."""
        return {
            "last_step": self.last_step,
            "global_step": self._global_step,
            "base_values": list(self.base_values),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self.last_step = state["last_step"]
        self._global_step = state["global_step"]
        self.base_values = list(state["base_values"])

    def _get_value(self) -> list[float]:
        """The new value of each group at ``last_step``, computed from the current ones."""
        raise NotImplementedError

    def _start(self) -> None:
        self.step()

    def _initial_values(self) -> Iterator[float]:
        """The value before any schedule touched it, kept in the group for schedules that follow."""
        initial = f"initial_{self.param_name}"
        for i, group in enumerate(self.optimizer.param_groups):
            if self.param_name not in group:
                known = ", ".join(sorted(set(group) - {"params"}))
                raise ConfigError(
                    f"{type(self).__name__}: the optimiser has no '{self.param_name}'; it has {known}"
                )
            if self.last_step == -1:
                group.setdefault(initial, group[self.param_name])
            elif initial not in group:
                raise ConfigError(
                    f"{type(self).__name__}: last_step={self.last_step}, but parameter group {i} has no"
                    f" '{initial}'"
                )
            yield group[initial]

    def _set_values(self, values: list[float]) -> None:
        for i, (group, value) in enumerate(zip(self.optimizer.param_groups, values, strict=True)):
            group[self.param_name] = value
            if self.verbose:
                logger.info("%s of group %d is now %.4e", self.param_name, i, value)


class LRMixin:
    """Makes a schedule act on the learning rate."""

    def __init__(self, optimizer: Optimizer | OptimWrapper, **kwargs: Any) -> None:
        super().__init__(optimizer, param_name="lr", **kwargs)  # type: ignore[call-arg]


class MomentumMixin:
    """Makes a schedule act on the momentum: SGD's own, or the first of Adam's betas."""

    def __init__(self, optimizer: Optimizer | OptimWrapper, **kwargs: Any) -> None:
        self.use_betas = "momentum" not in optimizer.defaults
        if self.use_betas:
            if "betas" not in optimizer.defaults:
                raise ConfigError(f"{type(self).__name__}: the optimiser has neither momentum nor betas")
            for group in optimizer.param_groups:
                group["momentum"] = group["betas"][0]
        super().__init__(optimizer, param_name="momentum", **kwargs)  # type: ignore[call-arg]

    def _set_values(self, values: list[float]) -> None:
        super()._set_values(values)  # type: ignore[misc]
        if self.use_betas:
            for group in self.optimizer.param_groups:  # type: ignore[attr-defined]
                group["betas"] = (group["momentum"], *group["betas"][1:])
