"""One run: builds its parts from a config, then trains, validates or tests."""
import contextlib
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detcore.config import Config
from detcore.engine import distributed
from detcore.engine.checkpoint import CheckpointFolder, load_checkpoint, load_into_model, save_checkpoint
from detcore.engine.environment import prepare_environment
from detcore.engine.evaluation_loops import ValLoop, evaluating
from detcore.engine.hooks import Hook
from detcore.engine.message_hub import MessageHub
from detcore.engine.parts import RunParts
from detcore.engine.records import JsonLines
from detcore.engine.run_log import RunLog
from detcore.engine.run_status import RunStatus
from detcore.engine.signals import RunInterrupted, StopAsked, StopSignals
from detcore.engine.snapshot import differences, meta_of, require_own, restore_snapshot, take_snapshot
from detcore.errors import CheckpointError, ConfigError
from detcore.weights import fetch, weights_in

_log = logging.getLogger("detcore.engine.runner")


class Runner(RunStatus):
    """Trains, validates and tests what a config describes.

    Attributes are those of the manual: ``model``, ``iter``, ``epoch``, ``max_iters``, ``max_epochs``,
    ``train_loop``, ``train_dataloader``, ``optim_wrapper``, ``param_schedulers``, ``work_dir``...

    Args:
        cfg: The whole config.
        trust: Whether modules that the config names (``custom_imports``, ``plugins``) may be imported.
        modes: What it is for, of ``train``, ``val``, ``test``; only what these need must be right. By default
            all that the config has a dataloader for.

    Raises:
        ConfigError: If anything in the config cannot be built; all problems in one message.
    """

    def __init__(
        self, cfg: Config | Mapping[str, Any], *, trust: bool = False, modes: Sequence[str] | None = None
    ) -> None:
        self.parts = RunParts(cfg, trust=trust, modes=modes)
        self.cfg = self.parts.cfg
        self.work_dir = str(self.parts.work_dir)
        self.logger = logging.getLogger("detcore.run")
        self.device, self.seed = prepare_environment(self.cfg)
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.timestamp = distributed.gather_bytes(time.strftime("%Y%m%d_%H%M%S").encode())[0].decode()
        self.run_dir = Path(self.work_dir) / self.timestamp
        self.experiment_name = self.cfg.get("experiment_name") or f"{self.parts.name}_{self.timestamp}"
        self.config_text = self.parts.config_text
        self.model = self.parts.build_model(self.device)
        self.hooks = self.parts.build_hooks()
        self.log_processor = self.parts.build_log_processor()
        self.visualizer = self.parts.build_visualizer(self.run_dir)
        self.message_hub = MessageHub(self)
        self.records = JsonLines(Path(self.work_dir) / "log.jsonl")
        self.average: Any = None
        self.training = self.began = False
        self.last_validation = -1
        self._loaded_position = {"epoch": 0, "iter": 0}
        self._figures: dict[str, float] = {}
        self.is_evaluating = False
        self._signals = StopSignals()
        self._saved: tuple[int, int, str] | None = None
        self._folders: dict[Path, CheckpointFolder] = {}

    @classmethod
    def from_cfg(
        cls, cfg: Config | Mapping[str, Any], *, trust: bool = False, modes: Sequence[str] | None = None
    ) -> "Runner":
        """Make a runner from a config; the same as the constructor, under the manual's name."""
        return cls(cfg, trust=trust, modes=modes)

    def train(self) -> torch.nn.Module:
        """Train to the end (or on from a checkpoint, where ``resume`` says so) and return the model.

        Raises:
            RunInterrupted: A signal asked for the end; the state was saved.
            TrainingError: The run cannot go on, for example because a loss is not finite.
        """
        with self._running("train"):
            self._begin_training()
            self.observe("run_started")
            self.training = self.began = True
            self._train_until_asked()
            self.training = False
            for policy in self.checkpoint_policies:
                policy.training_done(self)
            self.call_hook("after_run")
        return self.model

    def val(self) -> dict[str, float]:
        """Evaluate on the validation data and return the figures."""
        return self._evaluate("val")

    def test(self) -> dict[str, float]:
        """Evaluate on the test data (or only write the predictions) and return the figures."""
        return self._evaluate("test")

    def validate(self) -> dict[str, float]:
        """Evaluate in the middle of a training, and keep the checkpoint if it is the best."""
        self.state.finite.raise_if_broken()
        metrics = self._run_evaluation(self.val_loop)
        self.evaluated("val", metrics)
        return metrics

    def evaluated(self, mode: str, metrics: dict[str, float]) -> None:
        """Act on the figures of an evaluation within a training: schedules that wait for them, saving.

        Args:
            mode: ``val`` or ``test``.
            metrics: The figures; a second call at the same step does nothing.
        """
        if mode != "val" or not self.training or self.last_validation == self.iter:
            return
        self.state.schedules.step_validation(metrics)
        self.last_validation = self.iter
        for policy in self.checkpoint_policies:
            policy.validation_done(self, metrics)

    # --- those who look on ---

    def register_hook(self, hook: Hook, priority: str | int | None = None) -> None:
        """Add a hook, behind those of the same priority."""
        self.hooks.add(hook, priority)

    def call_hook(self, point: str, **arguments: Any) -> None:
        """Call every hook at a point."""
        if "metrics" in arguments:
            self._figures = arguments["metrics"] or {}
        self.hooks.call(point, self, **arguments)

    def observe(self, event: str, **arguments: Any) -> None:
        """Tell plugins' observers of an event: run_started, step_finished, and so on."""
        self.parts.observe(event, self, **arguments)

    def write_scalars(self, mode: str, scalars: Mapping[str, Any], step: int) -> None:
        """Write one record to the log file and to the visualiser's backends (in the main process)."""
        if self.rank != 0:
            return
        self.records.write({"mode": mode, **scalars, "step": step})
        self.visualizer.add_scalars(
            {name: value for name, value in scalars.items() if isinstance(value, int | float)}, step=step
        )

    # --- checkpoints ---

    def checkpoints_of(self, folder: str | Path) -> CheckpointFolder:
        """The checkpoints in a folder."""
        path = Path(folder)
        if path not in self._folders:
            self._folders[path] = CheckpointFolder(path)
        return self._folders[path]

    def save_checkpoint(
        self,
        out_dir: str | Path,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: Mapping[str, Any] | None = None,
        regular: bool = True,
    ) -> Path:
        """Save the run as it is; all processes must call this at the same step.

        Within a step (a hook's ``after_train_iter``) the run is at no place that it could go on from, so only
        the weights are saved then.

        Args:
            out_dir: Folder.
            filename: Name of the file in it.
            save_optimizer: Whether the optimiser goes in; without it the file cannot be resumed from.
            save_param_scheduler: Whether the schedules go in, likewise.
            meta: Plain data to add to what the file tells of itself (``meta``).
            regular: Whether it is noted as the last checkpoint (the best ones are not).

        Raises:
            TrainingError: A loss since the last look was not finite: nothing is saved then.
            CheckpointError: The file cannot be written; what was there before stays.
        """
        self.state.finite.raise_if_broken()
        path = Path(out_dir) / filename
        if self.train_loop.in_step:
            save_optimizer = save_param_scheduler = regular = False
        content = take_snapshot(
            self, save_optimizer=save_optimizer, save_param_scheduler=save_param_scheduler
        )
        content["meta"].update(meta or {})
        self.call_hook("before_save_checkpoint", checkpoint=content)
        if self.rank == 0:
            if regular:
                self.checkpoints_of(path.parent).save(filename, content)
            else:
                save_checkpoint(path, content)
            self.logger.info("Saved %s", path)
        distributed.barrier()
        if save_optimizer and save_param_scheduler:
            self._saved = (self.iter, self.epoch, str(path))
        self.call_hook("after_save_checkpoint", checkpoint=content)
        self.observe("checkpoint_saved", path=path)
        return path

    def publish_checkpoint(self, path: str | Path, keys: Sequence[str]) -> Path | None:
        """Write a copy that holds only ``keys``; its name ends in the first 8 digits of its SHA-256.

        That is how ``torch.hub.load_state_dict_from_url(check_hash=True)`` checks what it fetched.
        """
        if self.rank != 0:
            return None
        content = load_checkpoint(path)
        written = Path(path).with_name(f".{Path(path).stem}-published.pth")
        save_checkpoint(written, {key: content[key] for key in keys if key in content})
        checksum = hashlib.sha256(written.read_bytes()).hexdigest()
        target = written.replace(Path(path).with_name(f"{Path(path).stem}-published-{checksum[:8]}.pth"))
        self.logger.info("Published %s with %s", target, ", ".join(keys))
        return target

    def load_checkpoint(self, path: str | Path, *, strict: bool = False) -> dict[str, Any]:
        """Put the weights of a file into the model; nothing else of the run changes.

        Args:
            path: A file, also one of MMDetection, or another name of weights (see `detcore.weights.fetch`).
            strict: Every key must fit; else a warning names what does not.

        Raises:
            CheckpointError: If the file is damaged, or does not fit the model.
        """
        content = load_checkpoint(path)
        self.call_hook("after_load_checkpoint", checkpoint=content)
        load_into_model(self.model, weights_in(content, path), strict=strict, source=path)
        meta = meta_of(content)
        saved = {key: meta.get(key) for key in ("epoch", "iter")}
        self._loaded_position = {key: n if isinstance(n, int) else 0 for key, n in saved.items()}
        self.logger.info("Loaded the weights of %s", path)
        return content

    def resume(self, path: str | Path, content: Mapping[str, Any] | None = None) -> None:
        """Go on exactly where a checkpoint was saved.

        Args:
            path: The file.
            content: What it holds, if it was read already.

        Raises:
            CheckpointError: If the file is damaged, misses a part, or does not fit this run.
        """
        content = dict(load_checkpoint(path) if content is None else content)
        require_own(content, path)
        self.call_hook("after_load_checkpoint", checkpoint=content)
        changed = differences(self, content)
        if changed:
            _log.warning(
                "%s was saved by a run with other settings, so this will not be bit for bit the run that was "
                "interrupted:\n  %s",
                path,
                "\n  ".join(changed),
            )
        restore_snapshot(self, content, path)
        if self.train_loop.is_past_its_end():
            raise CheckpointError(f"{path} has {self.iter} steps, this config trains only {self.max_iters}")
        if self.rank == 0:
            self.records.rewind(self.iter, validated=self.last_validation == self.iter)
        self.logger.info("Resumed from %s: epoch %d, step %d", path, self.epoch, self.iter)

    # --- inside ---

    def stop_if_asked(self, *, now: bool = False) -> None:
        """Leave the loops if a signal asked for the end; called where the state can be saved.

        Raises:
            StopAsked: If one did; `train` saves and ends the run.
        """
        self._signals.raise_if_asked(self.iter, now=now)

    def averaged_weights(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which the model holds the averaged weights, where there is an average."""
        return contextlib.nullcontext() if self.average is None else self.average.swap(self.model)

    def _find_resume(self) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint that this training goes on from, and what it holds."""
        source, resume = self.cfg.get("load_from"), self.cfg.get("resume")
        if not resume:
            return None
        if source and resume != "auto":
            path = fetch(source)
            content = load_checkpoint(path)
            require_own(content, source)
            return path, content
        found = self.checkpoints_of(self.work_dir).load_newest_good()
        if found is None:
            self.logger.info("There is nothing to resume in %s; the training starts afresh", self.work_dir)
        return found

    def _begin_training(self) -> None:
        """Build everything that trains; then put it where the run begins or goes on."""
        if self.cfg.get("train_dataloader") is None:
            raise ConfigError("the config cannot train: give train_dataloader, train_cfg and optim_wrapper")
        found = self._find_resume()
        if found is not None and (self.cfg.get("randomness") or {}).get("seed") is None:
            self.seed = int((found[1].get("meta") or {}).get("seed", self.seed))  # else samples would differ
        self.parts.build_training(self)
        self.call_hook("before_run")
        if found is not None:
            self.resume(*found)
            return
        if self.rank == 0:
            self.records.rewind(0, validated=False)
        self.parts.initialise(self.model)
        if self.cfg.get("load_from"):
            self.load_checkpoint(self.cfg["load_from"])
            self._loaded_position = {"epoch": 0, "iter": 0}
        if self.average is not None:
            self.average.copy_from(self.model)

    def _train_until_asked(self) -> None:
        try:
            self.train_loop.run()
            self.train_loop.end_epoch()
            self.state.finite.raise_if_broken()
        except StopAsked as asked:
            if self._saved is not None and self._saved[:2] == (self.iter, self.epoch):
                path = self._saved[2]
            else:
                path = str(self.save_checkpoint(self.work_dir, f"iter_{self.iter}.pth"))
            self.logger.warning(
                "Ended by signal %d after step %d; saved %s (go on with --resume auto)",
                asked.signum,
                self.iter,
                path,
            )
            raise RunInterrupted(asked.signum, path) from None

    def _run_evaluation(self, loop: Any) -> dict[str, float]:
        """Run an evaluation loop; a user's own need neither know of `evaluating` nor return figures."""
        own = type(loop).run is not ValLoop.run
        self._figures = {}
        with evaluating(self) if own else contextlib.nullcontext():
            metrics = loop.run()
        return self._figures if metrics is None else metrics

    def _evaluate(self, mode: str) -> dict[str, float]:
        with self._running(mode):
            loop = self.parts.build_evaluation(self, mode)
            if loop is None:
                raise ConfigError(
                    f"the config cannot {mode}: {mode}_dataloader and {mode}_evaluator are missing"
                )
            setattr(self, f"{mode}_loop", loop)
            self.call_hook("before_run")
            if self.cfg.get("load_from"):
                self.load_checkpoint(self.cfg["load_from"], strict=True)
            self.observe("run_started")
            metrics = self._run_evaluation(loop)
            self.call_hook("after_run")
        return metrics

    @contextlib.contextmanager
    def _running(self, mode: str) -> Any:
        reason = "failed"
        with RunLog(self, mode), self._signals.installed():
            try:
                if self.visualizer is not None:
                    self.visualizer.add_config(self.cfg)
                yield
                reason = "finished"
            except StopAsked as asked:
                reason = "stopped"
                raise RunInterrupted(asked.signum, None) from None
            except RunInterrupted:
                reason = "stopped"
                raise
            finally:
                self.training = False
                self.observe("run_ended", reason=reason)
                self.records.close()
                self.visualizer.close()
