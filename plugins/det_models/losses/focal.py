"""Focal loss: cross entropy in which the many easy examples hardly count (Lin et al. 2017, RetinaNet)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, reduce_loss, weight_reduce_loss

# Logits are taken in blocks of about this many, so that the passes over a block stay in the cache.
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
    """Weighted sum over all logits, with the gradient reckoned in the same sweep.

    For a hard target ``t`` let ``z = -x`` where ``t = 1`` and ``z = x`` where ``t = 0``. Then with ``q =
    sigmoid(z)`` and ``a`` = alpha or 1 - alpha::

        loss = a q^gamma softplus(z)        d loss / d z = a q^gamma (gamma (1 - q) softplus(z) + q)

    so positives are no special case but for a sign and a factor in one entry of their column: there is no
    one-hot target, and nothing depends on how many positives there are (a GPU need not be asked). The sum is
    multiplied by ``scale`` here, because the gradient is then finished, and backward need not touch every
    entry again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None,
        gamma: float,
        alpha: float,
        scale: float | Tensor,
    ) -> Tensor:
        """A scalar from logits ``Tensor[M, C, P]``, labels and weights ``Tensor[M, P]``."""
        need_grad = ctx.needs_input_grad[0]
        grad = torch.empty_like(logits) if need_grad else None
        kernel = _FocalBlock(logits, gamma, alpha, scale)
        total = logits.new_zeros((), dtype=kernel.dtype)
        for rows, columns in _blocks(logits):
            part_weight = None if weight is None else weight[rows, columns]
            part_grad = None if grad is None else grad[rows, :, columns]
            total += kernel(logits[rows, :, columns], labels[rows, columns], part_weight, part_grad)
        if grad is not None:
            ctx.save_for_backward(grad)
        return total * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient with respect to the logits; nothing else has one."""
        (grad,) = ctx.saved_tensors
        # Losses are usually just summed; on the CPU, where looking is free, that saves a pass over all
        # entries.
        if grad_output.device.type != "cpu" or grad_output != 1:
            grad = grad * grad_output.to(grad.dtype)
        return grad, None, None, None, None, None


def _blocks(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the first and the last of the dimensions ``[M, C, P]``."""
    num_rows, num_classes, num_columns = logits.shape
    size = max(1, _BLOCK.get(logits.device.type, _DEVICE_BLOCK) // max(1, num_classes))
    row_step, column_step = max(1, size // max(1, num_columns)), max(1, min(size, num_columns))
    for row in range(0, num_rows, row_step):
        for column in range(0, num_columns, column_step):
            yield slice(row, row + row_step), slice(column, column + column_step)


class _FocalBlock:
    """Loss and gradient of one block after the other, see :class:`_FocalSum`, in buffers that stay cached."""

    def __init__(self, logits: Tensor, gamma: float, alpha: float, scale: float | Tensor) -> None:
        self.dtype = at_least_float32(logits[:0]).dtype
        self.gamma, self.alpha, self.scale = gamma, alpha, scale
        self.buffers: tuple[Tensor, ...] = ()

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor | None, grad: Tensor | None) -> Tensor:
        """Weighted sum of ``Tensor[m, C, p]``; the gradient, times scale, is written to ``grad``."""
        if not self.buffers or self.buffers[0].shape != logits.shape:
            self.buffers = tuple(logits.new_empty(logits.shape, dtype=self.dtype) for _ in range(5))
        z, q, s, t, power = self.buffers
        num_classes = logits.shape[1]
        positive = ((labels >= 0) & (labels < num_classes))[:, None]
        label = labels.clamp(0, num_classes - 1)[:, None]
        ones = torch.ones_like(positive, dtype=self.dtype)
        weight = ones if weight is None else weight[:, None].to(self.dtype)
        negative_scale = weight * (1 - self.alpha)  # of every entry but the positives' own
        own_scale = torch.where(positive, weight * self.alpha, negative_scale)
        z.copy_(logits)
        own = z.gather(1, label)
        z.scatter_(1, label, torch.where(positive, -own, own))
        torch.sigmoid(z, out=q)
        torch.sigmoid(torch.neg(z, out=s), out=s)
        softplus = _softplus(z, q, s, t, power)
        if self.gamma == 2:
            torch.mul(q, q, out=power)
        else:
            torch.pow(q, self.gamma, out=power)
        loss = torch.mul(power, softplus, out=z)
        total = (loss.sum(1, keepdim=True) * negative_scale).sum()
        total += (loss.gather(1, label) * (own_scale - negative_scale)).sum()
        if grad is not None:
            entry = torch.add(q, softplus.mul_(s), alpha=self.gamma, out=t).mul_(power)
            own_entry = entry.gather(1, label) * torch.where(positive, -own_scale, own_scale)
            grad.copy_(entry.mul_(negative_scale * self.scale).scatter_(1, label, own_entry * self.scale))
        return total


def _softplus(z: Tensor, q: Tensor, s: Tensor, out: Tensor, scratch: Tensor) -> Tensor:
    """``log(1 + exp(z))`` from ``q = sigmoid(z)`` and ``s = sigmoid(-z)``, to the last digits at either end.

    It is ``-log(s)``, but where s is close to 1 the logarithm sees only what is left of q after rounding;
    ``q - (1 - s)`` is what was lost. log1p would do, but on the CPU it takes fourteen times as long as log,
    longer than all the rest of the loss.
    """
    lost = torch.sub(s, 1, out=out).add_(q)
    log = torch.clamp(s, min=torch.finfo(s.dtype).tiny, out=scratch).log_()
    return torch.maximum(lost.sub_(log), z, out=out)  # beyond 88, s is 0


class FocalLoss(nn.Module):
    """Sigmoid focal loss over independent classes, eq. 5 of the paper.

    Args:
        use_sigmoid: Only the sigmoid form exists; here for the sake of configs.
        gamma: How strongly easy examples fade.
        alpha: Share of the positive term; the negative term has ``1 - alpha``.
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
            pred: ``Tensor[N, C]`` or, as maps have them, ``Tensor[N, C, P]``; logits (probabilities where
                ``activated``).
            target: Labels ``Tensor[N]`` or ``Tensor[N, P]``, ``C`` (any number outside of 0..C-1) for
                background; or the targets themselves, in 0..1, of the predictions' shape.
            weight: Of the shape of labels, or of the predictions.
            avg_factor: What the sum is divided by, in place of the number of entries.
            reduction_override: Reduction of this call.

        Raises:
            ValueError: Shapes do not fit.
        """
        reduction = pick_reduction(self.reduction, reduction_override)
        _check_focal_input(pred, target, weight)
        by_label = target.ndim == pred.ndim - 1
        by_row = weight is None or weight.ndim == pred.ndim - 1
        plain = by_label and by_row and not self.activated and reduction != "none"
        if plain and not torch.compiler.is_compiling():  # a compiler fuses the formula below by itself
            return self._sum(pred, target, weight, reduction, avg_factor)
        if by_label:
            classes = torch.arange(pred.shape[1], device=pred.device)
            target = target[:, None] == (classes if pred.ndim == 2 else classes[:, None])
        pred = at_least_float32(pred)
        loss_func = focal_loss_with_probs if self.activated else focal_loss_with_logits
        loss = loss_func(pred, target, self.gamma, self.alpha)
        if weight is not None and by_row:
            weight = weight[:, None]
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def _sum(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        reduction: str,
        avg_factor: float | Tensor | None,
    ) -> Tensor:
        if reduction == "mean" and avg_factor is None:
            avg_factor = max(1, pred.numel())
        one = pred.new_ones((), dtype=torch.float32)
        scale = self.loss_weight * reduce_loss(one, reduction, avg_factor)
        if pred.ndim == 2:
            pred, target = pred[..., None], target[:, None]
            weight = None if weight is None else weight[:, None]
        total: Tensor = _FocalSum.apply(pred, target, weight, self.gamma, self.alpha, scale)
        return total

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"gamma={self.gamma}, alpha={self.alpha}, loss_weight={self.loss_weight}"


def _check_focal_input(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if pred.ndim not in (2, 3):
        raise ValueError(f"focal loss takes predictions [N, C] or [N, C, P], got {tuple(pred.shape)}")
    rows = pred.shape[:1] + pred.shape[2:]
    for name, values in (("targets", target), ("weights", weight)):
        if values is not None and values.shape not in (pred.shape, rows):
            raise ValueError(
                f"{name} of shape {tuple(values.shape)} do not fit predictions of shape {tuple(pred.shape)}; "
                f"expected {tuple(rows)} or {tuple(pred.shape)}"
            )
    if target.shape == rows and target.dtype.is_floating_point:
        raise ValueError(f"labels must be integers, got {target.dtype}")
