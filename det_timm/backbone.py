"""A model of timm as a backbone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from det_timm._timm import timm
from det_timm.groups import idle_parameters, layer_ids, plain
from det_timm.maps import plan_maps
from det_timm.pyramid import SimpleFeaturePyramid
from det_timm.weights import pretrained_state
from det_timm.whole import channels_last, map_channels, without_classifier
from det_timm.zoo import current_name, flexible_arguments
from detcore.errors import ConfigError
from detcore.nn import BaseModule
from detcore.nn.base_module import DeferredInit
from detcore.registry import MODELS

logger = logging.getLogger(__name__)

SPARE_CELLS = 5  # that convolutions without padding may cost a map (Inception)


class TIMMBackbone(BaseModule):
    """Feature maps of a model of timm, as ``Tensor[B, C_i, H_i, W_i]`` whatever the model's own layout is.

    Parameter names are those of MMPretrain's wrapper (``timm_model.``), so that its checkpoints load; names
    of the whole model, where they differ, are followed while weights are loaded. Parameters that no map
    depends on do not train, as DDP demands.

    Args:
        model_name: A model of timm, with or without the tag of its weights: ``'resnet50.a1_in1k'``.
        features_only: Maps of several stages; False gives the map of the whole model up to its classifier.
        pretrained: Start from timm's published weights, when the weights are initialised.
        checkpoint_path: Start from a local file with weights of the whole model instead (``.pth``,
            ``.safetensors``).
        in_channels: Channels of the image.
        out_indices: Which maps, counted from the finest the model has; negative ones from the coarsest. None:
            all of stride 4 and coarser; of a plain vision transformer, whose maps are of one scale, the last.
        pyramid: Resample maps of one scale to strides of a quarter, a half, one and two times their own
            (:class:`SimpleFeaturePyramid`); None: where the model is a plain vision transformer and no more
            than four maps of it are chosen.
        frozen_stages: The stem and so many stages (blocks of plain transformers) do not train: 0 is the stem
            alone, -1 freezes nothing.
        norm_eval: Whether batch norms use their averages in training, too.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        init_cfg: As of :class:`~detcore.nn.BaseModule`.
        **kwargs: Of the model: ``drop_path_rate=0.1``, ``img_size=512``, ... A ``norm_layer`` may be a name
            of the registry (``'SyncBN'``) or one of timm's.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.
        expected_pixels: Mean and standard deviation of the pixels (0 to 255, RGB) that the weights were
            trained with; None where it starts from random weights.

    Raises:
        ConfigError: There is no such model, it has no feature maps, or not those; or takes no such argument.
    """

    def __init__(
        self,
        model_name: str,
        features_only: bool = True,
        pretrained: bool = False,
        checkpoint_path: str = "",
        in_channels: int = 3,
        out_indices: Sequence[int] | int | None = None,
        pyramid: bool | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: DeferredInit = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        _check_sources(pretrained, checkpoint_path, init_cfg)
        self.model_name, self.features_only = current_name(model_name), features_only
        self.pretrained, self.checkpoint_path = pretrained, checkpoint_path
        self.norm_eval, self.frozen_stages = norm_eval, frozen_stages
        self.arguments = {**flexible_arguments(self.model_name), **_own(kwargs), "in_chans": in_channels}
        plan = plan_maps(self.model_name, out_indices, pyramid, features_only=features_only, **self.arguments)
        self.out_indices, self.sources = plan.indices, plan.sources
        self.timm_model: Any = self._create()
        self.pyramid = SimpleFeaturePyramid(plan.sources) if plan.resampled else None
        maps = plan.sources if self.pyramid is None else self.pyramid.maps
        self.out_channels = tuple(each.channels for each in maps)
        self.out_strides = tuple(each.stride for each in maps)
        self.expected_pixels = _pixels(self.timm_model) if pretrained or checkpoint_path else None
        if with_cp:
            self._checkpoint_activations()
        self._freeze()
        self.register_load_state_dict_pre_hook(_follow_names)

    def _create(self, **more: Any) -> nn.Module:
        given = {**self.arguments, **more}
        if self.out_indices is not None:
            given |= {"features_only": True, "out_indices": self.out_indices}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = timm.create_model(self.model_name, **given)
        return model if self.features_only else without_classifier(model)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images.

        Args:
            x: ``Tensor[B, C, H, W]``.

        Returns:
            ``Tensor[B, C_i, H / stride_i, W / stride_i]`` each, finest first.
        """
        try:
            maps = self.timm_model(x)
        except (RuntimeError, AssertionError) as error:
            size = (getattr(self.timm_model, "pretrained_cfg", None) or {}).get("input_size")
            error.add_note(
                f"timm's {self.model_name} got images of {tuple(x.shape)}; its weights are for {size}. Where "
                "its design fixes the size, give img_size=(height, width), or resize and pad to what it takes"
            )
            raise
        if not self.features_only:
            last, maps = channels_last(maps, map_channels(self.timm_model)), [maps]
        else:
            last = str(getattr(self.timm_model, "output_fmt", "NCHW")).endswith("NHWC")
        if last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        self._check_sizes(maps, x)
        return tuple(maps) if self.pyramid is None else self.pyramid(maps)

    def _check_sizes(self, maps: Sequence[Tensor], image: Tensor) -> None:
        """Notice a model that rescales its input by itself: boxes would be found at wrong places."""
        inner = getattr(self.timm_model, "model", self.timm_model)
        size = tuple(image.shape[2:])
        # CrossViT's maps are those of the size that it rescales to, whatever the image has.
        wrong = hasattr(inner, "img_size_scaled") and size != tuple(inner.img_size)
        for each, source in zip(maps, self.sources, strict=True):
            for got, side in zip(each.shape[2:], size, strict=True):
                wrong |= abs(got - side / source.stride) > max(SPARE_CELLS, side / source.stride / 4)
        if wrong:
            raise ConfigError(
                f"timm's {self.model_name} turns images of {size} into maps of {tuple(maps[0].shape[2:])}, "
                f"which is not their stride {self.sources[0].stride}: it rescales images; resize them to "
                f"{self.timm_model.pretrained_cfg['input_size'][1:]}"
            )

    def init_weights(self) -> None:
        """Load the published weights, if they were asked for; a model of timm has drawn its own already."""
        if self._is_init:
            super().init_weights()  # warns
            return
        super().init_weights()
        if self.pretrained or self.checkpoint_path:
            published = getattr(self.timm_model, "pretrained_cfg", None) or {}
            state = pretrained_state(self._create, self.model_name, self.checkpoint_path, published)
            self.timm_model.load_state_dict(state)

    def train(self, mode: bool = True) -> TIMMBackbone:
        """Set the mode; frozen stages and, where asked for, batch norms stay as in evaluation."""
        super().train(mode)
        for module in self.timm_model.modules():
            if self.norm_eval and isinstance(module, _BatchNorm):
                module.eval()
            elif self.frozen_stages >= 0:
                inner = list(module.parameters())
                if inner and not any(each.requires_grad for each in inner):
                    module.eval()
        return self

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter of the model, from the stem (0): for rates that decay by layer."""
        return self._depths(coarse=False)

    def stage_ids(self) -> dict[str, int]:
        """Stage of each parameter of the model, from the stem (0)."""
        return self._depths(coarse=True)

    def _depths(self, *, coarse: bool) -> dict[str, int]:
        depths = layer_ids(self.timm_model, self.model_name, coarse=coarse, **self.arguments)
        return {f"timm_model.{name}": depth for name, depth in depths.items()}

    def _checkpoint_activations(self) -> None:
        target = self.timm_model
        target = target if hasattr(target, "set_grad_checkpointing") else getattr(target, "model", target)
        try:
            target.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise ConfigError(
                f"timm's {self.model_name} cannot compute activations again: with_cp=False"
            ) from error

    def _freeze(self) -> None:
        still = idle_parameters(self.timm_model, self._create, self.arguments)
        if not isinstance(self.frozen_stages, int) or self.frozen_stages < -1:
            raise ConfigError(f"frozen_stages must be -1 or more, got {self.frozen_stages!r}")
        if self.frozen_stages >= 0:
            depths = layer_ids(self.timm_model, self.model_name, coarse=True, **self.arguments)
            if not depths:
                raise ConfigError(f"timm does not tell the stages of {self.model_name}: frozen_stages=-1")
            last = max(depths.values())
            if self.frozen_stages > last:
                raise ConfigError(
                    f"frozen_stages={self.frozen_stages}: timm's {self.model_name} has stages 0 to {last}"
                )
            still |= {name for name, depth in depths.items() if depth <= self.frozen_stages}
        for name, parameter in self.timm_model.named_parameters():
            parameter.requires_grad = parameter.requires_grad and name not in still
        self.train(self.training)


def _check_sources(pretrained: Any, checkpoint_path: Any, init_cfg: Any) -> None:
    """Refuse weights from several places, and places that are none."""
    if not isinstance(pretrained, bool):
        raise ConfigError(f"pretrained must be True or False, got {pretrained!r}; a file is checkpoint_path")
    if not isinstance(checkpoint_path, str):
        raise ConfigError(f"checkpoint_path must be a string, got {checkpoint_path!r}")
    if pretrained + bool(checkpoint_path) + bool(init_cfg) > 1:
        raise ConfigError("give one of pretrained=True, checkpoint_path and init_cfg")


def _own(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A user's arguments of the model: those that have names here are refused, norms are looked up."""
    if "in_chans" in kwargs:
        raise ConfigError("write in_channels instead of in_chans")
    norm = kwargs.get("norm_layer")
    if isinstance(norm, str) and norm != norm.lower():  # timm's own names are of small letters
        return {**kwargs, "norm_layer": MODELS.get(norm)}
    return kwargs


def _follow_names(backbone: TIMMBackbone, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give weights of the whole model the names that its parts have here: ``stages.0.`` is ``stages_0.``."""
    own = {plain(name): name for name in backbone.timm_model.state_dict()}
    start = f"{prefix}timm_model."
    for name in [name for name in state if name.startswith(start)]:
        here = own.get(plain(name.removeprefix(start)))
        if here is not None and start + here not in state:
            state[start + here] = state.pop(name)


def _pixels(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of the pixels, 0 to 255, that a model's published weights expect."""
    told = getattr(model, "pretrained_cfg", None) or {}
    if not told.get("mean") or not told.get("std"):
        return None
    return tuple(255 * value for value in told["mean"]), tuple(255 * value for value in told["std"])
