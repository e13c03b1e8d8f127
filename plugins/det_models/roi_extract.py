"""Features of regions out of a pyramid of feature maps."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from detcore.nn import BaseModule
from detcore.nn.base_module import DeferredInit
from detcore.ops import RoIAlign, by_level, roi_align_levels
from detcore.registry import MODELS, Factory

RoILayer = Annotated[Callable[..., nn.Module], Factory(MODELS)]


class BaseRoIExtractor(BaseModule):
    """Base of extractors, with one pooling layer for each feature map.

    Args:
        roi_layer: Makes a pooling layer for a ``spatial_scale``: ``dict(type='RoIAlign', output_size=7)``.
        out_channels: Channels of the feature maps.
        featmap_strides: Pixels per cell of the maps that regions are looked up in, finest first.
        init_cfg: How weights are initialised.

    Raises:
        ValueError: There is no stride.
    """

    def __init__(
        self,
        roi_layer: RoILayer,
        out_channels: int,
        featmap_strides: Sequence[int],
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not featmap_strides:
            raise ValueError("featmap_strides needs the stride of at least one feature map, got none")
        self.out_channels = out_channels
        self.featmap_strides = list(featmap_strides)
        self.roi_layers = self.build_roi_layers(roi_layer, featmap_strides)

    @property
    def num_inputs(self) -> int:
        """Number of feature maps that are used."""
        return len(self.featmap_strides)

    def build_roi_layers(self, layer_cfg: Any, featmap_strides: Sequence[int]) -> nn.ModuleList:
        """One pooling layer for each stride, from a factory or, in classes of users' own, from its config."""
        if isinstance(layer_cfg, dict):
            return nn.ModuleList(
                MODELS.build({**layer_cfg, "spatial_scale": 1 / stride}) for stride in featmap_strides
            )
        return nn.ModuleList(layer_cfg(spatial_scale=1 / stride) for stride in featmap_strides)

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of a region's features."""
        size: Any = self.roi_layers[0].output_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def roi_rescale(self, rois: Tensor, scale_factor: float) -> Tensor:
        """Regions ``Tensor[K, 5]`` scaled around their centres."""
        center = (rois[:, 1:3] + rois[:, 3:5]) * 0.5
        half = (rois[:, 3:5] - rois[:, 1:3]) * (0.5 * scale_factor)
        return torch.cat((rois[:, :1], center - half, center + half), dim=1)

    @abstractmethod
    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """Features of regions.

        Args:
            feats: ``Tensor[B, out_channels, H_i, W_i]`` of each level, at least :attr:`num_inputs`.
            rois: ``Tensor[K, 5]``: image number, x1, y1, x2, y2 in pixels of the network's input.
            roi_scale_factor: Factor by which regions are enlarged first.

        Returns:
            ``Tensor[K, out_channels, h, w]``.
        """


class SingleRoIExtractor(BaseRoIExtractor):
    """Each region from the one level that fits its size: Feature Pyramid Networks (Lin et al. 2017), eq. 1.

    Level ``floor(log2(sqrt(w * h) / finest_scale))``, within those there are.

    Args:
        roi_layer: Makes a pooling layer for a ``spatial_scale``.
        out_channels: Channels of the feature maps.
        featmap_strides: Pixels per cell of the maps, finest first.
        finest_scale: Side of a square region in pixels below twice which the finest level is taken.
        init_cfg: How weights are initialised.
    """

    def __init__(
        self,
        roi_layer: RoILayer,
        out_channels: int,
        featmap_strides: Sequence[int],
        finest_scale: int = 56,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(roi_layer, out_channels, featmap_strides, init_cfg=init_cfg)
        self.finest_scale = finest_scale

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """Levels ``LongTensor[K]`` of regions ``Tensor[K, 5]``."""
        scale = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
        levels = torch.floor(torch.log2(scale / self.finest_scale + 1e-6))
        return levels.clamp(min=0, max=num_levels - 1).long()

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """``Tensor[K, out_channels, h, w]``; see :meth:`BaseRoIExtractor.forward`."""
        if len(feats) < self.num_inputs:
            raise ValueError(
                f"{type(self).__name__} pools from {self.num_inputs} feature maps (strides "
                f"{self.featmap_strides}), got {len(feats)}"
            )
        feats, rois = feats[: self.num_inputs], rois.float()
        levels = self.map_roi_levels(rois, self.num_inputs)
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        if (shared := self._shared_settings()) is not None:
            return roi_align_levels(feats, rois, levels, *shared)
        return by_level(
            lambda number, part: self.roi_layers[number](feats[number], part), rois, levels, self.num_inputs
        )

    def _shared_settings(self) -> tuple[tuple[int, int], list[float], int, bool] | None:
        """Output size, scales, sampling ratio and alignment, if the layers differ in their scale alone."""
        layers = [layer for layer in self.roi_layers if type(layer) is RoIAlign]
        settings = {(layer.output_size, layer.sampling_ratio, layer.aligned) for layer in layers}
        if len(layers) < self.num_inputs or len(settings) > 1:
            return None
        ((size, ratio, aligned),) = settings
        return size, [layer.spatial_scale for layer in layers], ratio, aligned
