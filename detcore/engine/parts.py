"""Builds the parts of a run from its config."""
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detcore import plugins
from detcore.config import Config
from detcore.data import build_dataloader
from detcore.engine import distributed
from detcore.engine.check import CheckOptions, check_config, errors_among, launched_processes
from detcore.engine.hooks import Hook, HookList
from detcore.engine.hooks.ema import EMAHook
from detcore.engine.loops import TrainLoop
from detcore.engine.model_wrapper import check_runner_type, ddp_settings, watch_unused
from detcore.engine.optim import build_optim_wrapper, scale_lr
from detcore.engine.schedules import build_schedules
from detcore.engine.settings import hook_configs, import_named_modules, loop_config, visualizer_config
from detcore.engine.state import TrainState
from detcore.errors import ConfigError
from detcore.evaluation import Evaluator, build_evaluator
from detcore.registry import HOOKS, LOG_PROCESSORS, LOOPS, MODELS, VISUALIZERS
from detcore.registry.problems import InvalidConfigError
from detcore.visualization import Visualizer

_log = logging.getLogger(__name__)


class RunParts:
    """Builds what a runner consists of; everything is checked before anything is built.

    Args:
        cfg: The whole config.
        trust: Whether modules that the config names may be imported.
        modes: As of :class:`~detcore.engine.runner.Runner`.

    Raises:
        ConfigError: If anything cannot be built; all problems in one message.
    """

    def __init__(
        self, cfg: Config | Mapping[str, Any], *, trust: bool = False, modes: Sequence[str] | None = None
    ) -> None:
        self.cfg = cfg if isinstance(cfg, Config) else Config(dict(cfg))
        self.name = Path(self.cfg.filename).stem if self.cfg.filename else "run"
        self.work_dir = Path(self.cfg.get("work_dir") or Path("work_dirs") / self.name)
        self.scope: str | None = self.cfg.get("default_scope")
        import_named_modules(self.cfg, trust=trust)
        self._check(modes)
        check_runner_type(self.cfg)
        self._ddp = ddp_settings(self.cfg)
        self.config_text = self.cfg.pretty_text
        self._observers = plugins.observers()

    def _check(self, modes: Sequence[str] | None) -> None:
        # Building the parts tells about channels and files itself, of the parts that this run will need.
        options = CheckOptions(files=False, networks=False, processes=launched_processes(self.cfg))
        problems = check_config(self.cfg, modes, options)
        errors = errors_among(problems)
        if errors:
            raise InvalidConfigError(errors)
        for problem in problems:
            _log.warning("%s", problem)

    def observe(self, event: str, runner: Any, **arguments: Any) -> None:
        """Tell plugins' observers of an event."""
        if self._observers:
            getattr(self._observers, event)(state=runner.state, **arguments)

    def plugins(self) -> list[dict[str, str]]:
        """Scope and distribution of every plugin that this process has loaded."""
        loaded = (
            (scope, record) for scope, record in plugins.host().records().items() if record.status == "loaded"
        )
        return [{"scope": scope, "distribution": record.owner} for scope, record in loaded]

    def build_model(self, device: torch.device) -> nn.Module:
        """The model on its device, not initialised yet."""
        model_cfg = self.cfg["model"]
        preprocessor = self.cfg.get("data_preprocessor")
        if (
            preprocessor is not None
            and isinstance(model_cfg, Mapping)
            and "data_preprocessor" not in model_cfg
        ):
            model_cfg = {**model_cfg, "data_preprocessor": preprocessor}
        model = MODELS.build(model_cfg, default_scope=self.scope, path="model").to(device)
        for method in ("train_step", "parse_losses"):
            if hasattr(model, method):
                _log.warning(
                    "%s.%s is not called: one step is detcore.engine.step.train_step, which sums the entries "
                    "of the model's loss() whose names hold 'loss'",
                    type(model).__name__,
                    method,
                )
        if self.cfg.get("channels_last"):
            model = model.to(memory_format=torch.channels_last)
        return model

    def initialise(self, model: nn.Module) -> None:
        """Give the model its first weights, pretrained ones as its ``init_cfg`` says."""
        initialise = getattr(model, "init_weights", None)
        if callable(initialise):
            with distributed.main_first():
                initialise()

    def build_hooks(self) -> HookList:
        """Default and custom hooks in their order."""
        hooks = HookList()
        for path, cfg in hook_configs(self.cfg):
            if isinstance(cfg, Hook):
                hooks.add(cfg)
                continue
            own = dict(cfg)
            priority = own.pop("priority", None)
            hooks.add(HOOKS.build(own, default_scope=self.scope, path=path), priority)
        if len(hooks.find(EMAHook)) > 1:
            raise ConfigError("custom_hooks: a run can have one EMAHook only")
        return hooks

    def build_log_processor(self) -> Any:
        """The log processor; it counts as the training loop does where the config does not say."""
        cfg = dict(self.cfg.get("log_processor") or {})
        train = loop_config(self.cfg.get("train_cfg"), "EpochBasedTrainLoop") or {}
        cfg.setdefault("by_epoch", not str(train.get("type", "")).endswith("IterBasedTrainLoop"))
        return LOG_PROCESSORS.build(
            {"type": "LogProcessor", **cfg}, default_scope=self.scope, path="log_processor"
        )

    def build_visualizer(self, folder: Path) -> Any:
        """The visualiser with its backends; one without any where the config has none, or not for us."""
        cfg = visualizer_config(self.cfg, str(folder))
        if cfg is None or distributed.rank() != 0:
            return Visualizer()
        return VISUALIZERS.build(cfg, default_scope=self.scope, path="visualizer")

    def build_loader(self, mode: str, seed: int) -> Any:
        """The loader of ``train``, ``val`` or ``test``; an object that is one already is taken as it is."""
        cfg = self.cfg.get(f"{mode}_dataloader")
        if not isinstance(cfg, Mapping):
            return cfg
        own = dict(cfg)
        method = ((self.cfg.get("env_cfg") or {}).get("mp_cfg") or {}).get("mp_start_method")
        if method and own.get("num_workers", 0) and "multiprocessing_context" not in own:
            own["multiprocessing_context"] = method
        return build_dataloader(own, seed=seed, default_scope=self.scope, path=f"{mode}_dataloader")

    def build_evaluation(self, runner: Any, mode: str) -> Any:
        """The loop that evaluates on ``val`` or ``test`` data, or None where the config has none."""
        if self.cfg.get(f"{mode}_dataloader") is None:
            return None
        loader = self.build_loader(mode, runner.seed)
        evaluator = build_evaluator(
            self.cfg[f"{mode}_evaluator"], default_scope=self.scope, path=f"{mode}_evaluator"
        )
        metainfo: Any = getattr(loader.dataset, "metainfo", None)
        if isinstance(evaluator, Evaluator):
            evaluator.use_dataset(loader.dataset)
        else:
            evaluator.dataset_meta = metainfo
        runner.visualizer.dataset_meta = metainfo
        loop = loop_config(self.cfg.get(f"{mode}_cfg") or {}, "ValLoop" if mode == "val" else "TestLoop")
        return LOOPS.build(
            loop,
            default_scope=self.scope,
            path=f"{mode}_cfg",
            runner=runner,
            dataloader=loader,
            evaluator=evaluator,
        )

    def build_training(self, runner: Any) -> None:
        """Give the runner its loops, its optimiser, schedules and average."""
        cfg = self.cfg
        loader = self.build_loader("train", runner.seed)
        train = loop_config(cfg["train_cfg"], "EpochBasedTrainLoop")
        runner.val_loop = self.build_evaluation(runner, "val")
        runner.train_loop = LOOPS.build(
            train, default_scope=self.scope, path="train_cfg", runner=runner, dataloader=loader
        )
        if not isinstance(runner.train_loop, TrainLoop):
            raise ConfigError(
                "train_cfg: a training loop derives from EpochBasedTrainLoop or IterBasedTrainLoop of "
                f"detcore.engine.loops; {type(runner.train_loop).__name__} does not"
            )
        wrapped = self._wrap(runner.model)
        optim = build_optim_wrapper(runner.model, self._optimiser(), default_scope=self.scope)
        optim.max_steps = runner.max_iters
        scaling = cfg.get("auto_scale_lr") or {}
        if scaling.get("enable"):
            self._scale_lr(optim, scaling, loader.batch_size)
        length = runner.train_loop.epoch_length or _finite_length(loader) or 1
        schedules = build_schedules(
            cfg.get("param_scheduler"), optim, epoch_length=length, default_scope=self.scope
        )
        if runner.train_loop.epoch_length is None and any(schedule.by_epoch for schedule in schedules):
            _log.warning(
                "param_scheduler: schedules with by_epoch=True (the default) never act in a run by steps; "
                "write by_epoch=False and count in steps"
            )
        runner.state = TrainState(model=wrapped, optim=optim, schedules=schedules, device=runner.device)
        for hook in runner.hooks.find(EMAHook):
            runner.average = hook.build(runner.model, self.scope)
            first = hook.first_step(runner.train_loop.epoch_length)
            runner.state.after_update.append(_From(first, runner.average) if first else runner.average.update)
        join = getattr(runner.model, "join_training", None)
        if callable(join):  # a model that has something to update after each step, such as a teacher
            join(runner.state, getattr(loader.dataset, "metainfo", None) or {})

    def _optimiser(self) -> Any:
        cfg = self.cfg["optim_wrapper"]
        if not isinstance(cfg, Mapping):
            return cfg
        own = dict(cfg)
        amp = self.cfg.get("amp")
        if amp:
            if own.get("type", "OptimWrapper") not in ("OptimWrapper", "AmpOptimWrapper"):
                raise ConfigError(
                    f"amp needs optim_wrapper.type 'OptimWrapper' or 'AmpOptimWrapper', got {own['type']!r}"
                )
            own["type"] = "AmpOptimWrapper"
            own.update(amp if isinstance(amp, Mapping) else {})
        return own

    def _scale_lr(self, optim: Any, scaling: Mapping[str, Any], batch_size: int) -> None:
        if "base_batch_size" not in scaling:
            raise ConfigError(
                "auto_scale_lr.enable needs auto_scale_lr.base_batch_size, the batch size that the "
                "config's learning rate was chosen for"
            )
        scale_lr(
            optim,
            batch_size=batch_size * distributed.world_size(),
            base_batch_size=scaling["base_batch_size"],
        )

    def _wrap(self, model: nn.Module) -> nn.Module:
        compiling = self.cfg.get("compile")
        if compiling:
            options = dict(compiling) if isinstance(compiling, Mapping) else {}
            options.pop("enable", None)
            model.compile(**options)
        watch_unused(model, self.cfg)
        return distributed.wrap_model(model, **self._ddp)


class _From:
    """An average that follows the weights until a step, and averages from there on."""

    def __init__(self, first: int, average: Any) -> None:
        self._first = first
        self._average = average

    def __call__(self, state: TrainState) -> None:
        if state.step < self._first:
            self._average.copy_from(state.model)
        else:
            self._average.update(state)


def _finite_length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
