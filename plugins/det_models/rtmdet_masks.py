"""Masks by convolutions whose weights are predicted: CondInst (Tian et al., ECCV 2020, arXiv 2003.05664).

All objects of an image look at the same few feature maps. What makes a mask one object's own are the weights
of a small network of 1x1 convolutions, which the cell that answers for the object predicts (section 2.2), and
the places of pixels as seen from that cell (section 2.1): where two objects look alike, places tell which one
is meant.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.dense_cfg import DenseTestCfg
from det_models.host import host_tensor
from det_models.losses.dice import DiceLoss
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.postprocess import Candidates
from detcore.nn import BaseModule, ConvModule
from detcore.nn.build import ActCfg, NormCfg
from detcore.registry import MODELS
from detcore.structures import InstanceData

_RELU = {"type": "ReLU", "inplace": True}
_BATCH_NORM = {"type": "BN"}
_REACH = 8  # strides of a cell that places are measured in
_PIXELS = {"cpu": 1 << 23}  # masks are enlarged together while they have at most so many
_DEVICE_PIXELS = 1 << 27  # half a gigabyte


class MaskFeatModule(BaseModule):
    """The feature maps that all masks of an image are made of, from the maps of all levels.

    Args:
        in_channels: Channels of the levels' maps.
        feat_channels: Channels of the 3x3 convolutions.
        stacked_convs: How many of those there are.
        num_levels: Levels.
        num_prototypes: C, maps that come out.
        act_cfg: Kind of activation.
        norm_cfg: Kind of norm layer.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        num_levels: int = 3,
        num_prototypes: int = 8,
        act_cfg: ActCfg = _RELU,
        norm_cfg: NormCfg = _BATCH_NORM,
    ) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.fusion_conv = nn.Conv2d(num_levels * in_channels, in_channels, 1)
        self.stacked_convs = nn.Sequential(
            *(
                ConvModule(
                    feat_channels if number else in_channels,
                    feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg,
                )
                for number in range(stacked_convs)
            )
        )  # fmt: skip
        channels = feat_channels if stacked_convs else in_channels
        self.projection = nn.Conv2d(channels, num_prototypes, 1)

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """``Tensor[B, C, H, W]`` of the first level's size, from ``Tensor[B, in_channels, H, W]`` a level."""
        size = x[0].shape[-2:]
        enlarged = [F.interpolate(each, size=size, mode="bilinear") for each in x[1 : self.num_levels]]
        fused = self.fusion_conv(torch.cat([x[0], *enlarged], dim=1))
        features: Tensor = self.projection(self.stacked_convs(fused))
        return features


class DynamicConvs:
    """Each object's own row of 1x1 convolutions, from C feature maps and two of places to one of logits.

    Args:
        num_prototypes: C.
        channels: Of all but the last convolution.
        num_convs: How many there are.

    Attributes:
        num_params: Numbers that make an object's convolutions: the weights of all, then the biases of all.

    Raises:
        ValueError: There is no convolution.
    """

    def __init__(self, num_prototypes: int, channels: int, num_convs: int) -> None:
        if num_convs < 1:
            raise ValueError(f"num_dyconvs must be at least 1, got {num_convs}")
        widths = [num_prototypes + 2, *[channels] * (num_convs - 1), 1]
        self.shapes = [(after, before) for before, after in itertools.pairwise(widths)]
        self.sizes = [after * before for after, before in self.shapes] + widths[1:]
        self.num_params = sum(self.sizes)

    def __call__(
        self, features: Tensor, grid: Tensor, kernels: Tensor, points: Tensor, counts: Sequence[int]
    ) -> Tensor:
        """Logits of the masks of P objects.

        Args:
            features: ``Tensor[B, C, h, w]``.
            grid: ``Tensor[h * w, 2]``, (x, y) of their pixels, in pixels of the network's input.
            kernels: ``Tensor[P, num_params]``, those of the first image's objects first.
            points: ``Tensor[P, 4]``, (x, y, stride, stride) of the cells that predicted them.
            counts: Objects of each image.

        Returns:
            ``Tensor[P, h, w]``.
        """
        parts = kernels.split(self.sizes, dim=1)
        weights = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=False)]
        biases = parts[len(self.shapes) :]
        x = self._first(features, grid, weights[0], biases[0], points, counts)
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            x = torch.baddbmm(bias[..., None], weight, x.relu())
        return x.unflatten(-1, features.shape[-2:])[:, 0]

    def _first(
        self,
        features: Tensor,
        grid: Tensor,
        weight: Tensor,
        bias: Tensor,
        points: Tensor,
        counts: Sequence[int],
    ) -> Tensor:
        """The first convolution, ``Tensor[P, channels, h * w]``, in float32.

        A place as seen from a cell is ``(point - pixel) / reach``. So it is the pixel's place in the image,
        which is the same for all objects, if weights and biases are changed in turn: no object needs a copy
        of the features, and an image's objects are multiplied with them at once. The difference of two large
        numbers that this makes of a small one is too much for less precision.
        """
        with torch.autocast(features.device.type, enabled=False):
            of_places = weight[..., :2].float() / (points[:, None, 2:] * _REACH)
            biases = bias.float() + (of_places * points[:, None, :2]).sum(-1)
            weights = torch.cat((-of_places, weight[..., 2:].float()), dim=2)
            places = grid.t().expand(len(features), -1, -1)
            maps = torch.cat((places, features.flatten(2).float()), dim=1)
            parts = zip(weights.split(list(counts)), biases.split(list(counts)), maps, strict=True)
            rows = [torch.addmm(b.flatten()[:, None], w.flatten(0, 1), each) for w, b, each in parts]
            return torch.cat(rows).unflatten(0, weight.shape[:2])


@dataclass(kw_only=True, slots=True)
class MaskTestCfg(DenseTestCfg):
    """How predictions become boxes and masks.

    Attributes:
        mask_thr_binary: Above which probability a pixel is part of the object.
    """

    mask_thr_binary: float = 0.5


# -- parts of a head -----------------------------------------------------------------------------


def set_up_masks(
    head: Any,
    num_prototypes: int,
    dyconv_channels: int,
    num_dyconvs: int,
    mask_loss_stride: int,
    loss_mask: nn.Module | None,
) -> None:
    """Take over what a head with masks consists of besides its layers.

    Raises:
        ValueError: There is no convolution of an object, or the first stride is no multiple of
            ``mask_loss_stride``.
    """
    if head.strides[0] % mask_loss_stride:
        raise ValueError(
            f"{type(head).__name__} enlarges masks of the first stride, {head.strides[0]}, to compare them: "
            f"it must be a multiple of mask_loss_stride, got {mask_loss_stride}"
        )
    head.num_prototypes = num_prototypes
    head.dyconv_channels = dyconv_channels
    head.num_dyconvs = num_dyconvs
    head.mask_loss_stride = mask_loss_stride
    head.loss_mask = MODELS.build(loss_mask or DiceLoss(loss_weight=2.0, eps=5e-6))
    head.dynamic_convs = DynamicConvs(num_prototypes, dyconv_channels, num_dyconvs)
    head.num_gen_params = head.dynamic_convs.num_params


def mask_features(head: Any) -> MaskFeatModule:
    """The layers of a head's settings that give what masks are made of."""
    return MaskFeatModule(
        head.in_channels,
        head.feat_channels,
        num_levels=len(head.strides),
        num_prototypes=head.num_prototypes,
        act_cfg=head.act_cfg,
        norm_cfg=head.norm_cfg,
    )


def mask_logits(
    head: Any, mask_feat: Tensor, kernels: Tensor, points: Tensor, counts: Sequence[int]
) -> Tensor:
    """``Tensor[P, h, w]`` of the first level's size; arguments as of :meth:`DynamicConvs.__call__`."""
    size = (mask_feat.shape[-2], mask_feat.shape[-1])
    grid = head.prior_generator.single_level_grid_priors(size, 0, device=mask_feat.device)
    logits: Tensor = head.dynamic_convs(mask_feat, grid, kernels, points, counts)
    return logits


# -- prediction ----------------------------------------------------------------------------------


def mask_fields(head: Any, best: Candidates) -> dict[str, Tensor]:
    """What the masks of candidates are made with: kernels, behind the boxes' four numbers, and points."""
    strides = host_tensor(head.strides, best.priors)[best.levels][..., None]
    points = torch.cat((best.priors, strides, strides), dim=-1)
    return {"kernels": best.bbox_preds[..., 4:], "points": points}


def with_masks(
    head: Any,
    results: list[InstanceData],
    mask_feat: Tensor,
    batch_img_metas: Sequence[MetaInfo],
    cfg: MaskTestCfg | None,
    rescale: bool,
) -> list[InstanceData]:
    """Results with ``masks`` in place of what they are made with; see a head's ``predict_by_feat``."""
    threshold = (cfg or head.test_cfg).mask_thr_binary
    counts = [len(each) for each in results]
    kernels, points = (torch.cat([each.pop(name) for each in results]) for name in ("kernels", "points"))
    logits = mask_logits(head, mask_feat.float(), kernels, points, counts).split(counts)
    shapes = each_meta(batch_img_metas, "ori_shape" if rescale else "img_shape")
    factors: list[Any] = [None] * len(results)
    if rescale:
        factors = each_meta(map(with_scale_factor, batch_img_metas), "scale_factor")
    for found, own, shape, factor in zip(results, logits, shapes, factors, strict=True):
        size = (int(shape[0]), int(shape[1]))
        found.masks = full_masks(own, head.strides[0], size, factor, threshold)
    return results


def full_masks(
    logits: Tensor, stride: int, image_size: tuple[int, int], factor: Sequence[float] | None, threshold: float
) -> Tensor:
    """Masks at the size of an image, enlarged bilinearly to the network's input and from there to the image.

    A few at a time: as numbers they take 32 times the memory.

    Args:
        logits: ``Tensor[N, h, w]``.
        stride: Pixels of the network's input for each of theirs, each way.
        image_size: (height, width) of the result, in its pixels.
        factor: (w, h) that the image was multiplied by to become the input; None: the input is the image.
        threshold: Above which probability a pixel is part of the object.

    Returns:
        ``BoolTensor[N, height, width]``.
    """
    height, width = image_size
    whole = (logits.shape[1] * stride, logits.shape[2] * stride)
    resized = whole
    if factor is not None:  # rounding may have made a whole number greater
        sides = [math.ceil(side / each - 1e-6) for side, each in zip(whole, factor[1::-1], strict=True)]
        resized = (max(sides[0], height), max(sides[1], width))
    least = math.copysign(math.inf, threshold - 0.5)  # of a logit
    if 0 < threshold < 1:
        least = math.log(threshold / (1 - threshold))
    masks = torch.empty(len(logits), height, width, dtype=torch.bool, device=logits.device)
    pixels = _PIXELS.get(logits.device.type, _DEVICE_PIXELS)
    step = max(1, pixels // max(math.prod(whole), math.prod(resized), 1))
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        large = F.interpolate(logits[None, rows].float(), size=whole, mode="bilinear", align_corners=False)
        if resized != whole:
            large = F.interpolate(large, size=resized, mode="bilinear", align_corners=False)
        masks[rows] = large[0, :, :height, :width] > least
    return masks
