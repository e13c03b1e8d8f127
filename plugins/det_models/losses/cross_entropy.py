"""Cross entropy: of exclusive classes (softmax), of independent ones (sigmoid), of masks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.host import host_tensor
from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss

Factor = float | Tensor | None


class CrossEntropyLoss(nn.Module):
    """Cross entropy in the forms that detectors use.

    Args:
        use_sigmoid: Binary cross entropy of every class by itself; labels outside of the classes are
            background.
        use_mask: Binary cross entropy of the mask that belongs to each label.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        class_weight: Factor of each class.
        ignore_index: Label of entries that do not count; -100 where None.
        loss_weight: Factor of the loss in the total.
        avg_non_ignore: Average over the entries that count (softmax and sigmoid forms), not over all.

    Raises:
        ValueError: Both forms at once.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = "mean",
        class_weight: Sequence[float] | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid and use_mask:
            raise ValueError("use_sigmoid and use_mask are two forms of the loss; set one")
        self.use_sigmoid = use_sigmoid
        self.use_mask = use_mask
        self.reduction = pick_reduction(reduction)
        self.class_weight = class_weight
        self.ignore_index = -100 if ignore_index is None else ignore_index
        self.loss_weight = loss_weight
        self.avg_non_ignore = avg_non_ignore

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: Factor = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
    ) -> Tensor:
        """Loss of logits.

        Args:
            cls_score: Logits: ``Tensor[N, C, ...]`` for the softmax, ``Tensor[N, C]`` for the sigmoid,
                ``Tensor[N, C, h, w]`` for masks.
            label: ``LongTensor[N, ...]``; for the sigmoid also targets ``Tensor[N, C]`` in 0..1; for masks
                their targets ``Tensor[N, h, w]`` in 0..1.
            weight: ``Tensor[N]``, or of the loss's shape; for masks the labels, ``LongTensor[N]``.
            avg_factor: What the sum is divided by; not for masks.
            reduction_override: Reduction of this call.
            ignore_index: Label of entries that do not count, in place of the module's; not for masks.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        ignore = self.ignore_index if ignore_index is None else ignore_index
        logits = at_least_float32(cls_score)
        class_weight = None if self.class_weight is None else host_tensor(self.class_weight, logits)
        if self.use_mask:
            if weight is None:
                raise ValueError("a mask loss is called as loss(mask_logits, mask_targets, labels)")
            return self.loss_weight * mask_cross_entropy(logits, label, weight, class_weight)
        form = binary_cross_entropy if self.use_sigmoid else cross_entropy
        return self.loss_weight * form(
            logits, label, weight, reduction, avg_factor, class_weight, ignore, self.avg_non_ignore
        )

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        form = "sigmoid" if self.use_sigmoid else "mask" if self.use_mask else "softmax"
        return f"{form}, loss_weight={self.loss_weight}"


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: Factor = None,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    avg_non_ignore: bool = False,
) -> Tensor:
    """Softmax cross entropy of ``Tensor[N, C, ...]`` against ``LongTensor[N, ...]``."""
    loss = F.cross_entropy(logits, label, weight=class_weight, reduction="none", ignore_index=ignore_index)
    if avg_factor is None and avg_non_ignore and reduction == "mean":
        avg_factor = (label != ignore_index).sum()
    weight = None if weight is None else weight.to(loss.dtype)
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


def binary_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: Factor = None,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    avg_non_ignore: bool = False,
) -> Tensor:
    """Binary cross entropy of ``Tensor[N, C]`` with labels ``LongTensor[N]`` or targets ``Tensor[N, C]``."""
    counted = (label >= 0) & (label != ignore_index)
    target = label
    if label.ndim != logits.ndim:
        num_classes = logits.shape[-1]
        target = label[:, None] == torch.arange(num_classes, device=label.device)
        counted = counted[:, None].expand(-1, num_classes)
        weight = None if weight is None else weight[:, None]
    weight = counted.to(logits.dtype) if weight is None else weight * counted
    if avg_factor is None and avg_non_ignore and reduction == "mean":
        avg_factor = counted.sum()
    loss = F.binary_cross_entropy_with_logits(
        logits, target.to(logits.dtype), pos_weight=class_weight, reduction="none"
    )
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


def entropy_of_probs(prob: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of each probability (after its sigmoid) with its target in 0..1, both ``[...]``.

    Logarithms end at -100. Autocast would refuse this form, in whatever precision its numbers are.
    """
    with torch.autocast(prob.device.type, enabled=False):
        return F.binary_cross_entropy(prob, target, reduction="none")


def mask_cross_entropy(
    logits: Tensor, target: Tensor, label: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    """Mean binary cross entropy of each mask of its own class.

    Args:
        logits: ``Tensor[N, C, h, w]``.
        target: ``Tensor[N, h, w]`` in 0..1.
        label: ``LongTensor[N]``.
        class_weight: Factor that broadcasts to the targets.

    Returns:
        A scalar, 0 where there is no mask.
    """
    own = logits[torch.arange(len(logits), device=logits.device), label]
    loss = F.binary_cross_entropy_with_logits(own, target.to(own.dtype), weight=class_weight, reduction="sum")
    return loss / max(1, own.numel())
