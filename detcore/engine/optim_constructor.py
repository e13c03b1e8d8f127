"""From the config's ``optim_wrapper`` and a model to an optimiser in its wrapper."""

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypedDict

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from detcore.engine.distributed import unwrap_model
from detcore.engine.optim_wrapper import OptimWrapper
from detcore.errors import ConfigError
from detcore.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS, Open
from detcore.registry import default_scope as in_scope

logger = logging.getLogger(__name__)

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
DEFORMABLE = {"DeformConv2d", "ModulatedDeformConv2d"}


class CustomKey(TypedDict, total=False):
    """Multipliers of parameters whose name holds the key; other entries are settings of the optimiser."""

    lr_mult: float
    decay_mult: float


class ParamwiseCfg(TypedDict, total=False):
    """``paramwise_cfg`` of :class:`DefaultOptimWrapperConstructor`."""

    custom_keys: dict[str, Annotated[CustomKey, Open()]]
    bias_lr_mult: float
    bias_decay_mult: float
    norm_decay_mult: float
    dwconv_decay_mult: float
    flat_decay_mult: float
    dcn_offset_lr_mult: float
    bypass_duplicate: bool


PARAMWISE_KEYS = tuple(ParamwiseCfg.__annotations__)


class DefaultOptimWrapperConstructor:
    """Builds the optimiser over a model's trainable parameters, with multipliers for some of them.

    ``paramwise_cfg`` may hold:

    - ``custom_keys``: part of a parameter's name -> ``dict(lr_mult=..., decay_mult=..., ...)``. The longest
      key that the name holds counts (of equal length the first in the alphabet), and nothing below applies to
      it then. Any other entry becomes a setting of the parameter's group.
    - ``bias_lr_mult``, ``bias_decay_mult``: biases, except those of norm layers and of deformable offsets.
    - ``norm_decay_mult``: weights and biases of norm layers.
    - ``dwconv_decay_mult``: depth-wise convolutions.
    - ``flat_decay_mult``: other parameters of one dimension.
    - ``dcn_offset_lr_mult``: the convolution that predicts a deformable convolution's offsets.
    - ``bypass_duplicate``: leave out a parameter that was met before, instead of failing.

    Frozen parameters have their settings, too, for hooks that thaw them. Parameters with equal settings share
    a group, so that foreach and fused optimisers work on long lists.

    Args:
        optim_wrapper_cfg: ``dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=...), clip_grad=...)``.
        paramwise_cfg: See above.
    """

    keys: ClassVar[tuple[str, ...]] = PARAMWISE_KEYS

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: ParamwiseCfg | None = None) -> None:
        self.optim_wrapper_cfg = {"type": "OptimWrapper", **optim_wrapper_cfg}
        self.optimizer_cfg = self.optim_wrapper_cfg.pop("optimizer", None)
        self.paramwise_cfg: dict[str, Any] = {**(paramwise_cfg or {})}
        if not isinstance(self.optimizer_cfg, Mapping):
            raise ConfigError("optim_wrapper: `optimizer=dict(type=..., lr=...)` is missing")
        self.base_lr = self.optimizer_cfg.get("lr")
        self.base_wd = self.optimizer_cfg.get("weight_decay")
        self._check_paramwise()

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper for a model (or the DDP module around one)."""
        checked = {**self.optim_wrapper_cfg, "optimizer": dict(self.optimizer_cfg)}
        problems = OPTIM_WRAPPERS.check(checked, path="optim_wrapper")
        if problems:
            raise ConfigError("\n".join(map(str, problems)))
        groups: list[dict[str, Any]] = []
        self.add_params(groups, unwrap_model(model))
        if not any(parameter.requires_grad for group in groups for parameter in group["params"]):
            raise ConfigError(
                "the model has no parameter that requires a gradient, so there is nothing to optimise"
            )
        merged = merge_groups(groups)
        params: Any = merged[0]["params"] if len(merged) == 1 and len(merged[0]) == 1 else merged
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg), path="optim_wrapper.optimizer", params=params)
        return OPTIM_WRAPPERS.build(self.optim_wrapper_cfg, path="optim_wrapper", optimizer=optimizer)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module) -> None:
        """Append one group for each parameter of ``module``; constructors of one's own override this.

        Frozen ones are among them: no gradient, no step, but a hook may thaw them later.

        Args:
            params: Filled in place with ``dict(params=[Parameter], lr=..., weight_decay=...)``.
            module: The model.
        """
        seen: set[int] = set()
        matched: set[str] = set()
        trainable = 0
        for prefix, owner, in_deformable in _modules(module):
            for name, parameter in owner.named_parameters(recurse=False):
                if id(parameter) in seen:
                    self._meet_again(f"{prefix}.{name}")
                    continue
                seen.add(id(parameter))
                trainable += parameter.requires_grad
                key, settings = self._settings(prefix, name, parameter, owner, in_deformable)
                if key and parameter.requires_grad:
                    matched.add(key)
                params.append({"params": [parameter], **settings})
                if settings:
                    logger.debug("%s.%s: %s", prefix, name, settings)
        logger.info("The optimiser has %d trainable and %d frozen tensors", trainable, len(seen) - trainable)
        for key in self.paramwise_cfg.get("custom_keys", {}):
            if key not in matched:
                logger.warning("paramwise_cfg.custom_keys: '%s' decides about no trainable parameter", key)

    def _meet_again(self, name: str) -> None:
        # Without rules a second name changes nothing; with rules it is unclear which name's rules count.
        if self.paramwise_cfg and not self.paramwise_cfg.get("bypass_duplicate", False):
            raise ConfigError(
                f"optim_wrapper.paramwise_cfg: parameter '{name}' is shared and was met before under"
                " another name; set bypass_duplicate=True to let the first name decide"
            )

    def _settings(
        self, prefix: str, name: str, parameter: nn.Parameter, owner: nn.Module, in_deformable: bool
    ) -> tuple[str, dict[str, Any]]:
        """The custom key that matched, and the settings of one parameter."""
        custom = self.paramwise_cfg.get("custom_keys", {})
        for key in sorted(sorted(custom), key=len, reverse=True):
            if key in f"{prefix}.{name}":
                settings = {"lr": self._lr(custom[key].get("lr_mult", 1.0))}
                if self.base_wd is not None:
                    settings["weight_decay"] = self.base_wd * custom[key].get("decay_mult", 1.0)
                return key, {**settings, **custom[key]}
        settings = {}
        rule = self.paramwise_cfg.get
        is_norm = isinstance(owner, NORMS)
        if name == "bias" and not is_norm and not in_deformable and rule("bias_lr_mult") is not None:
            settings["lr"] = self._lr(rule("bias_lr_mult"))
        is_offset = in_deformable and "conv_offset" in prefix and isinstance(owner, nn.Conv2d)
        if is_offset and rule("dcn_offset_lr_mult") is not None:
            settings["lr"] = self._lr(rule("dcn_offset_lr_mult"))
        factor = self._decay_factor(name, parameter, owner, is_norm, in_deformable)
        if factor is not None and self.base_wd is not None:
            settings["weight_decay"] = self.base_wd * factor
        return "", settings

    def _decay_factor(
        self, name: str, parameter: nn.Parameter, owner: nn.Module, is_norm: bool, in_deformable: bool
    ) -> float | None:
        rule = self.paramwise_cfg.get
        is_depthwise = isinstance(owner, nn.Conv2d) and owner.in_channels == owner.groups
        cases = (
            (is_norm, "norm_decay_mult"),
            (name == "bias" and not in_deformable, "bias_decay_mult"),
            (is_depthwise, "dwconv_decay_mult"),
            (parameter.ndim == 1 and not in_deformable, "flat_decay_mult"),
        )
        for applies, key in cases:
            if applies and rule(key) is not None:
                return rule(key)
        return None

    def _lr(self, factor: Any) -> float:
        if self.base_lr is None:
            raise ConfigError("optim_wrapper: a learning-rate multiplier in paramwise_cfg needs optimizer.lr")
        return self.base_lr * factor

    def _check_paramwise(self) -> None:
        for key in self.paramwise_cfg:
            if key not in self.keys:
                close = difflib.get_close_matches(key, self.keys, 1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise ConfigError(
                    f"optim_wrapper.paramwise_cfg.{key} is unknown{hint}; known: {', '.join(self.keys)}"
                )
        custom = self.paramwise_cfg.get("custom_keys", {})
        if not isinstance(custom, Mapping) or not all(
            isinstance(value, Mapping) for value in custom.values()
        ):
            raise ConfigError(
                "optim_wrapper.paramwise_cfg.custom_keys must map part of a name to"
                f" dict(lr_mult=..., decay_mult=...), got {custom!r}"
            )
        decays: list[str] = [
            key
            for key in ("bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult")
            if key in self.paramwise_cfg
        ]
        decays += [
            f"custom_keys['{key}'].decay_mult" for key, value in custom.items() if "decay_mult" in value
        ]
        if self.base_wd is None and decays:
            raise ConfigError(
                f"optim_wrapper.paramwise_cfg: {decays[0]} multiplies optimizer.weight_decay,"
                " which is not set"
            )


def build_optim_wrapper(model: nn.Module, cfg: Any, *, default_scope: str | None = None) -> OptimWrapper:
    """Build the optimiser wrapper that a config describes.

    Args:
        model: Its trainable parameters are optimised.
        cfg: ``dict(type='OptimWrapper', optimizer=dict(...), paramwise_cfg=..., constructor=..., ...)``, or a
            wrapper that is built already. A ``constructor`` of one's own is called as
            ``Constructor(optim_wrapper_cfg, paramwise_cfg)(model)`` and may return a bare optimiser.
        default_scope: Where plain names are looked up first.

    Raises:
        ConfigError: For unknown settings, with path and suggestion, before anything is built.
    """
    if isinstance(cfg, OptimWrapper):
        return cfg
    if not isinstance(cfg, Mapping):
        raise ConfigError(f"optim_wrapper must be a dict, got {type(cfg).__name__}")
    settings = dict(cfg)
    paramwise = settings.pop("paramwise_cfg", None)
    name = settings.pop("constructor", "DefaultOptimWrapperConstructor")
    with in_scope(default_scope):
        constructor: Callable[..., Any] = OPTIM_WRAPPER_CONSTRUCTORS.get(name)
        made = constructor(settings, paramwise)(unwrap_model(model))
    if isinstance(made, Optimizer):
        extra = {key: settings[key] for key in ("accumulative_counts", "clip_grad") if key in settings}
        made = OptimWrapper(made, **extra)
    if not isinstance(made, OptimWrapper):
        raise ConfigError(
            f"constructor {name} must return an OptimWrapper or an optimiser, got {type(made).__name__}"
        )
    return made


def scale_lr(optim: OptimWrapper, *, batch_size: int, base_batch_size: int) -> float:
    """Multiply all learning rates by ``batch_size / base_batch_size``; call it before the schedules are
    built.

    Args:
        optim: Changed in place.
        batch_size: Images in one update of this run, over all processes.
        base_batch_size: Images in one update for which the config's rate was chosen.

    Returns:
        The factor.
    """
    if base_batch_size < 1:
        raise ConfigError(f"auto_scale_lr.base_batch_size must be at least 1, got {base_batch_size}")
    if any("initial_lr" in group for group in optim.param_groups):
        raise ConfigError(
            "the learning rate must be scaled before the schedules are built: they hold the old one"
        )
    factor = batch_size / base_batch_size
    for group in optim.param_groups:
        group["lr"] *= factor
    logger.info(
        "the learning rate is for a batch of %d, this run has %d: multiplied by %g, now %s",
        base_batch_size,
        batch_size,
        factor,
        optim.get_lr(),
    )
    return factor


def merge_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put parameters with equal settings into one group, in the order in which settings were first met."""
    merged: dict[str, dict[str, Any]] = {}
    for group in groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        key = repr(sorted(settings.items()))
        merged.setdefault(key, {"params": [], **settings})["params"].extend(group["params"])
    return list(merged.values())


def resolve_optimizer(name: str) -> type[Optimizer] | None:
    """The optimiser of that name in ``torch.optim``: newer versions of torch have more than our table."""
    found = getattr(torch.optim, name, None)
    is_optimizer = isinstance(found, type) and issubclass(found, Optimizer) and found is not Optimizer
    return found if is_optimizer else None


def optimizer_names() -> list[str]:
    """The names that :func:`resolve_optimizer` knows."""
    return [name for name in dir(torch.optim) if resolve_optimizer(name) is not None]


def _modules(
    module: nn.Module, prefix: str = "", in_deformable: bool = False
) -> Iterator[tuple[str, nn.Module, bool]]:
    """Every module with its name, and whether its parent is a deformable convolution."""
    yield prefix, module, in_deformable
    is_deformable = any(cls.__name__ in DEFORMABLE for cls in type(module).__mro__)
    for name, child in module.named_children():
        yield from _modules(child, f"{prefix}.{name}" if prefix else name, is_deformable)
