"""Where a run stands, under the names that hooks read."""
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from detcore.engine.hooks import CheckpointHook, HookList


class RunStatus:
    """What a runner tells of itself.

    Attributes:
        hooks: Those who look on.
        world_size: How many processes there are.
        run_dir: Folder of this start of the run.
        rates: Learning rates of the step in progress, or of the last one.
        state: What training reads and changes; None before it.
        train_loop: The training loop; None before training.
        val_loop: The validation loop, if there is one.
        test_loop: The test loop, if there is one.
    """

    hooks: HookList
    world_size: int
    run_dir: Path
    state: Any = None
    rates: Mapping[str, float] = MappingProxyType({})
    train_loop: Any = None
    val_loop: Any = None
    test_loop: Any = None
    _loaded_position: dict[str, int]

    @property
    def iter(self) -> int:
        """Complete training steps; inside a step's hooks the index of that step."""
        return self._loaded_position["iter"] if self.train_loop is None else self.train_loop.iter

    @property
    def epoch(self) -> int:
        """Complete passes over the training data; inside a pass's hooks the index of that pass."""
        return self._loaded_position["epoch"] if self.train_loop is None else self.train_loop.epoch

    @property
    def inner_iter(self) -> int:
        """Complete steps of this pass."""
        return 0 if self.train_loop is None else self.train_loop.inner

    @property
    def max_epochs(self) -> int | None:
        """Passes of the whole training."""
        return None if self.train_loop is None else self.train_loop.max_epochs

    @property
    def max_iters(self) -> int | None:
        """Steps of the whole training."""
        return None if self.train_loop is None else self.train_loop.max_iters

    @property
    def train_dataloader(self) -> Any:
        """The training loader; built when training begins."""
        return None if self.train_loop is None else self.train_loop.dataloader

    @property
    def val_dataloader(self) -> Any:
        """The validation loader, if there is one."""
        return None if self.val_loop is None else self.val_loop.dataloader

    @property
    def test_dataloader(self) -> Any:
        """The test loader, if there is one."""
        return None if self.test_loop is None else self.test_loop.dataloader

    @property
    def val_evaluator(self) -> Any:
        """The metrics of a validation."""
        return None if self.val_loop is None else self.val_loop.evaluator

    @property
    def test_evaluator(self) -> Any:
        """The metrics of a test."""
        return None if self.test_loop is None else self.test_loop.evaluator

    @property
    def optim_wrapper(self) -> Any:
        """The optimiser in its wrapper."""
        return None if self.state is None else self.state.optim

    @property
    def param_schedulers(self) -> Any:
        """The composed schedules."""
        return None if self.state is None else self.state.schedules

    @property
    def distributed(self) -> bool:
        """Whether there are several processes."""
        return self.world_size > 1

    @property
    def log_dir(self) -> str:
        """Folder of this start of the run: its log, and what visualisation backends write."""
        return str(self.run_dir)

    @property
    def checkpoint_policies(self) -> list[CheckpointHook]:
        """The hooks that say when to save; the loops call them by name."""
        return self.hooks.find(CheckpointHook)

    def evaluation_dataloader(self, mode: str) -> Any:
        """The loader of ``val`` or ``test``."""
        return self.val_dataloader if mode == "val" else self.test_dataloader

    def learning_rates(self) -> dict[str, float]:
        """The learning rate to log: before multipliers, where groups have their own."""
        rates = self.state.optim.get_lr()
        return {"lr": rates["lr"][0], **{name: many[0] for name, many in rates.items() if name != "lr"}}
