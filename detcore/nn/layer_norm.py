"""Layer norm of feature maps."""

import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of every place of a map by themselves (Ba et al. 2016, as ConvNeXt uses it).

    Args:
        num_channels: C.
        eps: Added to the variance.
        elementwise_affine: Whether there are learnt factors and offsets, one a channel.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, elementwise_affine: bool = True) -> None:
        super().__init__(num_channels, eps=eps, elementwise_affine=elementwise_affine)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, C, H, W]`` to the same shape, in memory with channels last."""
        rows = x.permute(0, 2, 3, 1)
        return F.layer_norm(rows, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
