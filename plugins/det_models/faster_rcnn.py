"""Faster R-CNN (Ren et al., NeurIPS 2015, arXiv 1506.01497), with a feature pyramid (Lin et al., CVPR 2017).

1. Backbone and pyramid give maps of strides 4 to 64.
2. The region proposal network (:mod:`det_models.rpn`) proposes about a thousand regions of an image.
3. Each region's features are pooled to 7x7 out of the map that fits its size (:mod:`det_models.roi_extract`).
4. The box head (:mod:`det_models.bbox_heads`) gives each region a class and a better box.

Both stages are trained at once, on the same features; no gradient flows through the proposals' coordinates.
The way of the data through the second stage is in :class:`det_models.roi_head.StandardRoIHead`.
"""

from typing import Any

from torch import nn

from det_models.two_stage import TwoStageDetector


class FasterRCNN(TwoStageDetector):
    """Region proposal network and box head.

    Arguments as of :class:`~det_models.two_stage.TwoStageDetector`.
    """

    def __init__(self, backbone: nn.Module, rpn_head: nn.Module, roi_head: nn.Module, **kwargs: Any) -> None:
        super().__init__(backbone=backbone, rpn_head=rpn_head, roi_head=roi_head, **kwargs)
