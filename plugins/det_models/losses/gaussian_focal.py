"""Focal loss of heat maps, whose targets fall off softly around objects (Law and Deng 2018, CornerNet)."""

from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss

_EPS = 1e-12


def positive_focal_loss(prob: Tensor, alpha: float) -> Tensor:
    """``-(1 - p)^alpha log(p)`` of each probability ``Tensor[...]``: the term of an object's own place."""
    return -(prob + _EPS).log() * (1 - prob).pow(alpha)


def negative_focal_loss(prob: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """``-(1 - y)^gamma p^alpha log(1 - p)`` of probabilities and targets y of one shape ``Tensor[...]``."""
    return -(1 - prob + _EPS).log() * prob.pow(alpha) * (1 - target).pow(gamma)


class GaussianFocalLoss(nn.Module):
    """Focal loss of a heat map, eq. 1 of CornerNet, for probabilities p and targets y in 0..1.

    ``-(1 - p)^alpha log(p)`` where y is 1, an object's own place, and ``-(1 - y)^gamma p^alpha log(1 - p)``
    elsewhere: places near an object are hardly held against the network.

    Args:
        alpha: How strongly easy places fade.
        gamma: How strongly places near an object are spared.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.
        pos_weight: Factor of the first term.
        neg_weight: Factor of the second.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        gamma: float = 4.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight
        self.pos_weight = pos_weight
        self.neg_weight = neg_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        pos_inds: Tensor | None = None,
        pos_labels: Tensor | None = None,
        pos_mask: Tensor | None = None,
    ) -> Tensor:
        """Loss of a heat map.

        Args:
            pred: Probabilities, ``Tensor[...]``; ``Tensor[N, C]`` where places are named.
            target: Of the same shape.
            weight: Of a shape that broadcasts to it. Not with named places.
            avg_factor: What the sum is divided by, in place of the number of entries.
            reduction_override: Reduction of this call.
            pos_inds: Names the places that are an object's, ``LongTensor[M]``, rows of ``pred``, in place of
                those whose target is 1. A row may be named several times.
            pos_labels: Their classes, ``LongTensor[M]``.
            pos_mask: Which of them count, ``BoolTensor[M]``; all where None. So their number need not be
                known, for which a device would have to be waited for.

        Raises:
            ValueError: Shapes do not fit; places are named without classes, with weights, or without
                reduction.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        if pred.shape != target.shape:
            raise ValueError(
                f"targets of shape {tuple(target.shape)} do not fit predictions of shape {tuple(pred.shape)}"
            )
        prob, target = at_least_float32(pred), at_least_float32(target)
        loss = self.neg_weight * negative_focal_loss(prob, target, self.alpha, self.gamma)
        if pos_inds is None:
            own = self.pos_weight * positive_focal_loss(prob, self.alpha)
            loss = loss + own * (target == 1)
            return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)
        if pos_labels is None or weight is not None or reduction == "none":
            raise ValueError("pos_inds goes with pos_labels, without weight, and with a reduction")
        own = self.pos_weight * positive_focal_loss(prob[pos_inds, pos_labels], self.alpha)
        if reduction == "mean" and avg_factor is None:
            number = own.new_tensor(len(own)) if pos_mask is None else pos_mask.sum()
            own_total = weight_reduce_loss(own, pos_mask, reduction, number.clamp(min=1))
        else:
            own_total = weight_reduce_loss(own, pos_mask, reduction, avg_factor)
        return self.loss_weight * (own_total + weight_reduce_loss(loss, None, reduction, avg_factor))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"alpha={self.alpha}, gamma={self.gamma}, loss_weight={self.loss_weight}"
