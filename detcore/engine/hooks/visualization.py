"""Draws predictions while a run validates or tests."""
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detcore.engine.hooks.base import Hook

_log = logging.getLogger(__name__)


class DetVisualizationHook(Hook):
    """Draws predictions through ``runner.visualizer``.

    In a validation the first image of every ``interval``-th batch is drawn; in a test every image. With
    ``test_out_dir`` the drawings of a test go there, otherwise to the visualiser's backends.

    Args:
        draw: Whether to draw at all.
        interval: Batches between two drawings of a validation.
        score_thr: Lowest score to be drawn.
        show: Open a window (needs a screen).
        wait_time: Seconds that a window stays.
        test_out_dir: Folder for the drawings of a test; a relative one stands in the run's folder.
        backend_args: Accepted for configs of MMDetection.
    """

    priority = "NORMAL"

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir
        self._drawn = 0

    def before_test(self, runner: Any) -> None:
        """Count the drawings from the first again."""
        self._drawn = 0

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        position = runner.iter + batch_idx
        if self.draw and outputs and position % self.interval == 0:
            self._add(runner, outputs[0], name="val_img", step=position)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw every image."""
        if not self.draw:
            return
        samples: Sequence[Any] = outputs or ()
        for sample in samples:
            self._drawn += 1
            out_file = None
            if self.test_out_dir is not None:
                folder = runner.run_dir / self.test_out_dir
                folder.mkdir(parents=True, exist_ok=True)
                out_file = str(
                    folder / f"{Path(sample.img_path).stem}_{sample.img_id}{_suffix(sample.img_path)}"
                )
            self._add(runner, sample, name="test_img", step=self._drawn, out_file=out_file)

    def _add(self, runner: Any, sample: Any, *, name: str, step: int, out_file: str | None = None) -> None:
        if runner.visualizer is None:
            _log.warning("DetVisualizationHook cannot draw: the config has no visualizer")
            self.draw = False
            return
        from detcore.data.image import read_image

        image = read_image(sample.img_path)[..., ::-1]
        runner.visualizer.add_datasample(
            name,
            image,
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            pred_score_thr=self.score_thr,
            out_file=out_file,
            step=step,
        )


def _suffix(path: str) -> str:
    suffix = Path(path).suffix.lower()
    return suffix if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp") else ".png"
