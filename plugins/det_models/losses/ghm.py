"""Losses in which examples count the less the more there are of their kind: GHM.

Gradient Harmonized Single-stage Detector (Li et al., AAAI 2019, arXiv 1811.05181). How hard an example is
shows in the norm g of its gradient. There are too many easy ones, and too many that are hopeless. So the
norms are sorted into bins, and each example is divided by how full its bin is, the gradient density, as in
eq. 5-7 and 9::

    weight = N / (number of examples in the bin * number of bins that are not empty)

Both losses reckon their own average over N, and take an average factor only to be called like all others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss


class _Harmonised(nn.Module):
    """What both losses share: bins, their averages over time, and the weights that follow from them.

    Attributes:
        edges: ``Tensor[bins + 1]``, bounds of the bins.
        acc_sum: ``Tensor[bins]``, moving average of the number of examples in each; only with a momentum.
    """

    edges: Tensor
    acc_sum: Tensor

    def __init__(
        self, bins: int, last_edge: float, momentum: float, loss_weight: float, reduction: str
    ) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"bins is a number of bins, at least 1, got {bins}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is a share of what was, from 0 to below 1, got {momentum}")
        self.bins = bins
        self.momentum = momentum
        self.loss_weight = loss_weight
        self.reduction = pick_reduction(reduction)
        edges = torch.arange(bins + 1).float() / bins
        edges[-1] = last_edge
        self.register_buffer("edges", edges)
        if momentum > 0:
            self.register_buffer("acc_sum", torch.zeros(bins))

    @torch.no_grad()
    def harmony(self, norms: Tensor, valid: Tensor, total: Tensor) -> Tensor:
        """Weights of examples, and the moving averages moved on.

        Args:
            norms: Gradient norms ``Tensor[...]``, 0 to 1.
            valid: ``BoolTensor[...]``, which of them count.
            total: N, a scalar.

        Returns:
            ``Tensor[...]``, 0 for what does not count.
        """
        bin_of = torch.bucketize(norms, self.edges[1:-1], right=True)
        counts = torch.zeros(self.bins, dtype=torch.long, device=norms.device)
        counts = counts.index_add(0, bin_of.flatten(), valid.flatten().long())
        filled = counts > 0
        density = counts.to(norms.dtype)
        if self.momentum > 0:
            moved = self.momentum * self.acc_sum + (1 - self.momentum) * density
            self.acc_sum.copy_(torch.where(filled, moved, self.acc_sum))
            density = self.acc_sum.to(norms.dtype)
        weights = torch.where(filled, total / density, 0) / filled.sum().clamp(min=1)
        return torch.where(valid, weights[bin_of], 0)

    def _reduced(self, loss: Tensor, weights: Tensor, reduction: str, total: Tensor) -> Tensor:
        average = total if reduction == "mean" else None
        return self.loss_weight * weight_reduce_loss(loss, weights, reduction, average)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"bins={self.bins}, momentum={self.momentum}, loss_weight={self.loss_weight}"


class GHMC(_Harmonised):
    """Binary cross entropy, harmonised; the norm is ``g = |p - p*|``, eq. 4.

    Args:
        bins: Number of bins.
        momentum: Share of what was in the bins' averages over time; 0: each batch by itself.
        use_sigmoid: Only the sigmoid form exists; here for the sake of configs.
        loss_weight: Factor of the loss in the total.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Raises:
        ValueError: ``use_sigmoid`` is false, no bins, or a momentum that keeps all that was.
    """

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(bins, 1 + 1e-6, momentum, loss_weight, reduction)
        if not use_sigmoid:
            raise ValueError("GHMC exists over sigmoids only; leave use_sigmoid=True")
        self.use_sigmoid = use_sigmoid

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of class logits.

        Args:
            pred: ``Tensor[N, C]``.
            target: Labels ``LongTensor[N]``, C (any number outside of 0..C-1) for background; or targets
                ``Tensor[N, C]`` in 0..1.
            label_weight: ``Tensor[N]`` or ``Tensor[N, C]``: what is 0 does not count.
            avg_factor: Has no effect; see this module's docstring.
            reduction_override: Reduction of this call.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        logits = at_least_float32(pred)
        if target.ndim < logits.ndim:
            target = target[:, None] == torch.arange(logits.shape[1], device=target.device)
        if label_weight.ndim < logits.ndim:
            label_weight = label_weight[:, None]
        target = target.to(logits.dtype)
        valid = (label_weight > 0).expand_as(logits)
        total = valid.sum().clamp(min=1).to(logits.dtype)
        weights = self.harmony((logits.detach().sigmoid() - target).abs(), valid, total)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return self._reduced(loss, weights, reduction, total)


class GHMR(_Harmonised):
    """Authentic smooth L1 of box offsets, harmonised: ``sqrt(d^2 + mu^2) - mu``, eq. 11.

    The norm is ``g = |d / sqrt(d^2 + mu^2)|``, eq. 13: unlike smooth L1's, it tells outliers apart.

    Args:
        mu: Where the square turns into the straight line, above 0.
        bins: Number of bins.
        momentum: Share of what was in the bins' averages over time; 0: each batch by itself.
        loss_weight: Factor of the loss in the total.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Raises:
        ValueError: ``mu`` is not positive, no bins, or a momentum that keeps all that was.
    """

    def __init__(
        self,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(bins, 1e3, momentum, loss_weight, reduction)
        if mu <= 0:
            raise ValueError(f"mu must be above 0, got {mu}")
        self.mu = mu

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of box offsets.

        Args:
            pred: ``Tensor[N, 4]``.
            target: ``Tensor[N, 4]``.
            label_weight: ``Tensor[N, 4]``: what is 0 does not count.
            avg_factor: Has no effect; see this module's docstring.
            reduction_override: Reduction of this call.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        away = at_least_float32(pred) - at_least_float32(target)
        length = (away.square() + self.mu**2).sqrt()
        valid = (label_weight > 0).expand_as(away)
        total = label_weight.float().sum().clamp(min=1).to(away.dtype)
        weights = self.harmony((away / length).detach().abs(), valid, total)
        return self._reduced(length - self.mu, weights, reduction, total)
