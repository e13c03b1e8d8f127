"""TOOD's parts: layers weighed for one task, scores and boxes moved towards one another."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.nn import BaseModule, ConvModule, Sequential
from detcore.nn.build import ConvCfg, NormCfg
from detcore.ops import deform_conv2d

_INIT_CFG = {"type": "Normal", "layer": "Conv2d", "std": 0.01}
_ATTENTION_INIT = {"type": "Normal", "layer": "Conv2d", "std": 0.001}


class TaskDecomposition(BaseModule):
    """Features for one task out of all layers of a stack: TOOD (Feng et al. 2021), eq. 2 to 4.

    Each image has a weight for each layer, a sigmoid of two linear layers over the means of all maps. A 1x1
    convolution then brings the weighed layers together. Its kernel is weighed in place of the maps, which is
    the same and takes less memory.

    Args:
        feat_channels: Channels of a layer, and of the result.
        stacked_convs: Number of layers.
        la_down_rate: What the number of all channels is divided by between the two linear layers.
        conv_cfg: Kind of the last convolution.
        norm_cfg: Kind of its norm layer, None for none.
    """

    def __init__(
        self,
        feat_channels: int,
        stacked_convs: int,
        la_down_rate: int = 8,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
    ) -> None:
        super().__init__(init_cfg=_INIT_CFG)
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.in_channels = feat_channels * stacked_convs
        self.norm_cfg = norm_cfg
        hidden = self.in_channels // la_down_rate
        self.layer_attention = Sequential(
            nn.Conv2d(self.in_channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, stacked_convs, 1),
            nn.Sigmoid(),
            init_cfg=_ATTENTION_INIT,
        )
        self.reduction_conv = ConvModule(
            self.in_channels, feat_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=norm_cfg is None
        )

    def forward(self, feat: Tensor, avg_feat: Tensor | None = None) -> Tensor:
        """Features ``Tensor[B, feat_channels, H, W]``.

        Args:
            feat: All layers, one after another: ``Tensor[B, stacked_convs * feat_channels, H, W]``.
            avg_feat: Their means, ``Tensor[B, stacked_convs * feat_channels, 1, 1]``; None: taken here.
        """
        means = F.adaptive_avg_pool2d(feat, 1) if avg_feat is None else avg_feat
        weights = self.layer_attention(means).flatten(1)
        each = weights.repeat_interleave(self.feat_channels, dim=1)[:, None]
        reduction: Any = self.reduction_conv
        kernel = reduction.conv.weight.flatten(1) * each
        reduced = torch.bmm(kernel, feat.flatten(2)).unflatten(2, feat.shape[2:])
        if self.norm_cfg is not None:
            reduced = reduction.norm(reduced)
        out: Tensor = reduction.activate(reduced)
        return out


def sigmoid_geometric_mean(first: Tensor, second: Tensor) -> Tensor:
    """``sqrt(sigmoid(first) * sigmoid(second))`` of logits of shapes that broadcast, in float32.

    By logarithms: the derivative of a root at 0 would be infinite.
    """
    return ((F.logsigmoid(first.float()) + F.logsigmoid(second.float())) / 2).exp()


def read_sides(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Each side of each box as a place nearby predicts it: TOOD, eq. 6 and 7.

    Args:
        boxes: ``Tensor[B, 4, H, W]``, xyxy.
        offsets: ``Tensor[B, 8, H, W]``, in cells: for each side how far down and how far to the right.

    Returns:
        ``Tensor[B, 4, H, W]``; the box as it was where the sides that were read make none.
    """
    sides = boxes.shape[1]
    moved = deform_conv2d(
        boxes.contiguous(),
        offsets.contiguous(),
        boxes.new_ones(sides, 1, 1, 1),
        groups=sides,
        deform_groups=sides,
    )
    wrong = (moved[:, :2] > moved[:, 2:]).any(1, keepdim=True)
    return torch.where(wrong, boxes, moved)
