"""The two training loops; each reads from top to bottom."""
import bisect
from collections.abc import Iterator, Sequence
from typing import Any

from detcore.engine.hooks.switch import SwitchHook
from detcore.engine.hooks.sync import SyncHook
from detcore.engine.step import train_step
from detcore.errors import ConfigError, DataError


class TrainLoop:
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
        self.runner = runner
        self.dataloader = dataloader
        self.val_begin = val_begin
        self.stop_training = False
        self.epoch = 0
        self.iter = 0
        self.inner = 0  # batches of this pass that are done
        self._milestones = [0, *(milestone for milestone, _ in dynamic_intervals or ())]
        self._intervals = [val_interval, *(interval for _, interval in dynamic_intervals or ())]

    def run(self) -> None:
        """Train until the end."""
        raise NotImplementedError

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
        """
        runner = self.runner
        runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=batch)
        runner.rates = runner.learning_rates()  # those of this step; the step moves the schedules on
        report = train_step(runner.state, batch)
        runner.log_processor.record("train", report.losses)
        if report.grad_norm is not None:
            runner.log_processor.record("train", {"grad_norm": report.grad_norm})
        runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=batch, outputs=report.losses)
        self.iter += 1
        self.inner += 1
        runner.state.step = self.iter
        runner.observe("step_finished", report=report)
        for checkpoints in runner.checkpoint_policies:
            checkpoints.step_done(runner)
        runner.stop_if_asked()

    def begin_pass(self) -> None:
        """Make the changes that hooks ask for from this pass on; the loader must not have begun it."""
        for switch in self.runner.hooks.find(SwitchHook):
            switch.begin_pass(self.runner)

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
        return {"epoch": self.epoch, "iter": self.iter, "inner": self.inner}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.epoch, self.iter, self.inner = state["epoch"], state["iter"], state["inner"]

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
        self.max_epochs = _positive("max_epochs", max_epochs)
        self.epoch_length: int | None = _length(dataloader)
        self.max_iters = self.max_epochs * self.epoch_length

    def run(self) -> None:
        """Train until ``max_epochs`` passes are complete."""
        runner = self.runner
        runner.call_hook("before_train")
        if self.inner == 0 and self.validation_due() and runner.last_validation != self.iter:
            self.validate()  # the interrupted run still owed it
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
        runner.call_hook("after_train")

    def run_epoch(self) -> None:
        """Make the steps of one pass (or of what a resumed run has left of it), then evaluate if due."""
        runner = self.runner
        self.begin_pass()
        runner.call_hook("before_train_epoch")
        runner.model.train()
        if self.inner < _length(self.dataloader):
            for batch_idx, batch in self.batches():
                self.run_iter(batch_idx, batch)
        runner.state.schedules.step_epoch()
        runner.call_hook("after_train_epoch")
        self._synchronise("after_pass")
        self.epoch += 1
        self.inner = 0
        runner.state.epoch = self.epoch
        self.dataloader.set_epoch(self.epoch)
        for checkpoints in runner.checkpoint_policies:
            checkpoints.epoch_done(runner)
        runner.stop_if_asked()
        if self.validation_due():
            self.validate()

    def validation_due(self) -> bool:
        """Whether the passes that are complete ask for an evaluation."""
        return self._interval_holds(self.epoch, self.max_epochs)

    def is_past_its_end(self) -> bool:
        """Whether a resumed run has more passes than ``max_epochs``."""
        return self.epoch > self.max_epochs or (self.epoch == self.max_epochs and self.inner > 0)


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
        self.max_iters = _positive("max_iters", max_iters)
        self.max_epochs = 1
        self.epoch_length: int | None = None
        self.passes = 0

    def run(self) -> None:
        """Train until ``max_iters`` steps are complete."""
        runner = self.runner
        runner.call_hook("before_train")
        first = self.iter
        self.begin_pass()
        runner.call_hook("before_train_epoch")
        if self.validation_due() and runner.last_validation != self.iter:
            self.validate()  # the interrupted run still owed it
        while self.iter < self.max_iters and not self.stop_training:
            self.run_pass()
        runner.call_hook("after_train_epoch")
        if self.epoch < self.max_epochs or self.iter > first:
            self.end_pass()
        runner.call_hook("after_train")

    def end_pass(self) -> None:
        """Close the one pass that hooks see; with a policy that saves by pass this is its only checkpoint."""
        self._synchronise("after_pass")
        self.epoch = self.runner.state.epoch = self.max_epochs
        for checkpoints in self.runner.checkpoint_policies:
            checkpoints.epoch_done(self.runner)

    def run_pass(self) -> None:
        """Make steps until the loader is at its end, or the run at its own."""
        runner = self.runner
        runner.model.train()
        before = self.iter
        resumed = self.inner > 0
        for _, batch in self.batches():
            self.run_iter(self.iter, batch)
            if self.validation_due():
                self.validate()
            if self.iter >= self.max_iters or self.stop_training:
                return
        if self.iter == before and not resumed:
            raise ConfigError(
                "train_dataloader gives no batch at all: is the data set empty, or smaller than one "
                "batch with drop_last=True?"
            )
        self.passes += 1
        self.inner = 0
        self.dataloader.set_epoch(self.passes)

    def validation_due(self) -> bool:
        """Whether the steps that are complete ask for an evaluation."""
        return self._interval_holds(self.iter, self.max_iters)

    def is_past_its_end(self) -> bool:
        """Whether a resumed run has more steps than ``max_iters``."""
        return self.iter > self.max_iters

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
