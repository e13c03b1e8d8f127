"""VGG (Simonyan and Zisserman 2015) as SSD uses it (Liu et al. 2016, section 3)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from det_backbones.stages import check_indices, start_of
from detcore.nn import BaseModule
from detcore.nn.base_module import DeferredInit

_INIT_CFG = [
    {"type": "Kaiming", "layer": "Conv2d"},
    {"type": "Constant", "val": 1, "layer": "BatchNorm2d"},
    {"type": "Normal", "std": 0.01, "layer": "Linear"},
]


class SSDVGG(BaseModule):
    """VGG whose first two fully connected layers became convolutions, without the third.

    Five stages of 3x3 convolutions with a pooling of stride 2 behind each but the last, whose pooling has a
    kernel of 3 and a stride of 1; then fc6, a 3x3 convolution whose holes (a dilation of 6) give back the
    field of view that the stride took, and fc7, a 1x1 convolution. All of them stand in one sequence,
    ``features``: with depth 16 layer 22 is the ReLU of conv4_3, and layer 34 that of fc7.

    Args:
        depth: 11, 13, 16 or 19.
        with_last_pool: Keep the fifth pooling of stride 2, too.
        ceil_mode: Whether poolings round sizes up.
        out_indices: Has no effect; kept for configs.
        out_feature_indices: Layers of ``features`` whose output is returned.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.
        input_size: Has no effect; kept for configs.
        l2_norm_scale: Has no effect; the neck has it.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: The depth is unknown, or there is no such layer.
    """

    arch_settings: ClassVar[dict[int, tuple[int, ...]]] = {  # depth -> convolutions of each stage
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4),
    }

    def __init__(
        self,
        depth: int,
        with_last_pool: bool = False,
        ceil_mode: bool = True,
        out_indices: Sequence[int] = (3, 4),
        out_feature_indices: Sequence[int] = (22, 34),
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
        input_size: int | None = None,
        l2_norm_scale: float | None = None,
    ) -> None:
        super().__init__(start_of(pretrained, init_cfg, _INIT_CFG))
        if depth not in self.arch_settings:
            raise ValueError(f"SSDVGG has depth {sorted(self.arch_settings)}, got {depth}")
        layers = _stages(self.arch_settings[depth], ceil_mode)
        if not with_last_pool:
            layers.pop()
        layers += [
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            *_conv_and_relu(512, 1024, kernel_size=3, padding=6, dilation=6),
            *_conv_and_relu(1024, 1024, kernel_size=1),
        ]
        check_indices("out_feature_indices", out_feature_indices, len(layers))
        self.out_feature_indices = tuple(sorted(out_feature_indices))
        for index in self.out_feature_indices:
            for after in layers[index + 1 : index + 2]:
                if isinstance(after, nn.ReLU):
                    after.inplace = False  # it would write over a map that is returned
        self.features = nn.Sequential(*layers)
        self.out_channels, self.out_strides = self._outputs()

    def _outputs(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        channels, stride, found = 3, 1, []
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                channels = layer.out_channels
            elif isinstance(layer, nn.MaxPool2d):
                stride *= 1 if layer.stride == 1 else 2
            found.append((channels, stride))
        outputs = [found[index] for index in self.out_feature_indices]
        return tuple(each for each, _ in outputs), tuple(each for _, each in outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the layers in ``out_feature_indices``.

        Args:
            x: ``Tensor[B, 3, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, finest first.
        """
        outs = []
        for number, layer in enumerate(self.features[: self.out_feature_indices[-1] + 1]):
            x = layer(x)
            if number in self.out_feature_indices:
                outs.append(x)
        return tuple(outs)


def _stages(num_convs: Sequence[int], ceil_mode: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for stage, number in enumerate(num_convs):
        planes = min(64 * 2**stage, 512)
        for _ in range(number):
            layers += _conv_and_relu(channels, planes, kernel_size=3, padding=1)
            channels = planes
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=ceil_mode))
    return layers


def _conv_and_relu(in_channels: int, out_channels: int, **kernel: Any) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, **kernel), nn.ReLU(inplace=True)]
