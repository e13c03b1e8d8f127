"""The neck of CenterNet over ResNet (Zhou et al., Objects as Points, arXiv 1904.07850, section 5).

Three times a 3x3 convolution, deformable in the paper's last version, and a transposed one that doubles the
map, from stride 32 to stride 4 (after Xiao et al. 2018, whose keypoint detectors do the same).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, Sequential
from detcore.nn.base_module import DeferredInit

_BATCH_NORM = {"type": "BN"}


class CTResNetNeck(BaseModule):
    """The last of a backbone's maps, made finer by transposed convolutions.

    Names in the state dict: ``deconv_layers.NUMBER``, convolutions and transposed ones in turns, each with
    ``conv`` and ``bn``.

    Args:
        in_channels: Channels of the backbone's last map.
        num_deconv_filters: Channels of each step.
        num_deconv_kernels: Kernel of each step's transposed convolution; 4 doubles the map.
        use_dcn: Whether the 3x3 convolutions are deformable (``DCNv2``).
        init_cfg: How weights are initialised, in place of what :meth:`init_weights` says.

    Attributes:
        out_channels: Channels of the one map.
        out_strides: Its pixels per cell, known once the detector told the backbone's.

    Raises:
        ConfigError: Another number of kernels than of filters, or none.
    """

    def __init__(
        self,
        in_channels: int,
        num_deconv_filters: Sequence[int],
        num_deconv_kernels: Sequence[int],
        use_dcn: bool = True,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(num_deconv_filters) != len(num_deconv_kernels) or not num_deconv_filters:
            raise ConfigError(
                "CTResNetNeck: num_deconv_filters and num_deconv_kernels have an entry a step, at least one; "
                f"got {list(num_deconv_filters)} and {list(num_deconv_kernels)}"
            )
        self.in_channels, self.use_dcn = in_channels, use_dcn
        self.out_channels = (num_deconv_filters[-1],)
        self.out_strides: tuple[int, ...] | None = None
        kind: dict[str, Any] | None = {"type": "DCNv2"} if use_dcn else None
        upsample: dict[str, Any] = {"stride": 2, "padding": 1, "conv_cfg": {"type": "deconv"}}
        self.deconv_layers = Sequential()
        before = in_channels
        for after, kernel in zip(num_deconv_filters, num_deconv_kernels, strict=True):
            self.deconv_layers.append(
                ConvModule(before, after, 3, padding=1, conv_cfg=kind, norm_cfg=_BATCH_NORM)
            )
            self.deconv_layers.append(ConvModule(after, after, kernel, norm_cfg=_BATCH_NORM, **upsample))
            before = after

    def connect(self, in_channels: Sequence[int], in_strides: Sequence[int] | None = None) -> None:
        """Hear from the detector what the backbone gives.

        Args:
            in_channels: Channels of each of its maps.
            in_strides: Pixels per cell of each of its maps.

        Raises:
            ConfigError: This neck was built for other channels.
        """
        if in_channels[-1] != self.in_channels:
            raise ConfigError(
                f"CTResNetNeck: in_channels is {self.in_channels}, but the backbone's last map has "
                f"{in_channels[-1]}"
            )
        if in_strides is not None:
            self.out_strides = (in_strides[-1] // 2 ** (len(self.deconv_layers) // 2),)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start as the authors' code does.

        Convolutions start as PyTorch's, and of a transposed one the kernels of its first output alone
        interpolate bilinearly, those of others stay as PyTorch starts them. Deformable convolutions have a
        start of their own.
        """
        if not self.is_init:
            for layer in self.deconv_layers.modules():
                # With deformable ones, plain convolutions are those that give the offsets.
                if isinstance(layer, nn.ConvTranspose2d) or (
                    isinstance(layer, nn.Conv2d) and not self.use_dcn
                ):
                    layer.reset_parameters()
                if isinstance(layer, nn.ConvTranspose2d):
                    layer.weight[:, 0] = _bilinear(*layer.weight.shape[2:]).to(layer.weight)
        super().init_weights()

    def forward(self, x: Sequence[Tensor]) -> tuple[Tensor]:
        """One map ``Tensor[B, out_channels[0], H, W]``, from the last, ``Tensor[B, in_channels, h, w]``."""
        return (self.deconv_layers(x[-1]),)


def _bilinear(height: int, width: int) -> Tensor:
    """A kernel ``Tensor[height, width]`` that enlarges a map twofold by linear interpolation."""
    factor = math.ceil(height / 2)
    middle = (2 * factor - 1 - factor % 2) / (2 * factor)
    rows, columns = (1 - (torch.arange(n) / factor - middle).abs() for n in (height, width))
    return rows[:, None] * columns
