"""Schedules that are no plain recurrence: the one-cycle policy, and waiting for a metric to stall."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from detcore.engine.optim_wrapper import OptimWrapper
from detcore.engine.schedules.base import INF, ParamScheduler
from detcore.errors import ConfigError


class OneCycleParamScheduler(ParamScheduler):
    """Up from ``eta_max / div_factor`` to ``eta_max``, then down to that start divided by
    ``final_div_factor``.

    Smith and Topin, Super-Convergence, arXiv:1708.07120. Not to be mixed with other schedules.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: Only ``lr``.
        eta_max: The top, one for all groups or one for each.
        total_steps: Steps of the cycle; by default ``end - begin``.
        pct_start: Part of the cycle that goes up.
        anneal_strategy: ``cos`` or ``linear``.
        div_factor: Top divided by start.
        final_div_factor: Start divided by end.
        three_phase: Down to the start as slowly as up, then to the end.
        begin: First step.
        end: First step after.
        **kwargs: See :class:`ParamScheduler`.
    """

    per_epoch = ("total_steps",)

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        eta_max: float | Sequence[float] = 0,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        **kwargs: Any,
    ) -> None:
        if param_name != "lr":
            raise ConfigError(f"{type(self).__name__} acts on the learning rate only, got '{param_name}'")
        if anneal_strategy not in ("cos", "linear"):
            raise ConfigError(f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        if not 0 <= pct_start <= 1:
            raise ConfigError(f"pct_start must be between 0 and 1, got {pct_start}")
        self.anneal_strategy = anneal_strategy
        self.total_steps = end - begin if total_steps is None else total_steps
        if self.total_steps < 1:
            raise ConfigError(f"total_steps must be at least 1, got {self.total_steps}")
        top, bottom = "max_lr", "min_lr"
        turns = [(pct_start * self.total_steps - 1, "initial_lr", top)]
        if three_phase:
            turns.append((2 * pct_start * self.total_steps - 2, top, "initial_lr"))
        self.phases = [*turns, (self.total_steps - 1, turns[-1][2], bottom)]
        if last_step == -1:
            groups = optimizer.param_groups
            tops = list(eta_max) if isinstance(eta_max, Sequence) else [eta_max] * len(groups)
            for group, value in zip(groups, tops, strict=True):
                group["initial_lr"] = value / div_factor
                group[top] = value
                group[bottom] = group["initial_lr"] / final_div_factor
        super().__init__(optimizer, param_name, begin=begin, end=end, last_step=last_step, **kwargs)

    def _get_value(self) -> list[float]:
        if self.last_step > self.total_steps:
            raise ConfigError(
                f"{type(self).__name__}: step {self.last_step} is beyond total_steps={self.total_steps}"
            )
        start = 0.0
        for last, source, target in self.phases:
            if self.last_step <= last or last == self.phases[-1][0]:
                part = (self.last_step - start) / (last - start) if last > start else 1.0
                return [self._between(g[source], g[target], part) for g in self.optimizer.param_groups]
            start = last
        raise AssertionError("the last phase takes every step")

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * part + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)


class ReduceOnPlateauParamScheduler(ParamScheduler):
    """Times ``factor`` when a metric has not improved for more than ``patience`` validations.

    Args:
        optimizer: An optimiser or its wrapper.
        param_name: The setting.
        monitor: Name of the metric, such as ``coco/bbox_mAP``.
        rule: ``less`` or ``greater`` is better.
        factor: Below 1.
        patience: Validations without improvement that are let pass.
        threshold: What counts as improvement.
        threshold_rule: ``rel`` (part of the best value) or ``abs``.
        cooldown: Validations after a reduction in which nothing is counted.
        min_value: Lower bound, one for all groups or one for each.
        eps: Smaller changes are not made.
        by_epoch: Must be True.
        **kwargs: See :class:`ParamScheduler`.
    """

    need_val_args = True

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        param_name: str,
        monitor: str = "loss",
        rule: str = "less",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_rule: str = "rel",
        cooldown: int = 0,
        min_value: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if rule not in ("less", "greater") or threshold_rule not in ("rel", "abs"):
            raise ConfigError(
                f"{name}: rule must be 'less' or 'greater' and threshold_rule 'rel' or 'abs',"
                f" got {rule!r} and {threshold_rule!r}"
            )
        if factor >= 1 or threshold < 0 or not by_epoch:
            raise ConfigError(f"{name}: needs factor < 1, threshold >= 0 and by_epoch=True")
        self.monitor, self.rule, self.factor, self.patience = monitor, rule, factor, patience
        self.threshold, self.threshold_rule, self.cooldown, self.eps = (
            threshold,
            threshold_rule,
            cooldown,
            eps,
        )
        self.best = math.inf if rule == "less" else -math.inf
        self.num_bad, self.cooldown_left = 0, 0
        super().__init__(optimizer, param_name, by_epoch=by_epoch, **kwargs)
        groups = optimizer.param_groups
        bounds = list(min_value) if isinstance(min_value, Sequence) else [min_value] * len(groups)
        bounds += bounds[-1:] * (len(groups) - len(bounds))  # the wrapper's group of base settings
        if len(bounds) != len(groups):
            raise ConfigError(f"{name}: {len(bounds)} min_value for {len(groups)} parameter groups")
        self.min_values = bounds

    def _start(self) -> None:
        self._global_step = 0

    def step(self) -> None:
        """Count an epoch."""
        self._global_step += 1

    def step_validation(self, metrics: Mapping[str, float]) -> None:
        """Judge the metrics of a validation.

        Raises:
            ConfigError: When the monitored metric is not among them.
        """
        if not self.begin <= self._global_step < self.end:
            return
        if self.monitor not in metrics:
            raise ConfigError(
                f"{type(self).__name__} waits for '{self.monitor}'; there are {', '.join(metrics)}"
            )
        self.last_step += 1
        value = float(metrics[self.monitor])
        if self._is_better(value):
            self.best, self.num_bad = value, 0
        else:
            self.num_bad += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.num_bad = 0
        if self.num_bad > self.patience:
            self._set_values(self._get_value())
            self.cooldown_left, self.num_bad = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """Also the best value and the counters."""
        own = {"best": self.best, "num_bad": self.num_bad, "cooldown_left": self.cooldown_left}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        super().load_state_dict(state)
        self.best, self.num_bad, self.cooldown_left = state["best"], state["num_bad"], state["cooldown_left"]

    def _get_value(self) -> list[float]:
        values = self.get_last_value()
        lower = [max(value * self.factor, low) for value, low in zip(values, self.min_values, strict=True)]
        return [new if old - new > self.eps else old for old, new in zip(values, lower, strict=True)]

    def _is_better(self, value: float) -> bool:
        sign = -1 if self.rule == "less" else 1
        relative = self.threshold_rule == "rel"
        bound = self.best * (1 + sign * self.threshold) if relative else self.best + sign * self.threshold
        return value < bound if self.rule == "less" else value > bound
