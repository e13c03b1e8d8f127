"""Draws predictions while a run validates or tests."""
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detcore.engine.hooks.base import Hook
from detcore.engine.hooks.local_files import require_local

_log = logging.getLogger(__name__)


class DetVisualizationHook(Hook):
    """Draws predictions through ``runner.visualizer``.

    In a validation the first image of every ``interval``-th batch is drawn; in a test every image. With
    ``test_out_dir`` the drawings of a test go there, otherwise to the visualiser's backends.

    Args:
        draw: Whether to draw at all.
        interval: Batches between two drawings of a validation.
        score_thr: Lowest score to be drawn.
        show: Open a window (needs a screen); the visualiser's backends then get nothing.
        wait_time: Seconds that a window stays; 0 waits for a key.
        test_out_dir: Folder for the drawings of a test, under the names of the images; a relative one stands
            in the run's folder.
        backend_args: None or ``dict(backend='local')``.
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
        require_local(self, backend_args=backend_args)
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir
        self._drawn = 0
        self._names: dict[str, str] = {}

    def before_run(self, runner: Any) -> None:
        """Leave the backends out where pictures are only shown."""
        if self.draw and self.show and runner.visualizer is not None and runner.visualizer.vis_backends:
            _log.warning("DetVisualizationHook: show=True, so the visualizer's backends get nothing")
            runner.visualizer.vis_backends = []

    def before_test(self, runner: Any) -> None:
        """Count the drawings from the first again."""
        self._drawn, self._names = 0, {}

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
                out_file = str(folder / self._file_name(sample))
            self._add(runner, sample, name="test_img", step=self._drawn, out_file=out_file)

    def _file_name(self, sample: Any) -> str:
        """The image's own name; with its id where another image of that name was drawn before."""
        path = Path(sample.img_path)
        name = f"{path.stem}{_suffix(path.name)}"
        if self._names.setdefault(name, str(path)) != str(path):
            name = f"{path.stem}_{sample.img_id}{_suffix(path.name)}"
        return name

    def _add(self, runner: Any, sample: Any, *, name: str, step: int, out_file: str | None = None) -> None:
        if not hasattr(runner.visualizer, "add_datasample"):
            _log.warning("DetVisualizationHook cannot draw: the config has no visualizer of detections")
            self.draw = False
            return
        from detcore.data.image import read_image

        image = read_image(sample.img_path)[..., ::-1]
        runner.visualizer.add_datasample(
            Path(sample.img_path).name if self.show else name,
            image,
            data_sample=sample,
            show=self.show,
            wait_time=1000 * self.wait_time,  # the visualiser counts milliseconds
            pred_score_thr=self.score_thr,
            out_file=out_file,
            step=step,
        )


def _suffix(path: str) -> str:
    suffix = Path(path).suffix.lower()
    return suffix if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp") else ".png"


class NaiveVisualizationHook(Hook):
    """Draws test images with their ground truth and predictions, every ``interval``-th batch.

    It also hands the model to the visualiser's backends before training (``add_graph``).

    Args:
        interval: Batches between two drawings.
        draw_gt: Draw the ground truth.
        draw_pred: Draw the predictions.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 1, draw_gt: bool = True, draw_pred: bool = True) -> None:
        self.interval = interval
        self.draw_gt = draw_gt
        self.draw_pred = draw_pred

    def before_train(self, runner: Any) -> None:
        """Hand the model over."""
        if runner.visualizer is not None:
            runner.visualizer.add_graph(runner.model, None)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the images of this batch, in their original size."""
        if runner.visualizer is None or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        from detcore.data.image import read_image

        for sample in outputs or ():
            runner.visualizer.add_datasample(
                Path(sample.img_path).name,
                read_image(sample.img_path)[..., ::-1],
                data_sample=sample,
                draw_gt=self.draw_gt,
                draw_pred=self.draw_pred,
                step=batch_idx,
            )
