"""All schedules of a run as one object."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from detcore.engine.optim_wrapper import OptimWrapper
from detcore.engine.schedules.base import ParamScheduler
from detcore.errors import CheckpointError, ConfigError
from detcore.registry import PARAM_SCHEDULERS
from detcore.registry import default_scope as in_scope

logger = logging.getLogger(__name__)


class ParamSchedules:
    """The schedules of a run, stepped in the order of the config.

    Args:
        schedules: Acting on the same parameter groups.
    """

    def __init__(self, schedules: Sequence[ParamScheduler] = ()) -> None:
        self.schedules = list(schedules)

    def step_iteration(self) -> None:
        """After every iteration: step those that count iterations."""
        for schedule in self.schedules:
            if not schedule.by_epoch:
                schedule.step()

    def step_epoch(self) -> None:
        """After every epoch: step those that count epochs."""
        for schedule in self.schedules:
            if schedule.by_epoch:
                schedule.step()

    def step_validation(self, metrics: Mapping[str, float]) -> None:
        """After a validation: tell those that wait for a metric."""
        for schedule in self.schedules:
            if schedule.need_val_args:
                judge: Any = schedule
                judge.step_validation(metrics)

    def state_dict(self) -> list[dict[str, Any]]:
        """One entry a schedule."""
        return [schedule.state_dict() for schedule in self.schedules]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over saved counters; the values themselves come with the optimiser's state.

        Raises:
            CheckpointError: When there are more or fewer schedules than were saved.
        """
        if len(state) != len(self.schedules):
            raise CheckpointError(f"{len(state)} schedules were saved, the config has {len(self.schedules)}")
        for schedule, saved in zip(self.schedules, state, strict=True):
            schedule.load_state_dict(saved)

    def __iter__(self) -> Any:
        return iter(self.schedules)

    def __len__(self) -> int:
        return len(self.schedules)


def build_schedules(
    cfg: Any,
    optim: OptimWrapper | Optimizer,
    *,
    epoch_length: int | None = None,
    default_scope: str | None = None,
) -> ParamSchedules:
    """Build a run's schedules; each sets its first value at once.

    Args:
        cfg: ``dict(type='MultiStepLR', ...)``, a list of such, or None. ``convert_to_iter_based=True`` makes
            one that is written in epochs act at every iteration.
        optim: What they act on.
        epoch_length: Iterations in an epoch, for those that are converted.
        default_scope: Where plain names are looked up first.

    Raises:
        ConfigError: For unknown names or arguments, naming ``param_scheduler[i]``.
    """
    configs = [] if cfg is None else [cfg] if isinstance(cfg, Mapping | ParamScheduler) else list(cfg)
    with in_scope(default_scope):
        schedules = [
            _build_one(one, optim, epoch_length, f"param_scheduler[{i}]") for i, one in enumerate(configs)
        ]
    return ParamSchedules(schedules)


def _build_one(
    cfg: Any, optim: OptimWrapper | Optimizer, epoch_length: int | None, path: str
) -> ParamScheduler:
    if isinstance(cfg, ParamScheduler):
        return cfg
    if not isinstance(cfg, Mapping):
        raise ConfigError(f"{path} must be a dict, got {type(cfg).__name__}")
    settings = dict(cfg)
    convert = settings.pop("convert_to_iter_based", False)
    if not convert:
        return PARAM_SCHEDULERS.build(settings, path=path, optimizer=optim)
    if not epoch_length or epoch_length < 1:
        raise ConfigError(
            f"{path}: convert_to_iter_based needs the number of iterations in an epoch,"
            f" which is {epoch_length}"
        )
    # Validated as it is written, in epochs, before it is built by its own constructor in iterations.
    problems = PARAM_SCHEDULERS.check({**settings, "optimizer": None}, path=path)
    if problems:
        raise ConfigError("\n".join(map(str, problems)))
    cls: Any = PARAM_SCHEDULERS.get(settings.pop("type"))
    return cls.build_iter_from_epoch(optimizer=optim, epoch_length=epoch_length, **settings)
