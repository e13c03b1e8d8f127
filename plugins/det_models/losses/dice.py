"""Dice loss: how little two masks overlap (Milletari et al., V-Net, 2016, arXiv 1606.04797, section 3)."""

from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss


class DiceLoss(nn.Module):
    """One minus the Dice coefficient of each mask, ``1 - 2 sum(p t) / (sum(p^2) + sum(t^2))``.

    Pixels of a large and a small object count alike in it: only how much of the object is met counts.

    Args:
        use_sigmoid: Only the sigmoid form exists; here for the sake of configs.
        activate: Predictions are logits, whose sigmoid is taken here; else they are probabilities.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``, over masks.
        naive_dice: Sums of p and t, not of their squares, in the denominator.
        loss_weight: Factor of the loss in the total.
        eps: What is added to each sum of squares, or, with ``naive_dice``, to numerator and denominator.

    Raises:
        ValueError: ``activate`` without ``use_sigmoid``.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: str = "mean",
        naive_dice: bool = False,
        loss_weight: float = 1.0,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        if activate and not use_sigmoid:
            raise ValueError("DiceLoss activates by sigmoids only: use_sigmoid=True, or activate=False")
        self.use_sigmoid = use_sigmoid
        self.activate = activate
        self.reduction = pick_reduction(reduction)
        self.naive_dice = naive_dice
        self.loss_weight = loss_weight
        self.eps = eps

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction_override: str | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of masks.

        Args:
            pred: ``Tensor[N, ...]``, logits, or probabilities without ``activate``.
            target: Of the same shape, 0 to 1, of any dtype.
            weight: ``Tensor[N]``.
            reduction_override: Reduction of this call.
            avg_factor: What the sum is divided by, in place of the number of masks.

        Raises:
            ValueError: Shapes differ.
        """
        if pred.shape != target.shape:
            raise ValueError(
                f"predictions {tuple(pred.shape)} and targets {tuple(target.shape)} differ in shape"
            )
        reduction = pick_reduction(self.reduction, reduction_override)
        pred = at_least_float32(pred).flatten(1)
        target = target.flatten(1).to(pred.dtype)
        pred = pred.sigmoid() if self.activate else pred
        both = 2 * (pred * target).sum(1)
        if self.naive_dice:
            dice = (both + self.eps) / (pred.sum(1) + target.sum(1) + self.eps)
        else:
            dice = both / (pred.square().sum(1) + target.square().sum(1) + 2 * self.eps)
        return self.loss_weight * weight_reduce_loss(1 - dice, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"naive_dice={self.naive_dice}, eps={self.eps}, loss_weight={self.loss_weight}"
