"""Which of an object's candidates are its positives, by two Gaussians over their losses: PAA."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Covariance = Literal["full", "tied", "diag", "spherical"]

# Settings of the mixture in the published results.
_STEPS, _TOLERANCE, _LEAST_VARIANCE = 100, 1e-3, 1e-6


@torch.no_grad()
def likely_positives(
    losses: Tensor,
    matches: Tensor,
    lengths: Sequence[int],
    num_boxes: int,
    topk: int,
    covariance_type: Covariance = "diag",
) -> Tensor:
    """Of the priors that are matched with an object, those that probably can learn it.

    PAA (Kim and Lee 2020), algorithm 1: each object's ``topk`` priors of least loss on every level are its
    candidates. Two Gaussians are fitted to their losses. Those that the lower one explains better, up to the
    loss that the mixture holds most likely, are its positives (figure 3c). One candidate is too few for that.

    Args:
        losses: ``Tensor[B, A]``, how badly each prior does with the object that it is matched with.
        matches: ``LongTensor[B, A]``, number of that object plus one, 0 and below for none.
        lengths: Priors of each level.
        num_boxes: G, objects of the fullest image.
        topk: Candidates of a level.
        covariance_type: ``'tied'`` for two Gaussians of one variance; the others are the same thing here.

    Returns:
        ``BoolTensor[B, A]``.
    """
    numbers = torch.arange(1, num_boxes + 1, device=matches.device)[:, None]
    values, places, start = [], [], 0
    for length in lengths:
        level = slice(start, start + length)
        own = torch.where(matches[:, None, level] == numbers, losses[:, None, level], torch.inf)
        value, place = own.topk(min(topk, length), largest=False)
        values.append(value)
        places.append(place + start)
        start += length
    ranked, order = torch.cat(values, dim=-1).sort(-1)
    place = torch.cat(places, dim=-1).gather(-1, order)
    kept = lower_mode(ranked, ranked < torch.inf, covariance_type)
    flags = torch.zeros_like(matches).scatter_reduce(1, place.flatten(1), kept.flatten(1).long(), "amax")
    return flags > 0


def lower_mode(values: Tensor, counted: Tensor, covariance_type: Covariance = "diag") -> Tensor:
    """Which of ascending values belong to the lower of two Gaussians, up to the most likely value.

    Args:
        values: ``Tensor[..., C]``, ascending.
        counted: ``BoolTensor[..., C]``, which of them there are; fewer than two are no mixture.
        covariance_type: ``'tied'`` for one variance.

    Returns:
        ``BoolTensor[..., C]``.
    """
    joint = fit_two_gaussians(values, counted, tied=covariance_type == "tied")
    lower = counted & (joint[..., 0] >= joint[..., 1])
    likelihood = torch.where(lower, joint.logsumexp(-1), -torch.inf)
    places = torch.arange(values.shape[-1], device=values.device)
    enough = counted.sum(-1, keepdim=True) > 1
    return lower & (places <= likelihood.argmax(-1, keepdim=True)) & enough


def fit_two_gaussians(values: Tensor, counted: Tensor, *, tied: bool = False) -> Tensor:
    """Fit mixtures of two Gaussians by expectation and maximisation, many at once.

    They start at the least and the greatest value, with variance 1 and equal weights. A mixture is done when
    its mean log-likelihood moves by less than a thousandth. On a device all steps are taken, since asking
    whether all are done would make the host wait; those that are done stay as they are.

    Args:
        values: ``Tensor[..., C]``.
        counted: ``BoolTensor[..., C]``, which of them there are.
        tied: One variance for both.

    Returns:
        ``Tensor[..., C, 2]``, log of weight times density of each value under each of the two.
    """
    least = torch.where(counted, values, torch.inf).amin(-1)
    greatest = torch.where(counted, values, -torch.inf).amax(-1)
    means = torch.stack((least, greatest), dim=-1)[..., None, :]
    means = torch.where(counted.any(-1)[..., None, None], means, 0)
    variances, weights = torch.ones_like(means), torch.full_like(means, 0.5)
    x, there = torch.where(counted, values, 0)[..., None], counted[..., None]
    count = there.sum(-2, keepdim=True).clamp(min=1)
    bound = torch.full_like(count, -math.inf, dtype=x.dtype)
    done = torch.zeros_like(count, dtype=torch.bool)
    tiny = 10 * torch.finfo(x.dtype).eps
    for _ in range(_STEPS):
        joint = _log_joint(x, means, variances, weights)
        norm = joint.logsumexp(-1, keepdim=True)
        shares = (joint - norm).exp() * there
        sizes = shares.sum(-2, keepdim=True) + tiny
        new_means = (shares * x).sum(-2, keepdim=True) / sizes
        spread = (shares * (x - new_means).square()).sum(-2, keepdim=True)
        new_variances = spread.sum(-1, keepdim=True).expand_as(spread) / count if tied else spread / sizes
        means = torch.where(done, means, new_means)
        variances = torch.where(done, variances, new_variances + _LEAST_VARIANCE)
        weights = torch.where(done, weights, sizes / count)
        new_bound = torch.where(there, norm, 0).sum(-2, keepdim=True) / count
        done = done | ((new_bound - bound).abs() < _TOLERANCE)
        bound = new_bound
        if done.device.type == "cpu" and done.all():
            break
    return _log_joint(x, means, variances, weights)


def _log_joint(x: Tensor, means: Tensor, variances: Tensor, weights: Tensor) -> Tensor:
    """Log of weight times density, ``Tensor[..., C, 2]``; x is ``[..., C, 1]``, others ``[..., 1, 2]``."""
    distance = (x - means).square() / variances
    return weights.log() - 0.5 * (math.log(2 * math.pi) + variances.log() + distance)
