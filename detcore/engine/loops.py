"""The two training loops; each reads from top to bottom.

Loops of users' own derive from these and may replace ``run``, ``run_epoch`` and what else they need in
MMEngine's shape, which counts in ``_epoch`` and ``_iter``. What must happen around a pass all the same is in
:meth:`TrainLoop.begin_pass` and :meth:`EpochBasedTrainLoop.end_epoch`, which do nothing the second time.
"""
import bisect
from collections.abc import Iterator, Sequence
from typing import Any

from detcore.engine.base_loop import BaseLoop
from detcore.engine.hooks.switch import SwitchHook
from detcore.engine.hooks.sync import SyncHook
from detcore.engine.step import train_step
from detcore.errors import ConfigError, DataError


class TrainLoop(BaseLoop):
    """What both training loops share: one step, and when an evaluation is due.

    Args:
        runner: The run.
        dataloader: The training loader; ``set_epoch``, ``state_dict`` and ``load_state_dict`` make it
            resumable.
        val_begin: Pass (or step) from which on evaluations are due.
        val_interval: Passes (or steps) between two evaluations.
        dynamic_intervals: Pairs (pass or step from which on, another interval).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        _positive("val_interval", val_interval)
        for _, interval in dynamic_intervals or ():
            _positive("an interval of dynamic_intervals", interval)
        super().__init__(runner, dataloader)
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.stop_training = False
        self._epoch = 0
        self._iter = 0
        self._max_epochs = 0
        self._max_iters = 0
        self.inner = 0  # batches of this pass that are done
        self.in_step = False  # from before_train_iter to after_train_iter
        self._opened = -1  # the pass that begin_pass was called for
        self.epoch_length: int | None = None  # steps in a pass, where training counts passes
        self._milestones = [0, *(milestone for milestone, _ in dynamic_intervals or ())]
        self._intervals = [val_interval, *(interval for _, interval in dynamic_intervals or ())]

    @property
    def epoch(self) -> int:
        """Complete passes."""
        return self._epoch

    @property
    def iter(self) -> int:
        """Complete steps."""
        return self._iter

    @property
    def max_epochs(self) -> int:
        """Passes of the whole training."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Steps of the whole training."""
        return self._max_iters

    def validation_due(self) -> bool:
        """Whether the run, as it stands between two steps, asks for an evaluation."""
        raise NotImplementedError

    def is_past_its_end(self) -> bool:
        """Whether a resumed run has made more steps than this loop would."""
        raise NotImplementedError

    def run_iter(self, batch_idx: int, batch: Any) -> None:
        """Make one step and everything that follows it, up to a state that can be saved.

        Args:
            batch_idx: Zero-based position in the pass.
            batch: What the loader gave.

        Raises:
            ConfigError: A loop of a user's own went on to another pass without closing the one before.
        """
        runner = self.runner
        if runner.state.epoch != self._epoch:
            raise ConfigError(
                f"{type(self).__name__} counts {self._epoch} passes, but {runner.state.epoch} were closed; "
                "where both run and run_epoch are replaced, call self.end_epoch() after each (schedules, "
                "saving)"
            )
        self.in_step = True
        runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=batch)
        runner.rates = runner.learning_rates()  # those of this step; the step moves the schedules on
        report = train_step(runner.state, batch)
        runner.log_processor.record("train", report.losses)
        if report.grad_norm is not None:
            runner.log_processor.record("train", {"grad_norm": report.grad_norm})
        runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=batch, outputs=report.losses)
        self.in_step = False
        self._iter += 1
        self.inner += 1
        runner.state.step = self._iter
        runner.observe("step_finished", report=report)
        for checkpoints in runner.checkpoint_policies:
            checkpoints.step_done(runner)
        runner.stop_if_asked()

    def begin_pass(self) -> None:
        """Make the changes that hooks ask for from this pass on; the loader must not have begun it."""
        if self._opened == self._epoch:
            return
        self._opened = self._epoch
        for switch in self.runner.hooks.find(SwitchHook):
            switch.begin_pass(self.runner)

    def end_epoch(self) -> None:
        """Close the pass that was counted last; in a run by steps there is none before the end."""

    def validate(self) -> None:
        """Bring the processes' buffers together where a hook asks for it, then evaluate."""
        self._synchronise("before_validation")
        self.runner.validate()

    def _synchronise(self, moment: str) -> None:
        for sync in self.runner.hooks.find(SyncHook):
            if getattr(sync, moment):
                sync.synchronise(self.runner)

    def batches(self) -> Iterator[tuple[int, Any]]:
        """The rest of this pass, each batch with its zero-based position in the pass."""
        loader = iter(self.dataloader)
        while True:
            try:
                batch = next(loader)
            except StopIteration:
                return
            except (RuntimeError, DataError):
                # The signal that asks for the end may have reached the loader's workers first.
                self.runner.stop_if_asked(now=True)
                raise
            yield self.inner, batch

    def state_dict(self) -> dict[str, int]:
        """Where the run stands: complete passes, complete steps, batches done in this pass."""
        return {"epoch": self._epoch, "iter": self._iter, "inner": self.inner}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self._epoch, self._iter, self.inner = state["epoch"], state["iter"], state["inner"]

    def _interval_holds(self, done: int, total: int) -> bool:
        if done == 0 or self.runner.val_loop is None or done < self.val_begin:
            return False
        interval = self._intervals[bisect.bisect(self._milestones, done + 1) - 1]
        return done % interval == 0 or done == total


class EpochBasedTrainLoop(TrainLoop):
    """Trains by passes over the data.

    Args:
        runner: The run.
        dataloader: The training loader.
        max_epochs: Number of passes.
        val_begin: Pass from which on evaluations are due.
        val_interval: Passes between two evaluations.
        dynamic_intervals: Pairs (pass from which on, another interval).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals)
        self._max_epochs = _positive("max_epochs", max_epochs)
        self.epoch_length = _length(dataloader)
        self._max_iters = self._max_epochs * self.epoch_length

    def run(self) -> None:
        """Train until ``max_epochs`` passes are complete."""
        runner = self.runner
        runner.call_hook("before_train")
        if self.inner == 0 and self.validation_due() and runner.last_validation != self._iter:
            self.validate()  # the interrupted run still owed it
        while self._epoch < self._max_epochs and not self.stop_training:
            self.begin_pass()
            self.run_epoch()
            self.end_epoch()
            if self.validation_due():
                self.validate()
        runner.call_hook("after_train")

    def run_epoch(self) -> None:
        """Make the steps of one pass, or of what a resumed run has left of it, and count the pass."""
        runner = self.runner
        self.begin_pass()
        runner.call_hook("before_train_epoch")
        runner.model.train()
        if self.inner < _length(self.dataloader):
            for batch_idx, batch in self.batches():
                self.run_iter(batch_idx, batch)
        runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.end_epoch()

    def end_epoch(self) -> None:
        """Close the pass that was counted last: schedules, saving, the loader's next order."""
        runner = self.runner
        if runner.state.epoch == self._epoch:
            return
        runner.state.schedules.step_epoch()
        self._synchronise("after_pass")
        self.inner = 0
        runner.state.epoch = self._epoch
        self.dataloader.set_epoch(self._epoch)
        for checkpoints in runner.checkpoint_policies:
            checkpoints.epoch_done(runner)
        runner.stop_if_asked()

    def validation_due(self) -> bool:
        """Whether the passes that are complete ask for an evaluation."""
        return self._interval_holds(self._epoch, self._max_epochs)

    def is_past_its_end(self) -> bool:
        """Whether a resumed run has more passes than ``max_epochs``."""
        return self._epoch > self._max_epochs or (self._epoch == self._max_epochs and self.inner > 0)


class IterBasedTrainLoop(TrainLoop):
    """Trains by steps; the loader starts over as often as needed, and hooks see one long pass.

    Args:
        runner: The run.
        dataloader: The training loader.
        max_iters: Number of steps.
        val_begin: Step from which on evaluations are due.
        val_interval: Steps between two evaluations.
        dynamic_intervals: Pairs (step from which on, another interval).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals)
        self._max_iters = _positive("max_iters", max_iters)
        self._max_epochs = 1
        self.passes = 0

    def run(self) -> None:
        """Train until ``max_iters`` steps are complete."""
        runner = self.runner
        runner.call_hook("before_train")
        first = self.iter
        self.begin_pass()
        runner.call_hook("before_train_epoch")
        if self.validation_due() and runner.last_validation != self._iter:
            self.validate()  # the interrupted run still owed it
        while self._iter < self._max_iters and not self.stop_training:
            self.run_pass()
        runner.call_hook("after_train_epoch")
        if self._epoch < self._max_epochs or self._iter > first:
            self.end_pass()
        runner.call_hook("after_train")

    def end_pass(self) -> None:
        """Close the one pass that hooks see; with a policy that saves by pass this is its only checkpoint."""
        self._synchronise("after_pass")
        self._epoch = self.runner.state.epoch = self._max_epochs
        for checkpoints in self.runner.checkpoint_policies:
            checkpoints.epoch_done(self.runner)

    def run_pass(self) -> None:
        """Make steps until the loader is at its end, or the run at its own."""
        runner = self.runner
        runner.model.train()
        before = self.iter
        resumed = self.inner > 0
        for _, batch in self.batches():
            self.run_iter(self._iter, batch)
            if self.validation_due():
                self.validate()
            if self._iter >= self._max_iters or self.stop_training:
                return
        if self._iter == before and not resumed:
            raise ConfigError(
                "train_dataloader gives no batch at all: is the data set empty, or smaller than one "
                "batch with drop_last=True?"
            )
        self.passes += 1
        self.inner = 0
        self.dataloader.set_epoch(self.passes)

    def validation_due(self) -> bool:
        """Whether the steps that are complete ask for an evaluation."""
        return self._interval_holds(self._iter, self._max_iters)

    def is_past_its_end(self) -> bool:
        """Whether a resumed run has more steps than ``max_iters``."""
        return self._iter > self._max_iters

    def state_dict(self) -> dict[str, int]:
        """Where the run stands, and how often the loader started over."""
        return {**super().state_dict(), "passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        super().load_state_dict(state)
        self.passes = state["passes"]


def _length(dataloader: Any) -> int:
    length = len(dataloader)
    if length == 0:
        raise ConfigError(
            "train_dataloader gives no batch at all: is the data set empty, or smaller than one batch "
            "with drop_last=True?"
        )
    return length


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"train_cfg: {name} must be a positive integer, got {value!r}")
    return value
