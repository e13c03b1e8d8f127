"""Validates both networks of a teacher-student detector."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detcore.engine.distributed import unwrap_model
from detcore.engine.evaluation_loops import ValLoop
from detcore.errors import ConfigError


class TeacherStudentValLoop(ValLoop):
    """Evaluates the teacher, then the student; figures are named ``teacher/...`` and ``student/...``."""

    def evaluate(self) -> dict[str, float]:
        """Predict every image once with each of the two.

        Raises:
            ConfigError: The detector has no teacher and student.
        """
        metrics: dict[str, float] = {}
        for part in ("teacher", "student"):
            with answering(self.runner.model, part):
                found = super().evaluate()
            metrics.update({f"{part}/{name}": value for name, value in found.items()})
        return metrics


@contextmanager
def answering(model: Any, part: str) -> Iterator[None]:
    """Context in which one of the two networks predicts.

    Raises:
        ConfigError: The detector has no teacher and student.
    """
    detector = unwrap_model(model)
    settings = getattr(detector, "semi_test_cfg", None)
    if settings is None or not (hasattr(detector, "teacher") and hasattr(detector, "student")):
        raise ConfigError(
            "TeacherStudentValLoop needs a detector with a teacher and a student, such as semi.SoftTeacher; "
            f"got {type(detector).__name__}"
        )
    before = settings.get("predict_on", "teacher")
    settings["predict_on"] = part
    try:
        yield
    finally:
        settings["predict_on"] = before
