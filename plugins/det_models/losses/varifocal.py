"""Varifocal loss: positives count by their quality, negatives by how wrong they are (Zhang et al. 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.losses.gfocal import QualityTarget, quality_targets
from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss


class VarifocalLoss(nn.Module):
    """Eq. 2 of VarifocalNet, for a predicted probability p and a quality q of the box.

    ``-q (q log(p) + (1 - q) log(1 - p))`` in the class of an object, ``-alpha p^gamma log(1 - p)`` elsewhere.
    Unlike the focal loss it spares no positive, of which there are few: good ones count most.

    Args:
        use_sigmoid: Only the sigmoid form exists; here for the sake of configs.
        alpha: Weight of the negatives.
        gamma: How strongly easy negatives fade.
        iou_weighted: Whether positives count by their quality; else all alike.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.

    Attributes:
        takes_maps: Predictions may be ``[N, C, P]``, so that a head need not rearrange its maps.

    Raises:
        ValueError: ``use_sigmoid`` is false, or ``alpha`` is negative.
    """

    takes_maps = True

    def __init__(
        self,
        use_sigmoid: bool = True,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError("VarifocalLoss exists over sigmoids only; leave use_sigmoid=True")
        if alpha < 0:
            raise ValueError(f"alpha is a weight, 0 or more, got {alpha}")
        self.use_sigmoid = use_sigmoid
        self.alpha = alpha
        self.gamma = gamma
        self.iou_weighted = iou_weighted
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: QualityTarget,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of class logits.

        Args:
            pred: Logits ``Tensor[N, C]`` or, as maps have them, ``Tensor[N, C, P]``.
            target: Qualities q of all classes, of the predictions' shape, 0 where there is no object; or
                labels ``LongTensor[N]`` or ``[N, P]`` (what is no class is background) and qualities of the
                same shape.
            weight: Of the shape of labels, or of the predictions.
            avg_factor: What the sum is divided by, in place of the number of entries.
            reduction_override: Reduction of this call.

        Raises:
            ValueError: Shapes do not fit.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        logits = at_least_float32(pred)
        quality = target if isinstance(target, Tensor) else quality_targets(*target, like=logits)
        if quality.shape != logits.shape:
            raise ValueError(
                f"targets of shape {tuple(quality.shape)} do not fit predictions of shape {tuple(pred.shape)}"
            )
        quality = quality.to(logits.dtype)
        negative = self.alpha * (logits.sigmoid() - quality).abs().pow(self.gamma)
        scale = torch.where(quality > 0, quality if self.iou_weighted else 1.0, negative)
        loss = scale * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
        if weight is not None and weight.ndim < loss.ndim:
            weight = weight[:, None]
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"alpha={self.alpha}, gamma={self.gamma}, loss_weight={self.loss_weight}"
