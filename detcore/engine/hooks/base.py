"""The base of every hook: the points of a run at which users' code may look on."""
from typing import Any, ClassVar

PRIORITIES: dict[str, int] = {
    "HIGHEST": 0,
    "VERY_HIGH": 10,
    "HIGH": 30,
    "ABOVE_NORMAL": 40,
    "NORMAL": 50,
    "BELOW_NORMAL": 60,
    "LOW": 70,
    "VERY_LOW": 90,
    "LOWEST": 100,
}


class Hook:
    """Something that looks on while a run goes by.

    Override the points you need; each is called with the runner first and the rest by keyword. Hooks run in
    the order of their priority (a name of `PRIORITIES` or 0..100, lower first), equal ones in the order of
    the config. A hook that must survive a resume returns plain data or tensors from `state_dict`.

    During ``after_train_iter`` ``runner.iter`` is the zero-based index of the step that was just made, and
    during ``after_train_epoch`` ``runner.epoch`` is the zero-based index of the pass that has just ended.
    """

    priority: ClassVar[str | int] = "NORMAL"

    def before_run(self, runner: Any) -> None:
        """Run once, before anything else, when the model and the loaders exist."""

    def after_run(self, runner: Any) -> None:
        """Run once, at the very end."""

    def before_train(self, runner: Any) -> None:
        """Run before the first training step (and after a checkpoint was loaded)."""

    def after_train(self, runner: Any) -> None:
        """Run after the last training step."""

    def before_val(self, runner: Any) -> None:
        """Run before a validation."""

    def after_val(self, runner: Any) -> None:
        """Run after a validation."""

    def before_test(self, runner: Any) -> None:
        """Run before a test."""

    def after_test(self, runner: Any) -> None:
        """Run after a test."""

    def before_train_epoch(self, runner: Any) -> None:
        """Run before each pass over the training data."""
        self._before_epoch(runner, mode="train")

    def after_train_epoch(self, runner: Any) -> None:
        """Run after each pass over the training data."""
        self._after_epoch(runner, mode="train")

    def before_val_epoch(self, runner: Any) -> None:
        """Run before the batches of a validation."""
        self._before_epoch(runner, mode="val")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Run after the batches of a validation, with its figures."""
        self._after_epoch(runner, mode="val")

    def before_test_epoch(self, runner: Any) -> None:
        """Run before the batches of a test."""
        self._before_epoch(runner, mode="test")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Run after the batches of a test, with its figures."""
        self._after_epoch(runner, mode="test")

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each training step."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="train")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Run after each training step; ``outputs`` holds the losses (tensors) and their sum as ``loss``."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="train")

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each batch of a validation."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="val")

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Run after each batch of a validation; ``outputs`` holds a DetDataSample an image."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="val")

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Run before each batch of a test."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="test")

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Run after each batch of a test; ``outputs`` holds a DetDataSample an image."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="test")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Run before a checkpoint is written; may add plain data or tensors to it."""

    def after_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Run after a checkpoint was written."""

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Run after a checkpoint was read, before it is put into the model."""

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        """Run before each pass, of whatever ``mode`` (train, val, test)."""

    def _after_epoch(self, runner: Any, mode: str = "train") -> None:
        """Run after each pass, of whatever ``mode``."""

    def _before_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        """Run before each batch, of whatever ``mode``."""

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        """Run after each batch, of whatever ``mode``."""

    def state_dict(self) -> dict[str, Any]:
        """What this hook needs to go on exactly after a resume: plain data and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def every_n_epochs(self, runner: Any, n: int, start: int = 0) -> bool:
        """Whether the pass that ends now is an ``n``-th one, counted from ``start``."""
        return n > 0 and runner.epoch + 1 > start and (runner.epoch + 1 - start) % n == 0

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether this batch of the pass is an ``n``-th one."""
        return n > 0 and (batch_idx + 1) % n == 0

    def every_n_train_iters(self, runner: Any, n: int, start: int = 0) -> bool:
        """Whether the step that ends now is an ``n``-th one, counted from ``start``."""
        return n > 0 and runner.iter + 1 > start and (runner.iter + 1 - start) % n == 0

    def end_of_epoch(self, dataloader: Any, batch_idx: int) -> bool:
        """Whether this batch is the loader's last one."""
        return batch_idx + 1 == len(dataloader)

    def is_last_train_epoch(self, runner: Any) -> bool:
        """Whether the pass that ends now is the last one."""
        return runner.epoch + 1 == runner.max_epochs

    def is_last_train_iter(self, runner: Any) -> bool:
        """Whether the step that ends now is the last one."""
        return runner.iter + 1 == runner.max_iters
