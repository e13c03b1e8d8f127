"""Maps of several scales from maps of one, for plain vision transformers."""

from collections.abc import Sequence

from torch import Tensor, nn

from det_timm.zoo import FeatureMap
from detcore.nn import BaseModule, ModuleList

SCALES = (4.0, 2.0, 1.0, 0.5)


class SimpleFeaturePyramid(BaseModule):
    """Resamples maps of one scale to four, as ViTDet does (Li et al. 2022, section 3).

    Twice and four times as fine by transposed convolutions, which halve the channels each; half as fine by
    max pooling.

    Args:
        maps: What comes in, of equal strides: one map for all scales, or one for each.

    Attributes:
        maps: What comes out, finest first.
    """

    def __init__(self, maps: Sequence[FeatureMap]) -> None:
        super().__init__()
        layers = [_resampling(each.channels, scale) for each, scale in _pairs(maps)]
        self.resample = ModuleList(layers)
        self.single = len(maps) == 1
        self.maps = resampled(maps)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Resample.

        Args:
            maps: Each ``Tensor[B, C, H, W]``.

        Returns:
            ``Tensor[B, C_i, H * scale_i, W * scale_i]`` each.
        """
        sources = list(maps) * len(self.resample) if self.single else maps
        return tuple(layer(each) for layer, each in zip(self.resample, sources, strict=True))


def resampled(maps: Sequence[FeatureMap]) -> tuple[FeatureMap, ...]:
    """What a :class:`SimpleFeaturePyramid` makes of maps of equal strides, finest first."""
    return tuple(
        FeatureMap(_channels(each.channels, scale), _whole(each.stride / scale))
        for each, scale in _pairs(maps)
    )


def _pairs(maps: Sequence[FeatureMap]) -> list[tuple[FeatureMap, float]]:
    """The map that each level is made of, and how much finer it becomes; one map serves all levels."""
    sources = list(maps) if len(maps) > 1 else list(maps) * len(SCALES)
    return list(zip(sources, SCALES, strict=False))


def _channels(channels: int, scale: float) -> int:
    return int(channels // max(scale, 1.0))


def _whole(stride: float) -> float:
    return int(stride) if stride == int(stride) else stride


def _resampling(channels: int, scale: float) -> nn.Module:
    if scale == 1.0:
        return nn.Identity()
    if scale < 1.0:
        return nn.MaxPool2d(2, 2)
    half = channels // 2
    layers: list[nn.Module] = [nn.ConvTranspose2d(channels, half, 2, 2)]
    if scale == 4.0:
        # A group norm of one group is a layer norm over channels and pixels, which batches of any size allow.
        layers += [nn.GroupNorm(1, half), nn.GELU(), nn.ConvTranspose2d(half, half // 2, 2, 2)]
    return nn.Sequential(*layers)
