"""A model of timm as a backbone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from det_timm.groups import layer_ids
from det_timm.maps import plan_maps
from det_timm.pyramid import SimpleFeaturePyramid
from det_timm.weights import pretrained_state
from det_timm.zoo import check_model, flexible_arguments
from detcore.errors import ConfigError
from detcore.nn import BaseModule
from detcore.nn.base_module import DeferredInit

logger = logging.getLogger(__name__)

SPARE_CELLS = 5  # that convolutions without padding may cost a map (Inception)


class TIMMBackbone(BaseModule):
    """Feature maps of a model of timm, as ``Tensor[B, C_i, H_i, W_i]`` whatever the model's own layout is.

    Parameter names are those of MMPretrain's wrapper (``timm_model.``), so that its checkpoints load.

    Args:
        model_name: A model of timm, with or without the tag of its weights: ``'resnet50.a1_in1k'``.
        features_only: Maps of several stages; False gives the last one alone.
        pretrained: Start from timm's published weights, when the weights are initialised.
        checkpoint_path: Start from a local file with weights of the whole model instead (``.pth``,
            ``.safetensors``).
        in_channels: Channels of the image.
        out_indices: Which maps, counted from the finest the model has; negative ones from the coarsest. None:
            all of stride 4 and coarser; of a plain vision transformer, whose maps are of one scale, the last.
        pyramid: Resample maps of one scale to strides of a quarter, a half, one and two times their own
            (:class:`SimpleFeaturePyramid`); None: where the model is a plain vision transformer.
        frozen_stages: The stem and so many stages do not train: 0 is the stem alone, -1 freezes nothing.
        norm_eval: Whether batch norms use their averages in training, too.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        init_cfg: As of :class:`~detcore.nn.BaseModule`.
        **kwargs: Of the model: ``drop_path_rate=0.1``, ``img_size=512``, ...

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
        out_indices: Sequence[int] | None = None,
        pyramid: bool | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: DeferredInit = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        check_model(model_name)
        if bool(pretrained) + bool(checkpoint_path) + bool(init_cfg) > 1:
            raise ConfigError("give one of pretrained=True, checkpoint_path and init_cfg")
        self.model_name, self.pretrained, self.checkpoint_path = model_name, pretrained, checkpoint_path
        self.norm_eval, self.frozen_stages = norm_eval, frozen_stages
        self.arguments = {**flexible_arguments(model_name), **kwargs, "in_chans": in_channels}
        plan = plan_maps(model_name, out_indices if features_only else (-1,), pyramid, **self.arguments)
        self.arguments["out_indices"] = plan.indices
        self.sources = plan.sources
        self.timm_model: Any = self._create()
        self.pyramid = SimpleFeaturePyramid(plan.sources) if plan.resampled else None
        maps = plan.sources if self.pyramid is None else self.pyramid.maps
        self.out_channels = tuple(each.channels for each in maps)
        self.out_strides = tuple(each.stride for each in maps)
        self.expected_pixels = _pixels(self.timm_model) if pretrained or checkpoint_path else None
        if with_cp:
            self._checkpoint_activations()
        self._freeze()

    def _create(self, **more: Any) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = {"features_only": True, **self.arguments, **more}
            model: nn.Module = timm.create_model(self.model_name, **given)
        return model

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
        if str(getattr(self.timm_model, "output_fmt", "NCHW")).endswith("NHWC"):
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
            state = pretrained_state(self._create, self.model_name, self.checkpoint_path)
            self.timm_model.load_state_dict(state)

    def train(self, mode: bool = True) -> TIMMBackbone:
        """Set the mode; frozen stages and, where asked for, batch norms stay as in evaluation."""
        super().train(mode)
        for module in self.timm_model.modules():
            own = list(module.parameters(recurse=False))
            frozen = bool(own) and not any(each.requires_grad for each in own)
            if isinstance(module, _BatchNorm) and (self.norm_eval or (frozen and self.frozen_stages >= 0)):
                module.eval()
        return self

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter of this module, from the stem (0): for rates that decay by layer."""
        depths = layer_ids(self.timm_model, self.model_name, coarse=False)
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
        if self.frozen_stages < 0:
            return
        depths = layer_ids(self.timm_model, self.model_name, coarse=True)
        if not depths:
            raise ConfigError(f"timm does not tell the stages of {self.model_name}: frozen_stages=-1")
        for name, parameter in self.timm_model.named_parameters():
            if depths[name] <= self.frozen_stages:
                parameter.requires_grad = False
        self.train(self.training)


def _pixels(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of the pixels, 0 to 255, that a model's published weights expect."""
    told = getattr(model, "pretrained_cfg", None) or {}
    if not told.get("mean") or not told.get("std"):
        return None
    return tuple(255 * value for value in told["mean"]), tuple(255 * value for value in told["std"])
