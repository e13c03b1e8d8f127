"""What a run's config may say at its top level, and what it means where it leaves something out."""
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict

from detcore.config import Config
from detcore.errors import DetcoreError
from detcore.plugins import load_user_modules
from detcore.registry import MODELS, TRANSFORMS, VISBACKENDS, Deferred
from detcore.registry.signatures import parameters_of
from detcore.visualization.visualizer import FOLDER

RunConfig = Config | Mapping[str, Any]

DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
}
HOOK_TYPES = {
    **{name: cfg["type"] for name, cfg in DEFAULT_HOOKS.items()},
    "visualization": "DetVisualizationHook",
}


class MpCfg(TypedDict, total=False):
    """Processes and threads."""

    mp_start_method: Literal["fork", "spawn", "forkserver"] | None
    opencv_num_threads: int | None


class DistCfg(TypedDict, total=False):
    """How processes find and talk to one another."""

    backend: str
    timeout: float
    port: int | str
    init_backend: str


class EnvCfg(TypedDict, total=False):
    """``env_cfg``."""

    cudnn_benchmark: bool
    mp_cfg: MpCfg
    dist_cfg: DistCfg
    resource_limit: int


class Randomness(TypedDict, total=False):
    """``randomness``."""

    seed: int | None
    deterministic: bool
    diff_rank_seed: bool


class AutoScaleLR(TypedDict, total=False):
    """``auto_scale_lr``."""

    enable: bool
    base_batch_size: int


class CustomImports(TypedDict, total=False):
    """``custom_imports``."""

    imports: str | list[str]
    allow_failed_imports: bool


class CompileCfg(TypedDict, total=False):
    """``compile``: what ``torch.compile`` takes."""

    enable: bool
    backend: str
    mode: str | None
    fullgraph: bool
    dynamic: bool | None
    options: Any
    disable: bool


class ModelWrapperCfg(TypedDict, total=False):
    """``model_wrapper_cfg``; :mod:`detcore.engine.model_wrapper` says which of these may be set."""

    type: Any
    find_unused_parameters: bool
    broadcast_buffers: bool
    static_graph: bool
    bucket_cap_mb: int
    detect_anomalous_params: bool
    device_ids: Any
    output_device: Any
    process_group: Any
    dim: Any
    check_reduction: Any
    gradient_as_bucket_view: Any


class Settings(TypedDict, total=False):
    """What a run's config may say at its top level; other keys are free variables of the config.

    Parts that are built with arguments of the run (loops, optimiser, hooks, loaders) are checked on their
    own, by :mod:`detcore.engine.check.parts`.
    """

    model: Any
    data_preprocessor: Annotated[dict | None, Deferred(MODELS)]
    train_dataloader: Any
    val_dataloader: Any
    test_dataloader: Any
    train_cfg: Any
    val_cfg: Any
    test_cfg: Any
    val_evaluator: Any
    test_evaluator: Any
    optim_wrapper: Any
    param_scheduler: Any
    auto_scale_lr: AutoScaleLR | None
    default_hooks: Any
    custom_hooks: Any
    visualizer: Any
    vis_backends: Annotated[list[dict] | None, Deferred(VISBACKENDS)]
    log_processor: Any
    log_level: Literal["CRITICAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "NOTSET"] | int | None
    load_from: str | None
    resume: bool | str | None
    work_dir: str | None
    experiment_name: str | None
    env_cfg: EnvCfg | None
    randomness: Randomness | None
    launcher: Literal["none", "pytorch", "slurm", "mpi"] | None
    device: str | None
    default_scope: str | None
    custom_imports: CustomImports | list[str] | str | None
    plugins: list[str] | str | None
    compile: CompileCfg | bool | None
    channels_last: bool
    amp: Any
    model_wrapper_cfg: ModelWrapperCfg | None
    find_unused_parameters: bool
    broadcast_buffers: bool
    static_graph: bool
    sync_bn: str | bool | None
    backend_args: Any
    tta_model: Annotated[dict | None, Deferred(MODELS)]
    tta_pipeline: Annotated[list[dict] | None, Deferred(TRANSFORMS)]
    runner_type: str
    cfg: Any


KNOWN_KEYS = frozenset(Settings.__annotations__)


def import_named_modules(cfg: RunConfig, *, trust: bool) -> None:
    """Import the users' modules that ``custom_imports`` and ``plugins`` name.

    Args:
        cfg: The whole config.
        trust: Whether the user trusts it.

    Raises:
        ConfigError: If trust is needed and not given.
        PluginError: If a module cannot be imported.
    """
    imports = cfg.get("custom_imports") or {}
    if isinstance(imports, Mapping):
        allow = bool(imports.get("allow_failed_imports", False))
        load_user_modules(imports.get("imports") or (), trusted=trust, allow_failed=allow)
    else:
        load_user_modules(imports, trusted=trust)
    load_user_modules(files=cfg.get("plugins") or (), trusted=trust)


def hook_configs(cfg: RunConfig) -> list[tuple[str, Any]]:
    """Every hook of the config with its config path: the default ones, completed, then the custom ones."""
    named: dict[str, Any] = dict(DEFAULT_HOOKS)
    for name, hook in (cfg.get("default_hooks") or {}).items():
        named[name] = (
            {"type": HOOK_TYPES[name], **hook} if isinstance(hook, dict) and name in HOOK_TYPES else hook
        )
    found = [(f"default_hooks.{name}", hook) for name, hook in named.items() if hook is not None]
    return found + [
        (f"custom_hooks.{index}", hook) for index, hook in enumerate(cfg.get("custom_hooks") or [])
    ]


def loop_config(cfg: Mapping[str, Any] | None, default: str) -> dict[str, Any] | None:
    """Config of a loop with its type; a training loop may say ``by_epoch`` instead."""
    if cfg is None:
        return None
    given = dict(cfg)
    by_epoch = given.pop("by_epoch", None)
    if "type" not in given:
        given["type"] = default
        if default == "EpochBasedTrainLoop" and (
            by_epoch is False or (by_epoch is None and "max_iters" in given)
        ):
            given["type"] = "IterBasedTrainLoop"
    return given


def visualizer_config(cfg: RunConfig, folder: str) -> Any:
    """Config of the visualizer with the folder that it and its backends write to; None where it has none.

    Args:
        cfg: The whole config.
        folder: Of the run; used where the config does not say another.
    """
    given = cfg.get("visualizer")
    if given is None and cfg.get("vis_backends"):
        given = {"type": "DetLocalVisualizer", "vis_backends": cfg["vis_backends"]}
    if not isinstance(given, Mapping):
        return given
    whole: dict[str, Any] = {"save_dir": folder, **given}
    backends, scope = whole.get("vis_backends"), cfg.get("default_scope")
    if isinstance(backends, list | tuple):
        whole["vis_backends"] = [_backend_config(each, whole["save_dir"], scope) for each in backends]
    return whole


def _backend_config(cfg: Any, folder: Any, scope: str | None) -> Any:
    """One that insists on a folder is given it; the others get it from the visualizer."""
    if not isinstance(cfg, Mapping) or "save_dir" in cfg or "type" not in cfg:
        return cfg
    try:
        required = parameters_of(VISBACKENDS.get(cfg["type"], default_scope=scope)).required
    except DetcoreError:  # a name that nobody knows is reported where it is built
        return cfg
    return {"save_dir": f"{folder}/{FOLDER}", **cfg} if "save_dir" in required else cfg
