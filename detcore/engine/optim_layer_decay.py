"""Learning rates that fall from the head of a detector towards the stem of its backbone."""

import logging
import re
from typing import Any, ClassVar, Literal, NamedTuple

from torch import nn

from detcore.engine.optim_constructor import PARAMWISE_KEYS, DefaultOptimWrapperConstructor, ParamwiseCfg
from detcore.errors import ConfigError

logger = logging.getLogger(__name__)

_TOKENS = ("backbone.cls_token", "backbone.mask_token", "backbone.pos_embed")
# Both namings of a ConvNeXt: MMPretrain's, and timm's (`stages_0` where it gives features, else `stages.0`).
_ENTRY = re.compile(
    r"backbone\.(?:downsample_layers\.(?P<mm>\d)\.|(?:.*\.)?stages[_.](?P<timm>\d)\.downsample\.|"
    r"(?:.*\.)?(?P<stem>stem)[_.]\d+\.)"
)
_BLOCK = re.compile(
    r"backbone\.(?:stages\.(?P<mm>\d)\.(?P<mm_block>\d+)\.|"
    r"(?:.*\.)?stages[_.](?P<timm>\d)\.blocks\.(?P<timm_block>\d+)\.)"
)


class Place(NamedTuple):
    """Where in a ConvNeXt a parameter is.

    Attributes:
        stage: Its stage, from 0.
        block: Its block in that stage, from 0; None in the layer that leads to the stage.
    """

    stage: int
    block: int | None


class LayerDecayCfg(ParamwiseCfg, total=False):
    """``paramwise_cfg`` of :class:`LearningRateDecayOptimizerConstructor`; inherited keys are ignored."""

    num_layers: int
    decay_rate: float
    decay_type: Literal["layer_wise", "stage_wise"]


class LearningRateDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Builds the optimiser with a learning rate for each layer: ``lr * decay_rate ** (layers above it)``.

    ``paramwise_cfg`` holds ``num_layers``, ``decay_rate`` and ``decay_type``:

    - ``layer_wise``: a parameter of layer ``i`` has the rate ``lr * decay_rate ** (num_layers + 1 - i)``;
    - ``stage_wise``: one of stage ``i`` likewise.

    A backbone tells its layers by a method ``layer_ids()``, and its stages by ``stage_ids()``: name of each
    parameter, relative to the backbone, -> layer, from 0 in the stem; ``num_layers`` may be left out then,
    and is the deepest. Of a ConvNeXt without these they are known by name (see `layer_id` and `stage_id`).
    Everything else, such as neck and heads, has the full rate. Biases and all parameters of one dimension
    (norm layers) have no weight decay.

    Args:
        optim_wrapper_cfg: As for the default constructor; the optimiser needs ``lr``.
        paramwise_cfg: See above.

    Raises:
        ConfigError: A setting is missing or makes no sense; when it is called: nothing tells the layers.
    """

    keys: ClassVar[tuple[str, ...]] = ("num_layers", "decay_rate", "decay_type", *PARAMWISE_KEYS)

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: LayerDecayCfg | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        given = self.paramwise_cfg
        if given.get("decay_rate") is None:
            raise ConfigError(f"optim_wrapper.paramwise_cfg: {type(self).__name__} needs decay_rate")
        self.decay_rate = float(given["decay_rate"])
        self.num_layers = None if given.get("num_layers") is None else int(given["num_layers"])
        self.decay_type = given.get("decay_type", "layer_wise")
        if self.decay_type not in ("layer_wise", "stage_wise"):
            raise ConfigError(
                "optim_wrapper.paramwise_cfg.decay_type must be 'layer_wise' or 'stage_wise', "
                f"got {self.decay_type!r}"
            )
        if (self.num_layers is not None and self.num_layers < 1) or self.decay_rate <= 0:
            raise ConfigError(
                "optim_wrapper.paramwise_cfg: num_layers must be at least 1 and decay_rate above 0, got "
                f"{self.num_layers} and {self.decay_rate}"
            )
        ignored = sorted(set(given) & set(PARAMWISE_KEYS))
        if ignored:
            logger.warning(
                "optim_wrapper.paramwise_cfg: %s means nothing to %s and is ignored",
                ", ".join(ignored),
                type(self).__name__,
            )

    def add_params(self, params: list[dict[str, Any]], module: nn.Module) -> None:
        """Append one group for each trainable parameter of ``module``.

        Args:
            params: Filled in place with ``dict(params=[Parameter], lr=..., weight_decay=..., lr_scale=...,
                group_name='layer_3_decay')``.
            module: The detector.
        """
        layers, num_layers = self._layers(module)
        top = num_layers + 1
        for name, parameter in module.named_parameters():
            layer = layers.get(name, top)
            scale = self.decay_rate ** (top - layer)
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            group = {
                "params": [parameter],
                "lr": self._lr(scale),
                "lr_scale": scale,
                "group_name": f"layer_{layer}_{'decay' if decays else 'no_decay'}",
            }
            if self.base_wd is not None:
                group["weight_decay"] = self.base_wd if decays else 0.0
            params.append(group)
        deepest = max(layers.values())
        if deepest > top:
            logger.warning(
                "optim_wrapper.paramwise_cfg.num_layers=%d is too few for this backbone, which has %d: its "
                "last layers learn faster than the head",
                num_layers,
                deepest,
            )
        logger.info("%d tensors in the optimiser, %s over %d layers", len(params), self.decay_type, top)

    def _layers(self, module: nn.Module) -> tuple[dict[str, int], int]:
        """Name -> layer of the parameters of backbones, and the number of layers."""
        told = _told_layers(module, "layer_ids" if self.decay_type == "layer_wise" else "stage_ids")
        if told:
            return told, max(told.values()) if self.num_layers is None else self.num_layers
        names = [name for name, _ in module.named_parameters()]
        if not any(_BLOCK.match(name) for name in names):
            raise ConfigError(self._unknown(module))
        if self.num_layers is None:
            raise ConfigError(f"optim_wrapper.paramwise_cfg: {type(self).__name__} needs num_layers")
        of = layer_id if self.decay_type == "layer_wise" else stage_id
        return {name: of(name, self.num_layers) for name in names}, self.num_layers

    def _unknown(self, module: nn.Module) -> str:
        kind, what = type(getattr(module, "backbone", module)).__name__, self.decay_type.partition("_")[0]
        return (
            f"{type(self).__name__} finds no {what}s: the backbone is a {kind}, which has no method "
            f"{what}_ids() and no names of a ConvNeXt (backbone.stages.0.0.*, backbone.stages_0.blocks.0.*). "
            "Set rates by paramwise_cfg.custom_keys of the default constructor instead"
        )


def _told_layers(module: nn.Module, method: str) -> dict[str, int]:
    """What the backbones in a detector tell of their parameters, under the detector's names."""
    found: dict[str, int] = {}
    for prefix, part in module.named_modules():
        ask = getattr(part, method, None)
        if callable(ask):
            found |= {f"{prefix}.{name}" if prefix else name: layer for name, layer in ask().items()}
    return found


def layer_id(name: str, num_layers: int) -> int:
    """The layer of a parameter, from 0 (the stem) to ``num_layers``, and 1 more outside the backbone.

    The blocks of the first two stages are one layer each, those of the third are three to a layer.
    """
    if name in _TOKENS:
        return 0
    place = _place(name)
    if place is None:
        return num_layers + 1
    if place.stage == 3:
        return num_layers
    if place.block is None:
        return (0, 2, 3)[place.stage]
    return (1, 2, 3 + place.block // 3)[place.stage]


def stage_id(name: str, num_layers: int) -> int:
    """The stage of a parameter from 1, 0 in the layers between stages, ``num_layers + 1`` elsewhere."""
    if name in _TOKENS:
        return 0
    place = _place(name)
    if place is None:
        return num_layers + 1
    return 0 if place.block is None else place.stage + 1


def _place(name: str) -> Place | None:
    """Where in the backbone a parameter is; None for norms of its outputs and for other modules."""
    block = _BLOCK.match(name)
    if block:
        return Place(int(block["mm"] or block["timm"]), int(block["mm_block"] or block["timm_block"]))
    entry = _ENTRY.match(name)
    if entry:
        return Place(0 if entry["stem"] else int(entry["mm"] or entry["timm"]), None)
    return None
