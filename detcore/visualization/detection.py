"""Detections and annotations drawn with class names and scores."""
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from detcore.registry import VISBACKENDS
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.mask import as_bitmaps
from detcore.visualization import canvas
from detcore.visualization.backends import VisBackend, write_image
from detcore.visualization.palette import Color, get_palette
from detcore.visualization.visualizer import Visualizer, as_array


class DetLocalVisualizer(Visualizer):
    """Draws what a detector found and what is annotated.

    Args:
        name: kept for configs.
        image: picture to start with.
        vis_backends: receivers of pictures and figures.
        save_dir: folder of the run.
        bbox_color: RGB of all boxes; None takes the palette of ``dataset_meta``, or the project's own.
        text_color: kept for configs; letters are black or white, by their ground.
        mask_color: RGB of all masks; None is the boxes' colour.
        line_width: of boxes in pixels; None suits the picture.
        alpha: share of the colour in masks, 0 to 1.
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: np.ndarray | None = None,
        vis_backends: Annotated[Sequence[VisBackend] | VisBackend | None, VISBACKENDS] = None,
        save_dir: str | None = None,
        bbox_color: str | Sequence[int] | None = None,
        text_color: str | Sequence[int] | None = None,
        mask_color: str | Sequence[int] | None = None,
        line_width: int | None = None,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(name=name, image=image, vis_backends=vis_backends, save_dir=save_dir)
        self.bbox_color = bbox_color
        self.text_color = text_color
        self.mask_color = mask_color
        self.line_width = line_width
        self.alpha = alpha

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> None:
        """Draw one image; annotations on the left and predictions on the right where there are both.

        The picture goes to `out_file` if that is given, else to the backends; `get_image` returns it.

        Args:
            name: of the picture.
            image: RGB (H, W, 3).
            data_sample: ``gt_instances`` and ``pred_instances``, boxes xyxy in pixels of `image`.
            draw_gt: draw ``gt_instances`` where the image is annotated.
            draw_pred: draw ``pred_instances`` where the sample has them.
            show: open a window.
            wait_time: milliseconds that the window stays; 0 waits for a key.
            out_file: file to write.
            pred_score_thr: lowest score that is drawn.
            step: of the run.
        """
        panels = []
        sample = data_sample if data_sample is not None else DetDataSample()
        # An image that nobody annotated has instances without fields; one without objects has empty fields.
        if draw_gt and "gt_instances" in sample and sample.gt_instances.keys():
            panels.append(self.draw_instances(image, sample.gt_instances))
        if draw_pred and "pred_instances" in sample:
            found = sample.pred_instances
            if "scores" in found:
                found = found[found.scores >= pred_score_thr]
            panels.append(self.draw_instances(image, found))
        if not panels:
            panels.append(canvas.to_rgb_uint8(image))
        drawn = np.concatenate(panels, axis=1)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_image(out_file, drawn)
        else:
            self.add_image(name, drawn, step)

    def draw_instances(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        """A picture with these instances on it.

        Args:
            image: RGB (H, W, 3); left as it is.
            instances: ``bboxes`` [N, 4] xyxy in pixels, ``labels`` [N], and where there are any
                ``scores`` [N] and ``masks``.

        Returns:
            uint8 (H, W, 3).
        """
        drawn = canvas.to_rgb_uint8(image)
        number = len(instances)
        if not number:
            return drawn
        labels = as_array(instances["labels"]).astype(int) if "labels" in instances else np.zeros(number, int)
        scores = as_array(instances["scores"]).astype(float) if "scores" in instances else None
        order = np.arange(number) if scores is None else np.argsort(-scores, kind="stable")
        classes = self.dataset_meta.get("classes")
        count = max(len(classes or ()), int(labels.max()) + 1)
        palette = get_palette(self.bbox_color or self.dataset_meta.get("palette"), count)  # type: ignore[arg-type]
        colors = [palette[labels[row]] for row in order]
        if "masks" in instances:
            masks = _masks(instances["masks"], drawn.shape[:2])
            self._tint(drawn, [masks[row] for row in order], colors)
        if "bboxes" in instances:
            boxes = as_array(instances["bboxes"]).astype(float).reshape(-1, 4)[order]
            canvas.draw_boxes(drawn, boxes[::-1], colors[::-1], self.line_width or canvas.line_width(drawn))
            texts = [_text(labels[row], classes, None if scores is None else scores[row]) for row in order]
            canvas.draw_labels(drawn, boxes, texts, colors, canvas.text_height(drawn))
        return drawn

    def _tint(self, drawn: np.ndarray, masks: list[np.ndarray], colors: list[Color]) -> None:
        if self.mask_color is not None:
            colors = get_palette(self.mask_color, len(colors))  # type: ignore[arg-type]
        canvas.draw_masks(drawn, masks, colors, self.alpha)


def _text(label: int, classes: Sequence[str] | None, score: float | None) -> str:
    name = str(classes[label]) if classes and label < len(classes) else f"class {label}"
    return name if score is None else f"{name} {score:.2f}"


def _masks(masks: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Bool (N, H, W) of a tensor, an array, RLE dicts, or our mask structures."""
    return as_bitmaps(masks).astype(bool, copy=False).reshape(-1, *shape)
