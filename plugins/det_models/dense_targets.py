"""What the priors of a dense head are to predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from det_models.dense_cfg import DenseTrainCfg
from det_models.host import host_tensor, reduce_mean
from det_models.metainfo import MetaInfo, each_meta
from det_models.postprocess import flatten_level
from det_models.samplers import PseudoSampler
from det_models.truth import GroundTruth

Targets = Tensor | tuple[Tensor, ...]  # of the classes: labels, or labels and what else a loss compares with


def as_tuple(targets: Targets) -> tuple[Tensor, ...]:
    """Targets one by one."""
    return targets if isinstance(targets, tuple) else (targets,)


@dataclass(slots=True)
class DenseTargets:
    """What A priors of B images are to predict.

    Attributes:
        matches: ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither.
        labels: ``LongTensor[B, A]``, the number of classes for background.
        label_weights: ``Tensor[B, A]``, 0 where a prior does not count.
        avg_factor: What losses are divided by, a scalar on the device, the mean over ranks.
    """

    matches: Tensor
    labels: Tensor
    label_weights: Tensor
    avg_factor: Tensor


def sampled_targets(
    matches: Tensor, cfg: DenseTrainCfg, truth: GroundTruth, num_classes: int
) -> DenseTargets:
    """What priors are to predict that were matched, once the sampler has chosen among them.

    Args:
        matches: ``LongTensor[B, A]``, as from an assigner.
        cfg: Its ``sampler`` and ``pos_weight`` are used.
        truth: Ground truth of the B images.
        num_classes: Label of background.
    """
    sampler = cfg.sampler or PseudoSampler()
    matches = sampler.select(matches)
    weights = (matches >= 0).float()
    if cfg.pos_weight > 0:
        weights = torch.where(matches > 0, cfg.pos_weight, weights)
    return DenseTargets(
        matches=matches,
        labels=truth.labels_at(matches, num_classes),
        label_weights=weights,
        avg_factor=reduce_mean(sampler.avg_factor(matches)),
    )


@dataclass(slots=True)
class RegressedRows:
    """The rows of a flattened level, ``[B * A]``, that a box loss is reckoned on.

    Attributes:
        index: ``LongTensor[R]``, the rows.
        priors: ``Tensor[R, 4]``, xyxy.
        gt_boxes: ``Tensor[R, 4]``, xyxy, the matched boxes; the prior itself in a row without one.
        weights: ``Tensor[R, 4]``, 1 for matched rows, else 0.
    """

    index: Tensor
    priors: Tensor
    gt_boxes: Tensor
    weights: Tensor

    def of(self, values: Tensor, size: int) -> Tensor:
        """What a map ``Tensor[B, K * size, H, W]`` of the level holds for these rows, ``Tensor[R, size]``."""
        return flatten_level(values, size).flatten(0, 1)[self.index]


@torch.no_grad()
def regressed_rows(
    matches: Tensor, priors: Tensor, truth: GroundTruth, *, every: bool = False
) -> RegressedRows:
    """Rows of one level that the box loss is reckoned on.

    On the CPU these are the positives, which are few. On a device their number would have to be waited for,
    so there all rows are taken, and those that are not positive get the weight 0: the same sum.

    Args:
        matches: ``LongTensor[B, A]`` of the level (see :class:`DenseTargets`).
        priors: ``Tensor[A, 4]`` of the level, xyxy.
        truth: Ground truth of the B images.
        every: Take all rows on the CPU, too.
    """
    num_priors = len(priors)
    flat = matches.flatten()
    if every or matches.device.type != "cpu" or torch.compiler.is_compiling():
        index = torch.arange(len(flat), device=flat.device)
    else:
        index = torch.nonzero(flat > 0).flatten()
        if not len(index):  # one row of weight 0, since many a loss cannot do without any
            index = index.new_zeros(1)
    match = flat[index]
    image = index // num_priors
    chosen = priors[index % num_priors]
    positive = (match > 0)[:, None]
    boxes = truth.boxes[image, (match - 1).clamp(min=0)].to(chosen.dtype)
    return RegressedRows(
        index=index,
        priors=chosen,
        gt_boxes=torch.where(positive, boxes, chosen),
        weights=positive.to(chosen.dtype).expand(-1, 4),
    )


def rows_of_levels(matches: Tensor, mlvl_priors: Sequence[Tensor], truth: GroundTruth) -> list[RegressedRows]:
    """:func:`regressed_rows` of every level, from the matches ``LongTensor[B, A]`` of all of them."""
    parts = matches.split([len(priors) for priors in mlvl_priors], dim=1)
    return [regressed_rows(*level, truth) for level in zip(parts, mlvl_priors, strict=True)]


def valid_priors(
    prior_generator: Any,
    mlvl_priors: Sequence[Tensor],
    featmap_sizes: Sequence[tuple[int, int]],
    batch_img_metas: Sequence[MetaInfo],
    allowed_border: float = -1,
) -> Tensor | None:
    """``BoolTensor[B, A]``, which priors take part in which image; None for all in all.

    Args:
        prior_generator: Knows which of its priors stand on padding.
        mlvl_priors: ``Tensor[A_i, 4]`` a level, xyxy.
        featmap_sizes: (h, w) of each level's map.
        batch_img_metas: ``pad_shape`` and ``img_shape`` of each image.
        allowed_border: Pixels that a prior may reach out of its image; negative: any.
    """
    priors = torch.cat(list(mlvl_priors))
    img_shapes = each_meta(batch_img_metas, "img_shape")
    pad_shapes = [meta.get("pad_shape", meta["img_shape"])[:2] for meta in batch_img_metas]
    valid: Tensor | None = prior_generator.batch_valid_flags(featmap_sizes, pad_shapes, priors)
    if allowed_border < 0:
        return valid
    limits = host_tensor([[shape[1], shape[0]] for shape in img_shapes], priors) + allowed_border
    inside = (priors[:, :2] >= -allowed_border).all(-1) & (priors[:, 2:] < limits[:, None]).all(-1)
    return inside if valid is None else valid & inside
