"""The teacher follows the student: Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780).

After every step each weight of the teacher becomes ``(1 - momentum) * teacher + momentum * student``
(equation 2 there, with alpha = 1 - momentum). The detector makes this update itself, see
:meth:`~det_semi.semi_base.SemiBaseDetector.join_training`; the hook only changes its settings.
"""

import logging
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detcore.engine.distributed import unwrap_model
from detcore.engine.ema import floating_tensors, take_in
from detcore.engine.hooks import Hook
from detcore.engine.state import TrainState
from detcore.errors import ConfigError

logger = logging.getLogger(__name__)


class MeanTeacher:
    """Moves a teacher towards its student.

    Args:
        student: Learns.
        teacher: Of the same structure.
        momentum: Weight of the student, small.
        interval: Steps from one update to the next.
        skip_buffer: Leave buffers (means and variances of batch norms) as they are. Only where the student's
            stay as they are, too, does that not matter.

    Raises:
        ConfigError: Momentum or interval make no sense.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        momentum: float = 0.001,
        interval: int = 1,
        skip_buffer: bool = False,
    ) -> None:
        if not 0 < momentum < 1:
            raise ConfigError(
                f"the teacher's momentum is the weight of the student, between 0 and 1, got {momentum}"
            )
        if interval < 1:
            raise ConfigError(f"the teacher is updated every so many steps, at least 1, got {interval}")
        self.student, self.teacher = student, teacher
        self.momentum, self.interval, self.skip_buffer = momentum, interval, skip_buffer

    def update(self, state: TrainState) -> None:
        """Make the update that is due after a step; for ``TrainState.after_update``.

        Raises:
            TrainingError: On the CPU, when the student is not finite; the teacher is untouched then.
        """
        if (state.step + 1) % self.interval:
            return
        buffers = not self.skip_buffer
        take_in(
            floating_tensors(self.teacher, buffers), floating_tensors(self.student, buffers), self.momentum
        )
        if buffers:
            self._copy_counters()

    def _copy_counters(self) -> None:
        theirs = dict(self.student.named_buffers())
        for name, mine in self.teacher.named_buffers():
            if not mine.is_floating_point():
                mine.copy_(theirs[name])

    def warn_of_stale_buffers(self) -> None:
        """Say so where the student's batch norms gather averages that the teacher never gets."""
        gathering = [
            name
            for name, module in self.student.named_modules()
            if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        ]
        if self.skip_buffer and gathering:
            logger.warning(
                "skip_buffer=True, but %d batch norms of the student gather means and variances (%s, ...); "
                "the teacher keeps those it began with and will predict badly: write skip_buffer=False",
                len(gathering),
                gathering[0],
            )


class MeanTeacherHook(Hook):
    """Changes how the teacher follows the student; that it does needs no hook.

    Args:
        momentum: Weight of the student in the update.
        interval: Steps from one update to the next.
        skip_buffer: Leave buffers as they are; see :class:`MeanTeacher`.
    """

    priority = "NORMAL"

    def __init__(self, momentum: float = 0.001, interval: int = 1, skip_buffer: bool = False) -> None:
        self.momentum, self.interval, self.skip_buffer = momentum, interval, skip_buffer

    def before_train(self, runner: Any) -> None:
        """Set the detector's update.

        Raises:
            ConfigError: The detector has no teacher and student, or the settings make no sense.
        """
        model: Any = unwrap_model(runner.model)
        if not (hasattr(model, "teacher") and hasattr(model, "student")):
            raise ConfigError(
                f"MeanTeacherHook needs a detector with a teacher and a student, such as semi.SoftTeacher; "
                f"got {type(model).__name__}"
            )
        model.mean_teacher = MeanTeacher(
            model.student, model.teacher, self.momentum, self.interval, self.skip_buffer
        )
        model.student.train()
        model.mean_teacher.warn_of_stale_buffers()
