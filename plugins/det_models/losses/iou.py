"""Losses on the overlap of whole boxes: IoU, GIoU, DIoU, CIoU, EIoU, bounded IoU.

All take boxes ``Tensor[N, 4]`` (xyxy, absolute pixels) in aligned pairs and weights of ``Tensor[N]`` (or
``[N, 4]``, whose mean over a row counts). Targets get no gradient.
"""

import math
import warnings

import torch
from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss


class _Pair:
    """Geometry of aligned boxes that several losses need; every attribute is ``Tensor[N]``."""

    def __init__(self, pred: Tensor, target: Tensor) -> None:
        px1, py1, px2, py2 = pred.unbind(-1)
        tx1, ty1, tx2, ty2 = target.unbind(-1)
        self.pred_w, self.pred_h = px2 - px1, py2 - py1
        self.target_w, self.target_h = tx2 - tx1, ty2 - ty1
        self.inter_w = torch.minimum(px2, tx2) - torch.maximum(px1, tx1)
        self.inter_h = torch.minimum(py2, ty2) - torch.maximum(py1, ty1)
        self.overlap = self.inter_w.clamp(min=0) * self.inter_h.clamp(min=0)
        self.union = self.pred_w * self.pred_h + self.target_w * self.target_h - self.overlap
        self.hull_w = torch.maximum(px2, tx2) - torch.minimum(px1, tx1)
        self.hull_h = torch.maximum(py2, ty2) - torch.minimum(py1, ty1)
        self.center_dx = (tx1 + tx2 - px1 - px2) / 2
        self.center_dy = (ty1 + ty2 - py1 - py2) / 2

    def center_distance(self, eps: float) -> Tensor:
        """Squared distance of the centres over the hull's squared diagonal, in 0..1 (DIoU paper, eq. 7)."""
        hull = self.hull_w.clamp(min=0) ** 2 + self.hull_h.clamp(min=0) ** 2 + eps
        return (self.center_dx**2 + self.center_dy**2) / hull


def iou_loss(pred: Tensor, target: Tensor, mode: str = "log", eps: float = 1e-6) -> Tensor:
    """``1 - IoU``, ``1 - IoU^2`` or ``-log(IoU)`` (UnitBox, Yu et al. 2016) of each pair, ``Tensor[N]``."""
    pair = _Pair(pred, target)
    iou = (pair.overlap / pair.union.clamp(min=eps)).clamp(min=eps)
    if mode == "linear":
        return 1 - iou
    if mode == "square":
        return 1 - iou**2
    return -iou.log()


def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - GIoU`` of each pair, ``Tensor[N]`` in 0..2 (Rezatofighi et al. 2019)."""
    pair = _Pair(pred, target)
    union = pair.union.clamp(min=eps)
    hull = (pair.hull_w.clamp(min=0) * pair.hull_h.clamp(min=0)).clamp(min=eps)
    return 1 - (pair.overlap / union - (hull - union) / hull)


def diou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - IoU + d^2 / c^2`` of each pair, ``Tensor[N]`` in 0..2 (Zheng et al. 2020, Distance-IoU)."""
    pair = _Pair(pred, target)
    return 1 - pair.overlap / (pair.union + eps) + pair.center_distance(eps)


def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """DIoU loss plus a term for the aspect ratio, ``Tensor[N]`` in 0..2 (Zheng et al. 2020, Complete-IoU)."""
    pair = _Pair(pred, target)
    iou = pair.overlap / (pair.union + eps)
    angle = torch.atan(pair.target_w / (pair.target_h + eps)) - torch.atan(pair.pred_w / (pair.pred_h + eps))
    ratio_term = 4 / math.pi**2 * angle**2
    with torch.no_grad():  # the trade-off alpha; boxes that hardly overlap shall first come together
        trade_off = (iou > 0.5) * ratio_term / (1 - iou + ratio_term).clamp(min=eps)
    ciou = iou - pair.center_distance(eps) - trade_off * ratio_term
    return 1 - ciou.clamp(min=-1, max=1)


def eiou_loss(pred: Tensor, target: Tensor, smooth_point: float = 0.1, eps: float = 1e-7) -> Tensor:
    """Smooth Extended-IoU loss of each pair, ``Tensor[N]`` (Peng and Yu 2021).

    The overlap is that of the boxes where they touch. Apart from one another they have a negative one, the
    area between them, so that they still feel a pull (the paper's extended intersection).
    """
    px1, py1, px2, py2 = pred.unbind(-1)
    tx1, ty1, tx2, ty2 = target.unbind(-1)
    hull_x, hull_y = torch.minimum(px1, tx1), torch.minimum(py1, ty1)
    left, top = torch.maximum(px1, tx1) - hull_x, torch.maximum(py1, ty1) - hull_y
    right, bottom = torch.minimum(px2, tx2) - hull_x, torch.minimum(py2, ty2) - hull_y
    near_x, far_x = torch.minimum(left, right), torch.maximum(left, right)
    near_y, far_y = torch.minimum(top, bottom), torch.maximum(top, bottom)
    overlap = right * bottom + near_x * near_y - left * far_y - far_x * top
    union = (px2 - px1) * (py2 - py1) + (tx2 - tx1) * (ty2 - ty1) - overlap + eps
    loss = 1 - overlap / union
    return torch.where(loss < smooth_point, 0.5 * loss**2 / smooth_point, loss - 0.5 * smooth_point)


def bounded_iou_loss(pred: Tensor, target: Tensor, beta: float = 0.2, eps: float = 1e-3) -> Tensor:
    """Smooth L1 on an upper bound of the IoU that each coordinate allows alone, ``Tensor[N, 4]``.

    Tychsen-Smith and Petersson 2018 (Fitness NMS and bounded IoU loss), eq. 9 and 10.
    """
    pair = _Pair(pred, target)
    dx, dy = 2 * pair.center_dx.abs(), 2 * pair.center_dy.abs()
    bounds = (
        ((pair.target_w - dx) / (pair.target_w + dx + eps)).clamp(min=0),
        ((pair.target_h - dy) / (pair.target_h + dy + eps)).clamp(min=0),
        torch.minimum(pair.target_w / (pair.pred_w + eps), pair.pred_w / (pair.target_w + eps)),
        torch.minimum(pair.target_h / (pair.pred_h + eps), pair.pred_h / (pair.target_h + eps)),
    )
    loss = 1 - torch.stack(bounds, dim=-1)
    return torch.where(loss < beta, 0.5 * loss**2 / beta, loss - 0.5 * beta)


class _BoxLoss(nn.Module):
    """What the modules below share: weights, reduction, float32."""

    def __init__(self, reduction: str, loss_weight: float) -> None:
        super().__init__()
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair, ``Tensor[N]`` or ``Tensor[N, 4]``."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of predicted boxes against targets, both ``Tensor[N, 4]``; see :func:`weight_reduce_loss`."""
        if pred.shape != target.shape or pred.shape[-1:] != (4,):
            raise ValueError(
                f"boxes of one shape [N, 4] are compared, got {tuple(pred.shape)} and {tuple(target.shape)}"
            )
        reduction = pick_reduction(self.reduction, reduction_override)
        loss = self.elementwise(at_least_float32(pred), at_least_float32(target.detach()))
        if weight is not None:
            if weight.ndim == pred.ndim and loss.ndim < weight.ndim:
                weight = weight.mean(-1)
            elif loss.ndim > weight.ndim:
                weight = weight[..., None]
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"reduction={self.reduction!r}, loss_weight={self.loss_weight}"


class IoULoss(_BoxLoss):
    """IoU loss.

    Args:
        linear: Older name of ``mode='linear'``.
        eps: Least IoU and least union, so that logarithm and division stay finite.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.
        mode: ``'log'`` (``-log IoU``), ``'linear'`` (``1 - IoU``) or ``'square'`` (``1 - IoU^2``).

    Raises:
        ValueError: The mode is none of these.
    """

    def __init__(
        self,
        linear: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        mode: str = "log",
    ) -> None:
        super().__init__(reduction, loss_weight)
        if mode not in ("linear", "square", "log"):
            raise ValueError(f"mode must be one of linear, square, log, got {mode!r}")
        if linear:
            warnings.warn(
                "IoULoss(linear=True) is written mode='linear' now", DeprecationWarning, stacklevel=2
            )
            mode = "linear"
        self.mode = mode
        self.eps = eps

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair, ``Tensor[N]``."""
        return iou_loss(pred, target, self.mode, self.eps)


class GIoULoss(_BoxLoss):
    """Generalised IoU loss; arguments as of :class:`IoULoss`."""

    def __init__(self, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair, ``Tensor[N]``."""
        return giou_loss(pred, target, self.eps)


class DIoULoss(_BoxLoss):
    """Distance IoU loss; arguments as of :class:`IoULoss`."""

    def __init__(self, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair, ``Tensor[N]``."""
        return diou_loss(pred, target, self.eps)


class CIoULoss(_BoxLoss):
    """Complete IoU loss; arguments as of :class:`IoULoss`."""

    def __init__(self, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair, ``Tensor[N]``."""
        return ciou_loss(pred, target, self.eps)


class EIoULoss(_BoxLoss):
    """Smooth Extended-IoU loss; ``smooth_point`` is where the square turns straight, the rest as IoULoss."""

    def __init__(
        self, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0, smooth_point: float = 0.1
    ) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps
        self.smooth_point = smooth_point

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair, ``Tensor[N]``."""
        return eiou_loss(pred, target, self.smooth_point, self.eps)


class BoundedIoULoss(_BoxLoss):
    """Bounded IoU loss; ``beta`` is where the square turns straight, the rest as of :class:`IoULoss`."""

    def __init__(
        self, beta: float = 0.2, eps: float = 1e-3, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__(reduction, loss_weight)
        self.beta = beta
        self.eps = eps

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each coordinate, ``Tensor[N, 4]``."""
        return bounded_iou_loss(pred, target, self.beta, self.eps)
