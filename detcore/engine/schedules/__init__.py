"""Schedules of learning rate and momentum: they multiply or shift the current value, in turn or at once."""

from detcore.engine.schedules.base import INF, ParamScheduler
from detcore.engine.schedules.composed import ParamSchedules, build_schedules

__all__ = ["INF", "ParamScheduler", "ParamSchedules", "build_schedules"]
