"""What changes from some pass on: the training loop applies it by name before the pass begins."""
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from detcore.data.transforms.compose import Compose
from detcore.engine.hooks.base import Hook
from detcore.errors import ConfigError
from detcore.registry import TRANSFORMS

_log = logging.getLogger(__name__)


class SwitchHook(Hook):
    """Base of the hooks that change a run once, before some pass.

    What is switched is not saved: a resumed run begins with the parts of its config, and the loop switches
    them again before its first step.
    """

    def __init__(self) -> None:
        self._switched = False

    def is_due(self, runner: Any) -> bool:
        """Whether the pass that is about to begin (``runner.epoch``, from zero) has the switch behind it."""
        raise NotImplementedError

    def switch(self, runner: Any) -> None:
        """Make the change."""
        raise NotImplementedError

    def begin_pass(self, runner: Any) -> None:
        """Switch, if that is due and was not done yet; called before each pass, also a resumed one."""
        if not self._switched and self.is_due(runner):
            self.switch(runner)
            self._switched = True


class PipelineSwitchHook(SwitchHook):
    """Gives the training data another pipeline from a pass on (RTMDet's last epochs without mosaic).

    Args:
        switch_epoch: Zero-based pass that is the first with the new pipeline.
        switch_pipeline: The new transforms; every data set behind wrappers gets them. Samples of a
            `MultiImageMixDataset` go through them alone from then on: it mixes no more.
    """

    def __init__(
        self, switch_epoch: int, switch_pipeline: Annotated[Sequence[Callable], TRANSFORMS]
    ) -> None:
        super().__init__()
        self.switch_epoch = switch_epoch
        self.switch_pipeline = Compose(switch_pipeline)

    def before_train(self, runner: Any) -> None:
        """Warn where passes are not counted."""
        if runner.train_loop.epoch_length is None and self.switch_epoch > 0:
            _log.warning("PipelineSwitchHook: switch_epoch never comes in a run by steps")

    def is_due(self, runner: Any) -> bool:
        """From ``switch_epoch`` on."""
        return bool(runner.epoch >= self.switch_epoch)

    def switch(self, runner: Any) -> None:
        """Replace the pipelines.

        Raises:
            ConfigError: There is no pipeline to replace.
        """
        loader = runner.train_dataloader
        found = _with_pipeline(loader.dataset)
        for wrapper in _nested(loader.dataset):
            if hasattr(wrapper, "stop_mixing"):
                wrapper.stop_mixing()
        for dataset in found:
            dataset.pipeline = self.switch_pipeline
        restart_workers(loader)
        runner.logger.info("From epoch %d on: the data goes through switch_pipeline", runner.epoch + 1)


class YOLOXModeSwitchHook(SwitchHook):
    """Ends a training the way YOLOX does: without mosaic and mixup, with an L1 loss of boxes.

    The first such pass is the one with the zero-based number ``max_epochs - num_last_epochs - 1``: one more
    than the name says, as in MMDetection, whose published results were made so.

    Args:
        num_last_epochs: See above.
        skip_type_keys: Transforms of the training data's `MultiImageMixDataset` to leave out.
    """

    def __init__(
        self,
        num_last_epochs: int = 15,
        skip_type_keys: Sequence[str] = ("Mosaic", "RandomAffine", "MixUp"),
    ) -> None:
        super().__init__()
        self.num_last_epochs = num_last_epochs
        self.skip_type_keys = tuple(skip_type_keys)

    def is_due(self, runner: Any) -> bool:
        """In the last passes."""
        return bool(runner.epoch + 1 >= runner.max_epochs - self.num_last_epochs)

    def switch(self, runner: Any) -> None:
        """Leave the transforms out, and let the head add its loss.

        Raises:
            ConfigError: The training data has no pipeline over several images.
        """
        loader = runner.train_dataloader
        mixing = [dataset for dataset in _nested(loader.dataset) if hasattr(dataset, "update_skip_type_keys")]
        if not mixing:
            raise ConfigError(
                "YOLOXModeSwitchHook leaves out transforms of a MultiImageMixDataset, but "
                f"train_dataloader.dataset is a {type(loader.dataset).__name__} without one; for other data "
                "sets use PipelineSwitchHook"
            )
        for dataset in mixing:
            dataset.update_skip_type_keys(self.skip_type_keys)
        restart_workers(loader)
        head: Any = getattr(getattr(runner.model, "detector", runner.model), "bbox_head", None)
        if hasattr(head, "use_l1"):
            head.use_l1 = True
        else:
            _log.warning("YOLOXModeSwitchHook: %s has no use_l1, its losses stay", type(head).__name__)
        runner.logger.info(
            "From epoch %d on: without %s, with the L1 loss", runner.epoch + 1, ", ".join(self.skip_type_keys)
        )


def restart_workers(loader: Any) -> None:
    """Let the loader's next pass start new workers: those that run hold the data set as it was."""
    close = getattr(loader, "close", None)
    if close is not None:
        close()
    elif getattr(loader, "persistent_workers", False):
        raise ConfigError(
            f"the data set changed, but persistent workers of a {type(loader).__name__} cannot be told; "
            "give train_dataloader as a config, or persistent_workers=False"
        )


def _nested(dataset: Any) -> Iterator[Any]:
    """A data set and those that it wraps, outermost first."""
    yield dataset
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for one in inner:
        if one is not None:
            yield from _nested(one)


def _with_pipeline(dataset: Any) -> list[Any]:
    """The data sets that load images, each with its ``pipeline``."""
    nested = list(_nested(dataset))
    wrappers = [one for one in nested if hasattr(one, "stop_mixing")]
    mixing = [one for one in nested if hasattr(one, "update_skip_type_keys") and one not in wrappers]
    if mixing:
        raise ConfigError(
            f"PipelineSwitchHook: {type(mixing[0]).__name__} has two pipelines, and it is unclear which one "
            "switch_pipeline replaces; leave out transforms by YOLOXModeSwitchHook(skip_type_keys=...)"
        )
    found = [one for one in nested if hasattr(one, "pipeline") and one not in wrappers]
    if not found:
        kinds = ", ".join(type(one).__name__ for one in nested)
        raise ConfigError(f"PipelineSwitchHook: no data set has a `pipeline` to replace; there is {kinds}")
    return found
