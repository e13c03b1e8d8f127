"""Generalised focal losses: of a class with its quality, and of a distribution (Li et al. 2020, GFL)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.losses.cross_entropy import entropy_of_probs
from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss

# Labels and how good the box of each is; or the targets themselves.
QualityTarget = tuple[Tensor, Tensor] | Tensor


def quality_focal_loss(pred: Tensor, target: Tensor, beta: float = 2.0, *, activated: bool = False) -> Tensor:
    """Eq. 4 of the paper, ``QFL(p) = |y - p|^beta * -((1 - y) log(1 - p) + y log(p))``.

    With y = 0, all that is not the object's class, this is ``p^beta * -log(1 - p)``.

    Args:
        pred: ``Tensor[...]``, logits (probabilities p where ``activated``).
        target: ``Tensor[...]`` of the same shape, y in 0..1.
        beta: How strongly examples fade whose quality is predicted well already.
        activated: ``pred`` went through a sigmoid.

    Returns:
        ``Tensor[...]`` of the same shape.
    """
    if activated:
        entropy, prob = entropy_of_probs(pred, target), pred
    else:
        entropy = F.binary_cross_entropy_with_logits(pred, target, reduction="none")
        prob = pred.sigmoid()
    return (target - prob).abs().pow(beta) * entropy


class QualityFocalLoss(nn.Module):
    """Class and quality of the box as one number: the score of the object's class is to be its IoU.

    Args:
        use_sigmoid: Only the sigmoid form exists; here for the sake of configs.
        beta: How strongly examples fade whose quality is predicted well already.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.
        activated: The predictions went through a sigmoid already.

    Attributes:
        takes_maps: Predictions may be ``[N, C, P]``, so that a head need not rearrange its maps.

    Raises:
        ValueError: ``use_sigmoid`` is false.
    """

    takes_maps = True

    def __init__(
        self,
        use_sigmoid: bool = True,
        beta: float = 2.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError("QualityFocalLoss exists over sigmoids only; leave use_sigmoid=True")
        self.use_sigmoid = use_sigmoid
        self.beta = beta
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight
        self.activated = activated

    def forward(
        self,
        pred: Tensor,
        target: QualityTarget,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of class predictions, a number a row: its classes are added up.

        Args:
            pred: ``Tensor[N, C]`` or, as maps have them, ``Tensor[N, C, P]``; logits (probabilities where
                ``activated``).
            target: Labels ``LongTensor[N]`` or ``[N, P]``, C (any number outside of 0..C-1) for background,
                and qualities in 0..1 of the same shape; or targets of all classes, of the predictions' shape.
            weight: Of the labels' shape.
            avg_factor: What the sum is divided by, in place of the number of rows.
            reduction_override: Reduction of this call.

        Raises:
            ValueError: Shapes do not fit.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        pred = at_least_float32(pred)
        wanted = target if isinstance(target, Tensor) else quality_targets(*target, like=pred)
        if wanted.shape != pred.shape:
            raise ValueError(f"targets of shape {tuple(wanted.shape)} do not fit predictions of shape "
                             f"{tuple(pred.shape)}")  # fmt: skip
        loss = quality_focal_loss(pred, wanted.to(pred.dtype), self.beta, activated=self.activated).sum(1)
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"beta={self.beta}, loss_weight={self.loss_weight}"


def quality_targets(labels: Tensor, qualities: Tensor, like: Tensor) -> Tensor:
    """Targets of all classes: 0, but in the class of the object its quality.

    Args:
        labels: ``LongTensor[N]`` or ``[N, P]``; what is no class is background.
        qualities: Of the labels' shape, in 0..1.
        like: ``Tensor[N, C]`` or ``[N, C, P]``, whose shape the targets are to have.
    """
    if labels.shape != qualities.shape or labels.ndim != like.ndim - 1:
        raise ValueError(
            f"labels {tuple(labels.shape)} and qualities {tuple(qualities.shape)} do not fit predictions "
            f"{tuple(like.shape)}"
        )
    num_classes = like.shape[1]
    is_object = (labels >= 0) & (labels < num_classes)
    own = torch.where(is_object, qualities, 0).to(like.dtype)
    return torch.zeros_like(like).scatter(1, labels.clamp(0, num_classes - 1)[:, None], own[:, None])


class DistributionFocalLoss(nn.Module):
    """A number as a distribution over whole numbers: its two neighbours are to be likely; eq. 6.

    ``DFL(S) = -((r - y) log(S_l) + (y - l) log(S_r))`` for y between the whole numbers l and r = l + 1.

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
        """Loss of distributions.

        Args:
            pred: ``Tensor[N, n + 1]``, logits of the numbers 0 to n.
            target: ``Tensor[N]``, y in 0..n.
            weight: ``Tensor[N]``.
            avg_factor: What the sum is divided by, in place of the number of rows.
            reduction_override: Reduction of this call.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        likely = at_least_float32(pred).log_softmax(-1)
        left = target.long().clamp(0, pred.shape[-1] - 2)
        place = (target - left).to(likely.dtype)
        both = likely.gather(-1, torch.stack((left, left + 1), -1))
        loss = -((1 - place) * both[:, 0] + place * both[:, 1])
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"reduction={self.reduction!r}, loss_weight={self.loss_weight}"
