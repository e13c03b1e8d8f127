"""Receivers that hand pictures, figures and the config of a run to a tracking service's own package."""
import importlib
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detcore.errors import ConfigError
from detcore.visualization.backends import VisBackend, plain

Suffixes = str | Sequence[str]


class Tracker(VisBackend):
    """Base: the service's run is opened when the first thing arrives.

    Args:
        save_dir: Folder of what the service writes here; the visualizer sets it where it is None.
        artifact_suffix: Ends of the names of files below the work folder that `close` hands over.
    """

    def __init__(self, save_dir: str | None = None, artifact_suffix: Suffixes = ()) -> None:
        super().__init__(save_dir)
        given = artifact_suffix
        self.artifact_suffix = (given,) if isinstance(given, str) else tuple(given)
        self._run: Any = None
        self._work_dir: Path | None = None

    @property
    def experiment(self) -> Any:
        """The service's run, for what this class does not cover.

        Raises:
            ConfigError: Its package is not installed.
        """
        if self._run is None:
            self._run = self._open()
        return self._run

    @abstractmethod
    def _open(self) -> Any:
        """Open a run."""

    @abstractmethod
    def _track(self, run: Any, name: str, value: float, step: int) -> None:
        """Hand over one figure."""

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None
    ) -> None:
        """Hand over the figures that are numbers; these services have no place for words."""
        for name, value in scalar_dict.items():
            number = plain(value)
            if isinstance(number, int | float):
                self._track(self.experiment, name, number, step)

    def add_config(self, config: Any) -> None:
        """Hand over the config, and note where the run's files are."""
        if config.get("work_dir"):
            self._work_dir = Path(config["work_dir"])
        self._configure(self.experiment, config)

    @abstractmethod
    def _configure(self, run: Any, config: Any) -> None:
        """Hand over the config."""

    def close(self) -> None:
        """Hand over the artifacts, and end the run."""
        if self._run is not None:
            self._end(self._run)
            self._run = None

    @abstractmethod
    def _end(self, run: Any) -> None:
        """End the run."""

    def _artifacts(self) -> Iterator[tuple[Path, str]]:
        """Files to hand over, each with its folder below the work folder (empty: in it)."""
        if self._work_dir is None or not self.artifact_suffix:
            return
        for path in sorted(self._work_dir.rglob("*")):
            if path.is_file() and path.name.endswith(self.artifact_suffix):
                folder = path.parent.relative_to(self._work_dir)
                yield path, "" if folder == Path() else folder.as_posix()


class MLflowVisBackend(Tracker):
    """MLflow.

    Args:
        save_dir: Where runs are kept if there is no ``tracking_uri``.
        exp_name: Name of the experiment.
        run_name: Name of the run.
        tags: Tags of the run.
        params: Parameters of the run, besides those of the config.
        tracking_uri: Address of a tracking server.
        artifact_suffix: See `Tracker`.
        tracked_config_keys: Top-level keys of the config that become parameters; None: all.
        artifact_location: Where a new experiment keeps its artifacts.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        exp_name: str | None = None,
        run_name: str | None = None,
        tags: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        tracking_uri: str | None = None,
        artifact_suffix: Suffixes = (".json", ".log", ".py", "yaml"),
        tracked_config_keys: Sequence[str] | None = None,
        artifact_location: str | None = None,
    ) -> None:
        super().__init__(save_dir, artifact_suffix)
        self.exp_name = exp_name or "Default"
        self.run_name = run_name
        self.tags, self.params = tags, params
        self.tracking_uri = tracking_uri
        self.tracked_config_keys = tracked_config_keys
        self.artifact_location = artifact_location

    def _open(self) -> Any:
        mlflow = package("mlflow", self)
        mlflow.set_tracking_uri(self.tracking_uri or self.folder().resolve().as_uri())
        if mlflow.get_experiment_by_name(self.exp_name) is None:
            mlflow.create_experiment(self.exp_name, artifact_location=self.artifact_location)
        mlflow.set_experiment(self.exp_name)
        if self.run_name is not None:
            mlflow.set_tag("mlflow.runName", self.run_name)
        if self.tags is not None:
            mlflow.set_tags(self.tags)
        if self.params is not None:
            mlflow.log_params(self.params)
        return mlflow

    def _configure(self, run: Any, config: Any) -> None:
        content = config.to_dict()
        keys = content if self.tracked_config_keys is None else self.tracked_config_keys
        run.log_params(dict(_flat({key: content[key] for key in keys})))
        run.log_text(config.pretty_text, "config.py")

    def _track(self, run: Any, name: str, value: float, step: int) -> None:
        run.log_metric(name, value, step)

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Keep a picture as an artifact; MLflow tells its format from the name."""
        self.experiment.log_image(image, f"{name}_{step}.png")

    def _end(self, run: Any) -> None:
        for path, folder in self._artifacts():
            run.log_artifact(str(path), folder)
        run.end_run()


class ClearMLVisBackend(Tracker):
    """ClearML.

    Args:
        save_dir: Not needed: ClearML has its own.
        init_kwargs: Arguments of ``clearml.Task.init``.
        artifact_suffix: See `Tracker`; only files in the work folder itself.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        init_kwargs: dict[str, Any] | None = None,
        artifact_suffix: Suffixes = (".py", ".pth"),
    ) -> None:
        super().__init__(save_dir, artifact_suffix)
        self.init_kwargs = init_kwargs or {}

    def _open(self) -> Any:
        return package("clearml", self).Task.init(**self.init_kwargs)

    def _configure(self, run: Any, config: Any) -> None:
        run.connect_configuration(config.to_dict())

    def _track(self, run: Any, name: str, value: float, step: int) -> None:
        run.get_logger().report_scalar(title=name, series=name, value=value, iteration=step)

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Report a picture."""
        self.experiment.get_logger().report_image(title=name, series=name, iteration=step, image=image)

    def _end(self, run: Any) -> None:
        for path, folder in self._artifacts():
            if not folder:
                run.upload_artifact(path.name, str(path))
        run.close()


class NeptuneVisBackend(Tracker):
    """Neptune; offline unless ``init_kwargs`` says where to.

    Args:
        save_dir: Not needed.
        init_kwargs: Arguments of ``neptune.init_run``, such as ``dict(project='group/cells')``.
    """

    def __init__(self, save_dir: str | None = None, init_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(save_dir)
        self.init_kwargs = {"mode": "offline"} if init_kwargs is None else init_kwargs

    def _open(self) -> Any:
        return package("neptune", self).init_run(**self.init_kwargs)

    def _configure(self, run: Any, config: Any) -> None:
        run["config"].upload(package("neptune.types", self).File.from_content(config.pretty_text))

    def _track(self, run: Any, name: str, value: float, step: int) -> None:
        run[name].append(value, step=step)

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Append a picture, scaled to 0..1 as Neptune wants it."""
        run = self.experiment
        scaled = image.astype(np.float32) / 255
        run["images"].append(package("neptune.types", self).File.as_image(scaled), name=name, step=step)

    def _end(self, run: Any) -> None:
        run.stop()


class DVCLiveVisBackend(Tracker):
    """DVCLive, in a repository of Git and DVC.

    Args:
        save_dir: Folder of what DVCLive writes.
        artifact_suffix: See `Tracker`.
        init_kwargs: Arguments of ``dvclive.Live``.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        artifact_suffix: Suffixes = (".json", ".py", "yaml"),
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(save_dir, artifact_suffix)
        self.init_kwargs = init_kwargs or {}

    def _open(self) -> Any:
        usual = {"dir": str(self.folder()), "save_dvc_exp": True, "cache_images": True}
        return package("dvclive", self).Live(**{**usual, **self.init_kwargs})

    def _configure(self, run: Any, config: Any) -> None:
        run.log_params(_listed(config.to_dict()))

    def _track(self, run: Any, name: str, value: float, step: int) -> None:
        run.step = step
        run.log_metric(name, value)

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Log a picture; DVCLive keeps the newest of each name for a step."""
        self.experiment.log_image(f"{name}.png", image)

    def _end(self, run: Any) -> None:
        for path, folder in self._artifacts():
            run.log_artifact(str(path), folder)
        run.end()


class AimVisBackend(Tracker):
    """Aim.

    Args:
        save_dir: The experiment is named after it, unless ``init_kwargs`` does.
        init_kwargs: Arguments of ``aim.Run``.
    """

    def __init__(self, save_dir: str | None = None, init_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(save_dir)
        self.init_kwargs = init_kwargs or {}

    def _open(self) -> Any:
        name = "_".join(Path(self.save_dir).parts[-2:]) if self.save_dir else time.strftime("%Y%m%d_%H%M%S")
        return package("aim", self).Run(**{"experiment": name, **self.init_kwargs})

    def _configure(self, run: Any, config: Any) -> None:
        run["hparams"] = config.to_dict()

    def _track(self, run: Any, name: str, value: float, step: int) -> None:
        run.track(name=name, value=value, step=step)

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Track a picture."""
        self.experiment.track(name=name, value=package("aim", self).Image(image), step=step)

    def _end(self, run: Any) -> None:
        run.close()


def package(name: str, user: VisBackend) -> Any:
    """Import a tracking service's package.

    Raises:
        ConfigError: It is not installed; the message has the pip line.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        distribution = name.partition(".")[0]
        raise ConfigError(
            f"{type(user).__name__} needs a package that is not here: pip install {distribution}"
        ) from error


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts and lists of dicts, by their dotted paths."""
    for key, value in content.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield from _flat({str(index): item for index, item in enumerate(value)}, f"{path}.")
        else:
            yield path, value


def _listed(value: Any) -> Any:
    """The same with lists for tuples and plain values for everything else: what YAML can say."""
    if isinstance(value, Mapping):
        return {str(key): _listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    return plain(value)
