"""Focal loss: cross entropy in which the many easy examples hardly count (Lin et al. 2017, RetinaNet)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, reduce_loss, weight_reduce_loss

# Rows are taken in blocks of about this many logits, so that the passes over a block stay in the cache.
_BLOCK = {"cpu": 1 << 17}
_DEVICE_BLOCK = 1 << 22


def focal_loss_with_logits(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss of each logit, eq. 5 of the paper: ``FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)``.

    Args:
        logits: ``Tensor[...]``.
        target: ``Tensor[...]`` of the same shape, probabilities in 0..1 (0 and 1 for hard labels).
        gamma: How strongly easy examples fade.
        alpha: Share of the positive term; the negative term has ``1 - alpha``.

    Returns:
        ``Tensor[...]`` of the logits' shape.
    """
    target = target.to(logits.dtype)
    prob = logits.sigmoid()
    missed = (1 - prob) * target + prob * (1 - target)  # 1 - p_t
    scale = (alpha * target + (1 - alpha) * (1 - target)) * missed.pow(gamma)
    return scale * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def focal_loss_with_probs(prob: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """As :func:`focal_loss_with_logits`, for probabilities that went through a sigmoid already."""
    target = target.to(prob.dtype)
    missed = (1 - prob) * target + prob * (1 - target)
    scale = (alpha * target + (1 - alpha) * (1 - target)) * missed.pow(gamma)
    return scale * F.binary_cross_entropy(prob, target, reduction="none")


class _FocalSum(torch.autograd.Function):
    """Sum over all logits, with the gradient reckoned in the same sweep.

    For a hard target ``t`` let ``z = -x`` where ``t = 1`` and ``z = x`` where ``t = 0``. Then with ``q =
    sigmoid(z)`` and ``a`` = alpha or 1 - alpha::

        loss = a q^gamma softplus(z)        d loss / d z = a q^gamma (gamma (1 - q) softplus(z) + q)

    so positives are no special case but for a sign and a factor in one column of their row: there is no
    one-hot target, and nothing depends on how many positives there are (a GPU need not be asked).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor | None, gamma: float, alpha: float
    ) -> Tensor:
        """Weighted sum over logits ``Tensor[N, C]`` with labels and weights ``Tensor[N]``."""
        need_grad = ctx.needs_input_grad[0]
        grad = torch.empty_like(logits) if need_grad else None
        total = logits.new_zeros((), dtype=at_least_float32(logits[:0]).dtype)
        for rows in _row_blocks(logits):
            part_weight = None if weight is None else weight[rows]
            part, part_grad = _focal_block(logits[rows], labels[rows], part_weight, gamma, alpha, need_grad)
            total += part
            if grad is not None and part_grad is not None:
                grad[rows] = part_grad
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        """Gradient with respect to the logits; labels and weights have none."""
        (grad,) = ctx.saved_tensors
        return grad * grad_output.to(grad.dtype), None, None, None, None


def _row_blocks(logits: Tensor) -> list[slice]:
    num_rows, num_classes = logits.shape
    if torch.compiler.is_compiling():  # the compiler fuses the passes itself, and would unroll the loop
        return [slice(0, num_rows)]
    size = max(1, _BLOCK.get(logits.device.type, _DEVICE_BLOCK) // max(1, num_classes))
    return [slice(start, start + size) for start in range(0, num_rows, size)]


def _focal_block(
    logits: Tensor, labels: Tensor, weight: Tensor | None, gamma: float, alpha: float, need_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Weighted sum and its gradient for one block of rows; see :class:`_FocalSum`."""
    num_classes = logits.shape[1]
    positive = ((labels >= 0) & (labels < num_classes))[:, None]
    column = labels.clamp(0, num_classes - 1)[:, None]
    row_weight = 1.0 if weight is None else weight.to(torch.float32)[:, None]
    z = at_least_float32(logits)
    own = z.gather(1, column)
    z = z.scatter(1, column, torch.where(positive, -own, own))
    q = z.sigmoid()
    softplus = _softplus(z)
    power = q * q if gamma == 2 else q.pow(gamma)
    loss = power * softplus
    negative_scale = (1 - alpha) * row_weight  # of all entries but the positives' own column
    own_scale = torch.where(positive, alpha, 1 - alpha) * row_weight
    total = (loss.sum(1, keepdim=True) * negative_scale).sum()
    total += (loss.gather(1, column) * (own_scale - negative_scale)).sum()
    if not need_grad:
        return total, None
    grad = softplus.mul_((1 - q).mul_(gamma)).add_(q).mul_(power)
    own_grad = grad.gather(1, column) * torch.where(positive, -own_scale, own_scale)
    return total, grad.mul_(negative_scale).scatter_(1, column, own_grad)


def _softplus(z: Tensor) -> Tensor:
    """``log(1 + exp(z))``, to the last digits of either end.

    On the CPU log1p takes longer than all the rest of the loss, and log a fourteenth of that; ``log(u) + (e -
    (u - 1)) / u`` with ``u = 1 + e`` puts back what rounding ``1 + e`` lost.
    """
    if z.device.type != "cpu" or torch.compiler.is_compiling():
        return F.softplus(z, threshold=40)  # beyond 40 they are equal in float64 too
    e = z.abs().neg_().exp_()
    u = e + 1
    rounding = e.sub_(u - 1).div_(u)
    return u.log_().add_(rounding).add_(z.clamp(min=0))


class FocalLoss(nn.Module):
    """Sigmoid focal loss over independent classes, eq. 5 of the paper.

    Args:
        use_sigmoid: Only the sigmoid form exists; here for the sake of configs.
        gamma: How strongly easy examples fade.
        alpha: Share of the positive term; the negative term has ``1 - alpha``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.
        activated: The predictions went through a sigmoid already.

    Raises:
        ValueError: ``use_sigmoid`` is false.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError("FocalLoss exists with use_sigmoid=True only")
        self.use_sigmoid = use_sigmoid
        self.gamma = gamma
        self.alpha = alpha
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight
        self.activated = activated

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of class predictions.

        Args:
            pred: ``Tensor[N, C]``, logits (probabilities where ``activated``).
            target: Labels ``Tensor[N]``, ``C`` (any number outside of 0..C-1) for background; or the targets
                themselves, ``Tensor[N, C]`` in 0..1.
            weight: ``Tensor[N]`` a row, or ``Tensor[N, C]`` an entry.
            avg_factor: What the sum is divided by, in place of ``N * C``.
            reduction_override: Reduction of this call.

        Raises:
            ValueError: Shapes do not fit.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        _check_focal_input(pred, target, weight)
        by_label = target.ndim == pred.ndim - 1
        by_row = weight is None or weight.ndim == 1
        if by_label and by_row and reduction != "none" and not self.activated:
            total = _FocalSum.apply(pred, target, weight, self.gamma, self.alpha)
            if reduction == "mean" and avg_factor is None:
                total = total / max(1, pred.numel())
            else:
                total = reduce_loss(total, reduction, avg_factor)
            return self.loss_weight * total
        if by_label:
            classes = torch.arange(pred.shape[1], device=pred.device)
            target = target[:, None] == classes
        pred = at_least_float32(pred)
        loss_func = focal_loss_with_probs if self.activated else focal_loss_with_logits
        loss = loss_func(pred, target, self.gamma, self.alpha)
        if weight is not None and weight.ndim == 1:
            weight = weight[:, None]
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"gamma={self.gamma}, alpha={self.alpha}, loss_weight={self.loss_weight}"


def _check_focal_input(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if pred.ndim != 2:
        raise ValueError(f"focal loss takes predictions of shape [N, C], got {tuple(pred.shape)}")
    if target.shape not in (pred.shape, pred.shape[:1]):
        raise ValueError(
            f"targets {tuple(target.shape)} fit neither [N] nor [N, C] of predictions {tuple(pred.shape)}"
        )
    if target.ndim == 1 and target.dtype.is_floating_point:
        raise ValueError(f"labels must be integers, got {target.dtype}")
    if weight is not None and weight.shape not in (pred.shape, pred.shape[:1]):
        raise ValueError(
            f"weights {tuple(weight.shape)} fit neither [N] nor [N, C] of predictions {tuple(pred.shape)}"
        )
