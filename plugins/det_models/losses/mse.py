"""Loss on the squares of differences."""

from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss


class MSELoss(nn.Module):
    """Squared difference, ``(pred - target)^2``.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of ``pred`` against ``target``, both ``Tensor[N, ...]``; see :func:`weight_reduce_loss`."""
        if pred.shape != target.shape:
            raise ValueError(
                f"predictions {tuple(pred.shape)} and targets {tuple(target.shape)} differ in shape"
            )
        reduction = pick_reduction(self.reduction, reduction_override)
        loss = (at_least_float32(pred) - at_least_float32(target)).square()
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"reduction={self.reduction!r}, loss_weight={self.loss_weight}"
