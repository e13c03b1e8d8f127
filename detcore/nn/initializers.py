"""What ``init_cfg`` means: the initialisers by name, and to which layers of a module each applies."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Required, TypedDict

from torch import Tensor, nn

from detcore.errors import ConfigError
from detcore.nn import init
from detcore.registry import WEIGHT_INITIALIZERS, Open
from detcore.weights.load_into import load_into_module
from detcore.weights.reading import load_state, strip_prefix

logger = logging.getLogger(__name__)

InitCfg = dict | list[dict] | None


def initialize(module: nn.Module, init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Apply initialisers to a module and what is below it, in the order given.

    Args:
        module: The module.
        init_cfg: One or several ``dict(type=..., layer=..., override=..., **arguments)``.

    Raises:
        ConfigError: An initialiser is unknown, lacks an argument, or its ``override`` fits no submodule.
    """
    for cfg in [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg:
        WEIGHT_INITIALIZERS.build(dict(cfg), path=f"init_cfg of {type(module).__name__}")(module)


class OverrideCfg(TypedDict, total=False):
    """``override``: a submodule's name, and the initialiser that it gets in place of the outer one."""

    name: Required[str]
    type: str
    layer: str | list[str]
    bias: float
    bias_prob: float
    val: float
    std: float
    mean: float
    gain: float
    distribution: str
    mode: str


Override = Annotated[OverrideCfg, Open()]


class LayerInitializer(ABC):
    """An initialiser that fills the layers of certain classes.

    Args:
        bias: Value of biases.
        bias_prob: Instead of ``bias``: the probability at which a sigmoid after the layer starts.
        layer: Names of layer classes (or of their base classes) to fill; none where None.
        override: Submodules to fill otherwise: ``dict(name=...)`` with these same arguments, or
            ``dict(type=..., name=..., ...)`` with its own; all layers in the submodule are filled.

    Raises:
        ConfigError: ``layer`` or ``override`` is malformed.
    """

    needs_matrix = False
    """Whether the values depend on fan in or out, which a norm's weight of one dimension has not."""

    def __init__(
        self,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: str | Sequence[str] | None = None,
        override: Override | list[Override] | None = None,
    ) -> None:
        self.bias = bias if bias_prob is None else init.bias_init_with_prob(bias_prob)
        self.layers = frozenset([layer] if isinstance(layer, str) else layer or ())
        if not all(isinstance(name, str) for name in self.layers):
            raise ConfigError(f"init_cfg: layer holds names of classes, got {layer!r}")
        overrides = [override] if isinstance(override, Mapping) else list(override or ())
        self.overrides = [_checked_override(entry) for entry in overrides]

    @abstractmethod
    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""

    def __call__(self, module: nn.Module) -> None:
        """Fill the layers in ``module`` that ``layer`` names, then the overridden submodules."""
        if self.layers:
            for layer in module.modules():
                if self.layers.intersection(base.__name__ for base in type(layer).__mro__):
                    self.fill(layer)
        for entry in self.overrides:
            self._override(module, entry)

    def fill_whole(self, module: nn.Module) -> None:
        """Fill every layer in ``module``, whatever its class."""
        for layer in module.modules():
            weight: Any = getattr(layer, "weight", None)
            if self.needs_matrix and isinstance(weight, Tensor) and weight.dim() < 2:
                continue
            self.fill(layer)

    def _override(self, module: nn.Module, entry: Mapping[str, Any]) -> None:
        arguments = {key: value for key, value in entry.items() if key != "name"}
        target = getattr(module, entry["name"], None)
        if not isinstance(target, nn.Module):
            names = [name for name, _ in module.named_children()]
            raise ConfigError(
                f"init_cfg: override names {entry['name']!r}, but {type(module).__name__} has no such "
                f"submodule; it has {names}"
            )
        if not arguments:
            self.fill_whole(target)
            return
        other = WEIGHT_INITIALIZERS.build(arguments, path=f"init_cfg of {type(module).__name__}: override")
        if isinstance(other, LayerInitializer):
            other.fill_whole(target)
        else:
            other(target)


def _checked_override(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"init_cfg: override must be a dict or a list of dicts, got {entry!r}")
    if not isinstance(entry.get("name"), str):
        raise ConfigError(f"init_cfg: override needs the `name` of a submodule, got {dict(entry)}")
    if len(entry) > 1 and "type" not in entry:
        raise ConfigError(
            f"init_cfg: override {dict(entry)} has arguments but no `type`; leave the arguments away to take "
            "those of the outer initialiser"
        )
    return dict(entry)


class Constant(LayerInitializer):
    """All weights ``val``; other arguments as of :class:`LayerInitializer`."""

    def __init__(self, val: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val = val

    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""
        init.constant_init(layer, self.val, self.bias)


class Xavier(LayerInitializer):
    """Weights as of :func:`~detcore.nn.xavier_init`; other arguments as of :class:`LayerInitializer`."""

    needs_matrix = True

    def __init__(self, gain: float = 1, distribution: init.Distribution = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain, self.distribution = gain, distribution

    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""
        init.xavier_init(layer, self.gain, self.bias, self.distribution)


class Normal(LayerInitializer):
    """Normally distributed weights; other arguments as of :class:`LayerInitializer`."""

    def __init__(self, mean: float = 0, std: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean, self.std = mean, std

    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""
        init.normal_init(layer, self.mean, self.std, self.bias)


class TruncNormal(LayerInitializer):
    """Normally distributed weights in absolute bounds; other arguments as of :class:`LayerInitializer`."""

    def __init__(self, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean, self.std, self.a, self.b = mean, std, a, b

    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""
        init.trunc_normal_init(layer, self.mean, self.std, self.a, self.b, self.bias)


class Uniform(LayerInitializer):
    """Weights uniform between ``a`` and ``b``; other arguments as of :class:`LayerInitializer`."""

    def __init__(self, a: float = 0, b: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a, self.b = a, b

    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""
        init.uniform_init(layer, self.a, self.b, self.bias)


class Kaiming(LayerInitializer):
    """Weights as of :func:`~detcore.nn.kaiming_init`; other arguments as of :class:`LayerInitializer`."""

    needs_matrix = True

    def __init__(
        self,
        a: float = 0,
        mode: Literal["fan_in", "fan_out"] = "fan_out",
        nonlinearity: str = "relu",
        distribution: init.Distribution = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.a, self.mode, self.nonlinearity, self.distribution = a, mode, nonlinearity, distribution

    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""
        init.kaiming_init(layer, self.a, self.mode, self.nonlinearity, self.bias, self.distribution)


class Caffe2Xavier(LayerInitializer):
    """Weights as of :func:`~detcore.nn.caffe2_xavier_init`; arguments as of :class:`LayerInitializer`."""

    needs_matrix = True

    def fill(self, layer: nn.Module) -> None:
        """Fill one layer."""
        init.caffe2_xavier_init(layer, self.bias)


class Pretrained:
    """Weights from a file or an address.

    Names that the module lacks and names that the file lacks are reported in one line; a file of which
    nothing fits is an error.

    Args:
        checkpoint: A path, an http(s) address, ``'torchvision://resnet50'`` or another name of weights (see
            :func:`~detcore.weights.fetch`).
        prefix: Only take what begins with it, which is cut off: ``'backbone.'``.
        map_location: Where the tensors are read to.
        revise_keys: Pairs of a regular expression and its replacement, applied to the names first.
        allow_mismatch: Leave out tensors of another shape instead of refusing the file.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = "cpu",
        revise_keys: Sequence[Sequence[str]] = ((r"^module\.", ""),),
        allow_mismatch: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location
        self.revise_keys = [(pattern, replacement) for pattern, replacement in revise_keys]
        self.allow_mismatch = allow_mismatch

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into ``module``.

        Raises:
            CheckpointError: The file cannot be read, or does not fit the module.
        """
        state = load_state(self.checkpoint, map_location=self.map_location, revise_keys=self.revise_keys)
        if self.prefix is not None:
            state = strip_prefix(state, self.prefix, source=self.checkpoint)
        # Classifiers of the published classification models: never wanted in a detector, so no news.
        ignore = (r"^(fc|classifier|heads?)\.",) if "://" in self.checkpoint else ()
        load_into_module(
            module,
            state,
            allow_mismatch=self.allow_mismatch,
            ignore_unexpected=ignore,
            source=self.checkpoint,
        )
