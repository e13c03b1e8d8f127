"""The parts that the runner builds, each held against what its component takes."""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from detcore.engine.check.reading import entries, table
from detcore.engine.settings import (
    HOOK_TYPES,
    RunConfig,
    Settings,
    hook_configs,
    loop_config,
    visualizer_config,
)
from detcore.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATORS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISUALIZERS,
    Registry,
)
from detcore.registry.planning import Planner, copied
from detcore.registry.problems import Problem, joined, not_given_first
from detcore.registry.signatures import Slot, slot_of
from detcore.registry.spelling import slip


@dataclass(frozen=True)
class Part:
    """One dict that a registry will build.

    Attributes:
        registry: Which one.
        cfg: The dict, with the type that it has by default.
        path: Where it stands.
        supplied: Arguments that the runner adds.
        complete: Whether all other required arguments must be given.
        allow: Keys that the runner takes itself.
    """

    registry: Registry
    cfg: Mapping[str, Any]
    path: str
    supplied: frozenset[str] = frozenset()
    complete: bool = True
    allow: tuple[str, ...] = ()


def check_parts(
    planner: Planner, cfg: RunConfig, modes: Sequence[str], scope: str | None, words: Sequence[str]
) -> None:
    """Note in ``planner`` what is wrong with the parts, and with settings whose keys are known.

    Args:
        planner: Collects the problems.
        cfg: The whole config.
        modes: Which of ``train``, ``val``, ``test`` count.
        scope: The default scope.
        words: Parts of parameters' names that ``custom_keys`` are known to hold.
    """
    for part in _parts(cfg, modes, scope):
        planner.part(
            part.registry, copied(dict(part.cfg)), part.path, scope,
            supplied=part.supplied, complete=part.complete, allow=part.allow,
        )  # fmt: skip
    for key, slot in _settings().items():
        planner.value(slot, copied(cfg.get(key)), key, scope)
    _check_hook_names(planner, table(cfg.get("default_hooks")))
    _check_custom_keys(planner, cfg, words)


def _settings() -> dict[str, Slot]:
    hints = get_type_hints(Settings, include_extras=True)
    return {key: slot for key, hint in hints.items() if (slot := slot_of(hint)).is_checked}


def _check_hook_names(planner: Planner, hooks: Mapping[str, Any]) -> None:
    for name in hooks:
        meant = slip(str(name), not_given_first(HOOK_TYPES, hooks))
        if name not in HOOK_TYPES and meant is not None:
            text = f"there is no default hook {name!r}"
            planner.note(Problem(f"default_hooks.{name}", text, f"did you mean {meant!r}?"))


def _check_custom_keys(planner: Planner, cfg: RunConfig, words: Sequence[str]) -> None:
    """Keys of ``custom_keys`` are parts of parameters' names, which begin as the model's arguments do."""
    keys = table(table(table(cfg.get("optim_wrapper")).get("paramwise_cfg")).get("custom_keys"))
    known = [*map(str, table(cfg.get("model"))), *words]
    for key in map(str, keys):
        first = key.partition(".")[0]
        meant = None if first in known else slip(first, known)
        if meant is not None:
            path = f"optim_wrapper.paramwise_cfg.custom_keys.{key}"
            text = "probably no parameter's name holds this"
            planner.note(Problem(path, text, f"did you mean {meant!r}?", severity="warning"))


def _parts(cfg: RunConfig, modes: Sequence[str], scope: str | None) -> Iterator[Part]:
    if isinstance(cfg.get("model"), Mapping):
        yield Part(MODELS, cfg["model"], "model")
    if "train" in modes:
        train = cfg.get("train_cfg")
        if isinstance(train, Mapping):
            loop = loop_config(train, "EpochBasedTrainLoop") or {}
            yield Part(LOOPS, loop, "train_cfg", frozenset({"runner", "dataloader"}))
        yield from _optimiser_parts(cfg)
    for mode in modes:
        if mode != "train":
            yield from _evaluation_parts(cfg, mode)
        yield from _loader_parts(table(cfg.get(f"{mode}_dataloader")), f"{mode}_dataloader")
    yield from _hook_parts(cfg)
    if isinstance(cfg.get("visualizer"), Mapping):
        whole = visualizer_config({"visualizer": cfg["visualizer"], "default_scope": scope}, "")
        yield Part(VISUALIZERS, whole, "visualizer")
    if isinstance(cfg.get("log_processor"), Mapping):
        yield Part(LOG_PROCESSORS, {"type": "LogProcessor", **cfg["log_processor"]}, "log_processor")


def _hook_parts(cfg: RunConfig) -> Iterator[Part]:
    default, custom = table(cfg.get("default_hooks")), cfg.get("custom_hooks")
    for path, hook in hook_configs({"default_hooks": default, "custom_hooks": entries(custom)}):
        if isinstance(hook, Mapping):
            yield Part(HOOKS, hook, path, allow=("priority",))


def _optimiser_parts(cfg: RunConfig) -> Iterator[Part]:
    wrapper = cfg.get("optim_wrapper")
    path = "optim_wrapper"
    if isinstance(wrapper, Mapping):
        constructed = {key: wrapper[key] for key in ("paramwise_cfg",) if wrapper.get(key) is not None}
        taken = ("constructor", "paramwise_cfg")
        own = {key: each for key, each in wrapper.items() if key not in (*taken, "optimizer")}
        given = frozenset({"optimizer"})
        yield Part(OPTIM_WRAPPERS, {"type": "OptimWrapper", **own}, path, given, allow=taken)
        kind = wrapper.get("constructor") or "DefaultOptimWrapperConstructor"
        yield Part(
            OPTIM_WRAPPER_CONSTRUCTORS, {"type": kind, **constructed}, path, frozenset({"optim_wrapper_cfg"})
        )
        if isinstance(wrapper.get("optimizer"), Mapping):
            yield Part(OPTIMIZERS, wrapper["optimizer"], f"{path}.optimizer", frozenset({"params"}))
    if isinstance(cfg.get("amp"), Mapping):
        yield Part(OPTIM_WRAPPERS, {"type": "AmpOptimWrapper", **cfg["amp"]}, "amp", complete=False)
    schedulers = cfg.get("param_scheduler")
    for index, scheduler in enumerate(entries(schedulers)):
        if isinstance(scheduler, Mapping):
            at = "param_scheduler" if isinstance(schedulers, Mapping) else f"param_scheduler.{index}"
            given = frozenset({"optimizer"})
            yield Part(PARAM_SCHEDULERS, scheduler, at, given, allow=("convert_to_iter_based",))


def _evaluation_parts(cfg: RunConfig, mode: str) -> Iterator[Part]:
    loop = cfg.get(f"{mode}_cfg")
    if isinstance(loop, Mapping):
        own = loop_config(loop, "ValLoop" if mode == "val" else "TestLoop") or {}
        yield Part(LOOPS, own, f"{mode}_cfg", frozenset({"runner", "dataloader", "evaluator"}))
    evaluator, path = cfg.get(f"{mode}_evaluator"), f"{mode}_evaluator"
    if isinstance(evaluator, Mapping) and "metrics" in evaluator:
        yield Part(EVALUATORS, {"type": "Evaluator", **evaluator}, path)
        return
    for index, metric in enumerate(entries(evaluator)):
        if isinstance(metric, Mapping):
            yield Part(METRICS, metric, path if isinstance(evaluator, Mapping) else joined(path, index))


def _loader_parts(loader: Mapping[str, Any], path: str) -> Iterator[Part]:
    if isinstance(loader.get("dataset"), Mapping):
        yield Part(DATASETS, loader["dataset"], f"{path}.dataset")
    if isinstance(loader.get("sampler"), Mapping):
        supplied = frozenset({"dataset", "seed"})
        yield Part(DATA_SAMPLERS, loader["sampler"], f"{path}.sampler", supplied)
    if isinstance(loader.get("batch_sampler"), Mapping):
        supplied = frozenset({"sampler", "batch_size"})
        yield Part(DATA_SAMPLERS, loader["batch_sampler"], f"{path}.batch_sampler", supplied)
