"""A picture to draw on, and the receivers of pictures and figures."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np

from detcore.errors import DetcoreError
from detcore.registry import VISBACKENDS
from detcore.visualization import canvas
from detcore.visualization.backends import VisBackend
from detcore.visualization.palette import Color

FOLDER = "vis_data"  # below that of the run


class Visualizer:
    """Draws into one picture at a time and hands pictures and figures to its backends.

    Args:
        name: kept for configs; there is no register of visualizers by name.
        image: picture to start with, see `set_image`.
        vis_backends: receivers; they write below ``<save_dir>/vis_data`` unless they have a folder of
            their own. Without either they rest.
        save_dir: folder of the run.
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: np.ndarray | None = None,
        vis_backends: Annotated[Sequence[VisBackend] | VisBackend | None, VISBACKENDS] = None,
        save_dir: str | None = None,
    ) -> None:
        self.name = name
        backends = [] if vis_backends is None else vis_backends
        self.vis_backends = [backends] if isinstance(backends, VisBackend) else list(backends)
        self.dataset_meta: dict[str, Any] = {}
        self._image: np.ndarray | None = None
        self.save_dir = save_dir
        if image is not None:
            self.set_image(image)

    @property
    def save_dir(self) -> str | None:
        """Folder of the run; setting it wakes the backends that have none."""
        return self._save_dir

    @save_dir.setter
    def save_dir(self, save_dir: str | Path | None) -> None:
        self._save_dir = None if save_dir is None else str(save_dir)
        if save_dir is not None:
            for backend in self.vis_backends:
                backend.save_dir = backend.save_dir or str(Path(save_dir) / FOLDER)

    def set_image(self, image: np.ndarray) -> None:
        """Draw on a copy of this picture from now on.

        Args:
            image: RGB (H, W, 3), grey or with alpha; uint8, uint16 or floating point.
        """
        self._image = canvas.to_rgb_uint8(image)

    def get_image(self) -> np.ndarray:
        """The drawn picture, uint8 RGB (H, W, 3).

        Raises:
            DetcoreError: there is none yet.
        """
        if self._image is None:
            raise DetcoreError("there is no picture to draw on yet: call set_image(image) first")
        return self._image

    def draw_bboxes(
        self, bboxes: Any, edge_colors: Color | Sequence[Color] = (0, 200, 0), line_widths: int | None = None
    ) -> "Visualizer":
        """Draw rectangles.

        Args:
            bboxes: tensor or array (N, 4) or (4,), xyxy in absolute pixels.
            edge_colors: RGB, one or N.
            line_widths: in pixels; None suits the picture.
        """
        image, boxes = self.get_image(), as_array(bboxes).reshape(-1, 4)
        width = line_widths or canvas.line_width(image)
        canvas.draw_boxes(image, boxes, _each(edge_colors, len(boxes)), width)
        return self

    def draw_texts(
        self, texts: str | Sequence[str], positions: Any, colors: Color | Sequence[Color] = (0, 0, 0),
        font_sizes: int | None = None,
    ) -> "Visualizer":
        """Write labels on coloured ground.

        Args:
            texts: one or N.
            positions: tensor or array (N, 2) or (2,): x, y of the label's top left, in pixels.
            colors: RGB of the ground, one or N; letters are black or white by it.
            font_sizes: height of the letters in pixels; None suits the picture.
        """
        image, places = self.get_image(), as_array(positions).reshape(-1, 2)
        words = [texts] * len(places) if isinstance(texts, str) else list(texts)
        height = font_sizes or canvas.text_height(image)
        points = np.concatenate([places, places], axis=1)
        for point, word, color in zip(points, words, _each(colors, len(words)), strict=True):
            point[[1, 3]] += height + height // 4  # the label stands above a point, it shall start at it
            canvas.draw_labels(image, point[None], [word], [color], height)
        return self

    def draw_polygons(
        self, polygons: Any, edge_colors: Color | Sequence[Color] = (0, 200, 0),
        line_widths: int | None = None,
    ) -> "Visualizer":
        """Draw closed lines.

        Args:
            polygons: one tensor or array (P, 2) of x, y in pixels, or a list of them.
            edge_colors: RGB, one or one for each.
            line_widths: in pixels; None suits the picture.
        """
        image = self.get_image()
        many = list(polygons) if isinstance(polygons, (list, tuple)) else [polygons]
        width = line_widths or canvas.line_width(image)
        for polygon, color in zip(many, _each(edge_colors, len(many)), strict=True):
            points = as_array(polygon).reshape(-1, 1, 2).round().astype(np.int32)
            cv2.polylines(image, [points], True, color, width, cv2.LINE_AA)
        return self

    def draw_binary_masks(
        self, binary_masks: Any, colors: Color | Sequence[Color] = (0, 200, 0), alphas: float = 0.5
    ) -> "Visualizer":
        """Tint regions.

        Args:
            binary_masks: tensor or array (N, H, W) or (H, W).
            colors: RGB, one or N.
            alphas: share of the colour, 0 to 1.
        """
        image, masks = self.get_image(), as_array(binary_masks)
        masks = masks[None] if masks.ndim == 2 else masks
        canvas.draw_masks(image, masks, _each(colors, len(masks)), alphas)
        return self

    def show(
        self, drawn_img: np.ndarray | None = None, win_name: str = "image", wait_time: float = 0
    ) -> None:
        """Show the picture in a window.

        Args:
            drawn_img: uint8 RGB; None is the current picture.
            win_name: title.
            wait_time: milliseconds until it returns; 0 waits for a key.

        Raises:
            DetcoreError: OpenCV has no windows here.
        """
        image = self.get_image() if drawn_img is None else drawn_img
        try:
            cv2.imshow(win_name, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            cv2.waitKey(int(wait_time))
        except cv2.error as error:
            raise DetcoreError(
                "this OpenCV cannot open a window (headless build, or no display): write to a file instead, "
                "with out_file or show_dir"
            ) from error

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Give a picture (uint8 RGB) to all backends."""
        for backend in self._awake():
            backend.add_image(name, image, step)

    def add_scalar(self, name: str, value: Any, step: int = 0) -> None:
        """Give one figure to all backends."""
        for backend in self._awake():
            backend.add_scalar(name, value, step)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None
    ) -> None:
        """Give figures to all backends; `file_path` names the file for those that write lines."""
        for backend in self._awake():
            backend.add_scalars(scalar_dict, step, file_path)

    def add_config(self, config: Any) -> None:
        """Give the run's config to all backends."""
        for backend in self._awake():
            backend.add_config(config)

    def add_graph(self, model: Any, data_batch: Any = None) -> None:
        """Give the model of the run to all backends."""
        for backend in self._awake():
            backend.add_graph(model, data_batch)

    def close(self) -> None:
        """Let all backends write what they still hold."""
        for backend in self.vis_backends:
            backend.close()

    def _awake(self) -> list[VisBackend]:
        return [backend for backend in self.vis_backends if backend.save_dir]


def as_array(value: Any) -> np.ndarray:
    """A tensor on any device, or a list, as an array."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _each(colors: Color | Sequence[Color], number: int) -> list[Color]:
    if len(colors) == 3 and isinstance(colors[0], int):
        return [cast(Color, tuple(colors))] * number
    return cast(list[Color], list(colors))
