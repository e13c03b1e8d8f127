"""Where drawn pictures, figures and the config of a run go."""
import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detcore.errors import ConfigError, DetcoreError

logger = logging.getLogger(__name__)


class VisBackend(ABC):
    """One receiver. Nothing is opened before the first thing arrives.

    Args:
        save_dir: folder to write to; the visualizer sets it where it is None.
    """

    def __init__(self, save_dir: str | None = None) -> None:
        self.save_dir = save_dir

    def folder(self) -> Path:
        """The folder to write to, made if it is not there.

        Raises:
            ConfigError: no folder was given.
        """
        if not self.save_dir:
            raise ConfigError(f"{type(self).__name__} needs save_dir, the folder to write to")
        path = Path(self.save_dir)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @abstractmethod
    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Take a picture, uint8 RGB (H, W, 3)."""

    @abstractmethod
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None
    ) -> None:
        """Take figures of one step, numbers or tensors of one element."""

    @abstractmethod
    def add_config(self, config: Any) -> None:
        """Take the config of the run."""

    def add_graph(self, model: Any, data_batch: Any = None) -> None:
        """Take the model of the run; most have no use for it."""
        return

    def add_scalar(self, name: str, value: Any, step: int = 0) -> None:
        """Take one figure."""
        self.add_scalars({name: value}, step)

    def close(self) -> None:
        """Write what is still to be written; most have written everything already."""
        return


class LocalVisBackend(VisBackend):
    """Files in a folder: pictures as png, figures as JSON lines, the config as Python.

    Args:
        save_dir: the folder.
        img_save_dir: folder below it for pictures.
        config_save_file: name of the config's file.
        scalar_save_file: name of the figures' file.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        img_save_dir: str = "vis_image",
        config_save_file: str = "config.py",
        scalar_save_file: str = "scalars.json",
    ) -> None:
        super().__init__(save_dir)
        self.img_save_dir = img_save_dir
        self.config_save_file = config_save_file
        self.scalar_save_file = scalar_save_file

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Write ``<name>_<step>.png``."""
        write_image(self.folder() / self.img_save_dir / f"{_file_name(name)}_{step}.png", image)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None
    ) -> None:
        """Append one line of JSON; to the file of that name instead of the usual one, if it is given."""
        name = Path(file_path).name if file_path else self.scalar_save_file
        record = {"step": step, **{key: plain(value) for key, value in scalar_dict.items()}}
        with (self.folder() / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def add_config(self, config: Any) -> None:
        """Write the config so that it can be run again."""
        config.dump(self.folder() / self.config_save_file)


class TensorboardVisBackend(VisBackend):
    """Event files for TensorBoard.

    Args:
        save_dir: the folder.
    """

    def __init__(self, save_dir: str | None = None) -> None:
        super().__init__(save_dir)
        self._writer: Any = None

    def writer(self) -> Any:
        """The writer behind it, for what this class does not cover.

        Raises:
            ConfigError: TensorBoard is not installed.
        """
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "TensorboardVisBackend needs TensorBoard: pip install 'detcore[tensorboard]'"
                ) from error
            self._writer = SummaryWriter(str(self.folder()))
        return self._writer

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Add a picture."""
        self.writer().add_image(name, image, step, dataformats="HWC")

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None
    ) -> None:
        """Add the figures that are numbers; TensorBoard has no place for words."""
        for name, value in scalar_dict.items():
            number = plain(value)
            if isinstance(number, (int, float)):
                self.writer().add_scalar(name, number, step)

    def add_config(self, config: Any) -> None:
        """Add the config as text."""
        self.writer().add_text("config", f"```python\n{config.pretty_text}\n```")

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbVisBackend(VisBackend):
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything on this machine.

    Args:
        save_dir: the folder.
        init_kwargs: arguments of ``wandb.init``, such as ``dict(project='cells')``.
        define_metric_cfg: which value of a figure sums up the run: ``{'coco/bbox_mAP': 'max'}``, or a list of
            arguments of ``run.define_metric``.
        commit: whether each call ends W&B's own step.
        log_code_name: name under which the code of the current folder is kept.
        watch_kwargs: arguments of ``run.watch``, which follows gradients and weights; the model comes by
            `add_graph` (`NaiveVisualizationHook` calls it).
    """

    def __init__(
        self,
        save_dir: str | None = None,
        init_kwargs: dict[str, Any] | None = None,
        define_metric_cfg: Mapping[str, str] | Sequence[Mapping[str, Any]] | None = None,
        commit: bool = True,
        log_code_name: str | None = None,
        watch_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self.init_kwargs = init_kwargs or {}
        if isinstance(define_metric_cfg, Mapping):
            define_metric_cfg = [{"name": name, "summary": way} for name, way in define_metric_cfg.items()]
        self._metrics = [dict(one) for one in define_metric_cfg or ()]
        self.commit = commit
        self.log_code_name = log_code_name
        self.watch_kwargs = watch_kwargs
        self._run: Any = None

    def run(self) -> Any:
        """W&B's run.

        Raises:
            ConfigError: the package is not installed.
        """
        if self._run is None:
            try:
                import wandb
            except ImportError as error:
                raise ConfigError("WandbVisBackend needs W&B: pip install 'detcore[wandb]'") from error
            self._run = wandb.init(**{"dir": str(self.folder()), **self.init_kwargs})
            for metric in self._metrics:
                self._run.define_metric(**metric)
        return self._run

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Log a picture."""
        run = self.run()
        import wandb

        run.log({name: wandb.Image(image)}, commit=self.commit)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None
    ) -> None:
        """Log figures, with the step among them."""
        record = {name: plain(value) for name, value in scalar_dict.items()}
        self.run().log({**record, "step": step}, commit=self.commit)

    def add_config(self, config: Any) -> None:
        """Log the config, and the code where it has a name."""
        self.run().config.update(config.to_dict(), allow_val_change=True)
        if self.log_code_name is not None:
            self.run().log_code(name=self.log_code_name)

    def add_graph(self, model: Any, data_batch: Any = None) -> None:
        """Let W&B follow the model's gradients and weights."""
        self.run().watch(model, **(self.watch_kwargs or {}))

    def close(self) -> None:
        """End W&B's run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write a picture in the format of its suffix; folders are made.

    Args:
        path: file to write.
        image: uint8 RGB (H, W, 3).

    Raises:
        DetcoreError: OpenCV cannot write that format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise DetcoreError(f"cannot write {path}: no picture format of suffix {path.suffix!r}") from error
    if not done:
        raise DetcoreError(f"cannot write {path}: encoding failed")
    path.write_bytes(encoded.tobytes())


def plain(value: Any) -> Any:
    """A number that JSON knows (no NaN: readers in other languages stop there), or the value's text."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _file_name(name: str) -> str:
    """A name that stays inside its folder."""
    return name.replace("/", "_").replace("\\", "_").lstrip(".") or "image"
