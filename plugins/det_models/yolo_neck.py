"""From the coarsest map to the finest: YOLOv3 (Redmon and Farhadi 2018), section 2.3."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg

_BATCH_NORM = {"type": "BN", "requires_grad": True}
_LEAKY = {"type": "LeakyReLU", "negative_slope": 0.1}


class DetectionBlock(BaseModule):
    """Five convolutions, 1x1 and 3x3 in turn; those of 3x3 have twice the channels.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        layers: Kinds of convolution, normalisation and activation, as of ``ConvModule``.
    """

    def __init__(self, in_channels: int, out_channels: int, layers: dict[str, Any]) -> None:
        super().__init__()
        wide = out_channels * 2
        self.conv1 = ConvModule(in_channels, out_channels, 1, **layers)
        self.conv2 = ConvModule(out_channels, wide, 3, padding=1, **layers)
        self.conv3 = ConvModule(wide, out_channels, 1, **layers)
        self.conv4 = ConvModule(out_channels, wide, 3, padding=1, **layers)
        self.conv5 = ConvModule(wide, out_channels, 1, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H, W]``."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = conv(x)
        return x


class YOLOV3Neck(BaseModule):
    """From the coarsest map to the finest, each with what was found on the one before.

    Args:
        num_scales: Number of maps.
        in_channels: Channels of the backbone's maps, from the coarsest to the finest.
        out_channels: Channels of the maps of this neck, in the same order.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        init_cfg: How weights are initialised.

    Raises:
        ConfigError: Not ``num_scales`` numbers of channels.
    """

    coarsest_first: ClassVar[bool] = True  # the order of in_channels, the backbone's maps come finest first

    def __init__(
        self,
        num_scales: int,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        act_cfg: ActCfg = _LEAKY,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        if not num_scales == len(in_channels) == len(out_channels):
            raise ConfigError(
                f"YOLOV3Neck: num_scales is {num_scales}, so there are as many in_channels and out_channels; "
                f"got {list(in_channels)} and {list(out_channels)}"
            )
        self.num_scales = num_scales
        self.in_channels, self.out_channels = tuple(in_channels), tuple(out_channels)
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.detect1 = DetectionBlock(in_channels[0], out_channels[0], layers)
        for number in range(1, num_scales):
            channels, before = out_channels[number], out_channels[number - 1]
            self.add_module(f"conv{number}", ConvModule(before, channels, 1, **layers))
            block = DetectionBlock(in_channels[number] + channels, channels, layers)
            self.add_module(f"detect{number + 1}", block)

    def connect(self, in_channels: Sequence[int], in_strides: Sequence[int] | None = None) -> None:
        """Hear from the detector what the backbone gives, from the finest to the coarsest.

        Raises:
            ConfigError: This neck was built for other channels.
        """
        if self.in_channels != tuple(in_channels)[::-1]:
            raise ConfigError(
                f"YOLOV3Neck: in_channels, from the coarsest map on, is {list(self.in_channels)}, but the "
                f"backbone gives {list(in_channels)[::-1]}"
            )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The maps that the head gets.

        Args:
            feats: ``Tensor[B, C_i, H_i, W_i]`` of the backbone, finest first.

        Returns:
            ``Tensor[B, out_channels[i], H_i, W_i]`` each, coarsest first.

        Raises:
            ValueError: Another number of maps than of scales.
        """
        if len(feats) != self.num_scales:
            raise ValueError(f"YOLOV3Neck for {self.num_scales} maps got {len(feats)}")
        outs = [self.detect1(feats[-1])]
        for number, fine in enumerate(feats[-2::-1], start=1):
            coarse = F.interpolate(getattr(self, f"conv{number}")(outs[-1]), size=fine.shape[2:])
            outs.append(getattr(self, f"detect{number + 1}")(torch.cat((coarse, fine), dim=1)))
        return tuple(outs)
