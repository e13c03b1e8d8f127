"""The curves: each class is one recurrence; t counts steps since ``begin``, v0 is the initial value."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from detcore.engine.optim_wrapper import OptimWrapper
from detcore.engine.schedules.base import INF, ParamScheduler
from detcore.errors import ConfigError


class ConstantParamScheduler(ParamScheduler):
    """``v0 * factor`` until the last step before ``end``, where it is divided out again.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        factor: From 0 to 1.
        begin: First step.
        end: First step after.
        **kwargs: See :class:`ParamScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        factor: float = 1.0 / 3,
        begin: int = 0,
        end: int = INF,
        **kwargs: Any,
    ) -> None:
        _in_unit_range(self, "factor", factor)
        self.factor = factor
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin=begin, end=end, **kwargs)

    def _get_value(self) -> list[float]:
        values = self.get_last_value()
        if self.last_step == 0:
            return [value * self.factor for value in values]
        if self.last_step == self.total_iters:
            return [value * (1.0 / self.factor) for value in values]
        return values


class LinearParamScheduler(ParamScheduler):
    """A straight line from ``v0 * start_factor`` to ``v0 * end_factor`` at the last step before ``end``.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        start_factor: Above 0, at most 1.
        end_factor: From 0 to 1.
        begin: First step.
        end: First step after.
        **kwargs: See :class:`ParamScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        begin: int = 0,
        end: int = INF,
        **kwargs: Any,
    ) -> None:
        _in_unit_range(self, "start_factor", start_factor)
        _in_unit_range(self, "end_factor", end_factor)
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin=begin, end=end, **kwargs)

    def _get_value(self) -> list[float]:
        values = self.get_last_value()
        if self.last_step == 0:
            return [value * self.start_factor for value in values]
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_step - 1) * rise
        if before == 0:
            raise ConfigError(
                f"{type(self).__name__}: start_factor=0 leaves nothing to multiply; use a small number,"
                " such as 1e-6"
            )
        return [value * (1.0 + rise / before) for value in values]


class StepParamScheduler(ParamScheduler):
    """Times ``gamma`` every ``step_size`` steps.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        step_size: Steps between decays.
        gamma: The factor.
        **kwargs: See :class:`ParamScheduler`.
    """

    per_epoch = ("step_size",)

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        step_size: int,
        gamma: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if step_size < 1:
            raise ConfigError(f"{type(self).__name__}: step_size must be at least 1, got {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, param_name, **kwargs)

    def _get_value(self) -> list[float]:
        values = self.get_last_value()
        if self.last_step == 0 or self.last_step % self.step_size != 0:
            return values
        return [value * self.gamma for value in values]


class MultiStepParamScheduler(ParamScheduler):
    """Times ``gamma`` at each milestone (counted from ``begin``).

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        milestones: Steps; one that is named twice counts twice.
        gamma: The factor.
        **kwargs: See :class:`ParamScheduler`.
    """

    per_epoch = ("milestones",)

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        milestones: Sequence[int],
        gamma: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if isinstance(milestones, str) or not isinstance(milestones, Sequence):
            raise ConfigError(
                f"{type(self).__name__}: milestones must be a list of steps, got {milestones!r}"
            )
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, param_name, **kwargs)

    def _get_value(self) -> list[float]:
        times = self.milestones.get(self.last_step, 0)
        values = self.get_last_value()
        return [value * self.gamma**times for value in values] if times else values


class ExponentialParamScheduler(ParamScheduler):
    """Times ``gamma`` at every step.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        gamma: The factor.
        **kwargs: See :class:`ParamScheduler`.
    """

    def __init__(
        self, optimizer: Optimizer | OptimWrapper, param_name: str, gamma: float, **kwargs: Any
    ) -> None:
        self.gamma = gamma
        super().__init__(optimizer, param_name, **kwargs)

    def _get_value(self) -> list[float]:
        values = self.get_last_value()
        return values if self.last_step == 0 else [value * self.gamma for value in values]


class PolyParamScheduler(ParamScheduler):
    """``eta_min + (v0 - eta_min) * (1 - t / (end - begin - 1)) ** power``.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        eta_min: The value at the end.
        power: Of the polynomial.
        begin: First step.
        end: First step after.
        **kwargs: See :class:`ParamScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        eta_min: float = 0,
        power: float = 1.0,
        begin: int = 0,
        end: int = INF,
        **kwargs: Any,
    ) -> None:
        self.eta_min, self.power = eta_min, power
        self.total_iters = end - begin - 1
        super().__init__(optimizer, param_name, begin=begin, end=end, **kwargs)

    def _get_value(self) -> list[float]:
        values = self.get_last_value()
        if self.last_step == 0:
            return values
        factor = (1 - 1 / (self.total_iters - self.last_step + 1)) ** self.power
        return [(value - self.eta_min) * factor + self.eta_min for value in values]


class QuadraticWarmupParamScheduler(ParamScheduler):
    """``v0 * ((t + 1) / (end - begin)) ** 2``, as a sum of its differences.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        begin: First step.
        end: First step after; must be given.
        **kwargs: See :class:`ParamScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        begin: int = 0,
        end: int = INF,
        **kwargs: Any,
    ) -> None:
        if end >= INF:
            raise ConfigError(f"{type(self).__name__}: give `end`, the step at which the warm-up is over")
        self.total_iters = end - begin
        super().__init__(optimizer, param_name, begin=begin, end=end, **kwargs)

    def _get_value(self) -> list[float]:
        rises = [base * (2 * self.last_step + 1) / self.total_iters**2 for base in self.base_values]
        if self.last_step == 0:
            return rises
        return [value + rise for value, rise in zip(self.get_last_value(), rises, strict=True)]


class CosineAnnealingParamScheduler(ParamScheduler):
    """Half a cosine from the initial value to ``eta_min`` in ``T_max`` steps (and back, if it goes on).

    Loshchilov and Hutter, SGDR, arXiv:1608.03983, without restarts.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        T_max: Steps from top to bottom; by default ``end - begin``.
        eta_min: The bottom; 0 if neither this nor the ratio is given.
        begin: First step.
        end: First step after.
        eta_min_ratio: The bottom as part of the initial value, instead of ``eta_min``.
        **kwargs: See :class:`ParamScheduler`.
    """

    per_epoch = ("T_max",)

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        T_max: int | None = None,
        eta_min: float | None = None,
        begin: int = 0,
        end: int = INF,
        eta_min_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        if eta_min is not None and eta_min_ratio is not None:
            raise ConfigError(f"{type(self).__name__}: give eta_min or eta_min_ratio, not both")
        self.T_max = T_max or (end - begin)
        self.eta_min, self.eta_min_ratio = eta_min or 0.0, eta_min_ratio
        super().__init__(optimizer, param_name, begin=begin, end=end, **kwargs)

    def _get_value(self) -> list[float]:
        values = self.get_last_value()
        if self.last_step == 0:
            return values
        bottoms = _bottoms(self.base_values, self.eta_min, self.eta_min_ratio)
        if (self.last_step - 1 - self.T_max) % (2 * self.T_max) == 0:
            # At the very bottom the quotient below would be 0 / 0.
            rise = 1 - math.cos(math.pi / self.T_max)
            return [
                value + (base - low) * rise / 2
                for value, base, low in zip(values, self.base_values, bottoms, strict=True)
            ]
        return _along_cosine(values, bottoms, self.last_step, self.T_max)


class CosineRestartParamScheduler(ParamScheduler):
    """Half cosines one after another, each beginning at its weight times the initial value.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        periods: Steps of each half cosine.
        restart_weights: Where each begins, as a multiple of the initial value.
        eta_min: The bottom; give this or the ratio.
        eta_min_ratio: The bottom as part of the initial value.
        **kwargs: See :class:`ParamScheduler`.
    """

    per_epoch = ("periods",)

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        periods: Sequence[int],
        restart_weights: Sequence[float] = (1,),
        eta_min: float | None = None,
        eta_min_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if (eta_min is None) == (eta_min_ratio is None):
            raise ConfigError(f"{name}: give either eta_min or eta_min_ratio")
        if len(periods) != len(restart_weights):
            raise ConfigError(f"{name}: {len(periods)} periods, but {len(restart_weights)} restart_weights")
        self.periods, self.restart_weights = list(periods), list(restart_weights)
        self.eta_min, self.eta_min_ratio = eta_min or 0.0, eta_min_ratio
        super().__init__(optimizer, param_name, **kwargs)

    def _get_value(self) -> list[float]:
        start = 0
        for period, weight in zip(self.periods, self.restart_weights, strict=True):
            if self.last_step < start + period:
                if self.last_step == start:
                    return [base * weight for base in self.base_values]
                bottoms = _bottoms(self.base_values, self.eta_min, self.eta_min_ratio)
                return _along_cosine(self.get_last_value(), bottoms, self.last_step - start, period)
            start += period
        return self.get_last_value()


def _along_cosine(values: list[float], bottoms: list[float], step: int, period: int) -> list[float]:
    ratio = (1 + math.cos(math.pi * step / period)) / (1 + math.cos(math.pi * (step - 1) / period))
    return [ratio * (value - low) + low for value, low in zip(values, bottoms, strict=True)]


def _bottoms(base_values: list[float], eta_min: float, ratio: float | None) -> list[float]:
    return [eta_min if ratio is None else base * ratio for base in base_values]


def _in_unit_range(owner: ParamScheduler, name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{type(owner).__name__}: {name} must be between 0 and 1, got {value}")
