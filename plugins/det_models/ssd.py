"""SSD: Single Shot MultiBox Detector (Liu et al., ECCV 2016, arXiv 1512.02325).

VGG without its classifier gives two feature maps, of strides 8 and 16. A few more convolutions, each pair
halving the map, give coarser ones, until one cell is left (section 2.1, figure 2). From every map two
convolutions of its own predict, for each anchor of a cell, one score a class and one for background, and four
box offsets. Levels share nothing, and may have different numbers of anchors a cell
(:class:`~det_models.anchors_ssd.SSDAnchorGenerator`).

The finest map comes from the middle of VGG, where values are larger than behind the added layers. It is
divided by its length at every cell, and multiplied by a learnt factor for each channel that starts at 20
(section 3.1, after ParseNet, Liu et al. 2015).

Training (section 2.2): an anchor answers for the object that it overlaps by 0.5 at least, and the one that
overlaps an object most answers for it, too. All others are background, thousands for each positive; of them
only those with the greatest loss count, three for each positive of the image (hard negative mining). Softmax
cross entropy and smooth L1 (eq. 1-3) are divided by the number of positives in the batch.

SSDLite (Sandler et al. 2018, section 6.2) is the same with separable convolutions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.anchors_ssd import SSDAnchorGenerator
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg, as_settings
from det_models.dense_targets import DenseTargets, regressed_rows
from det_models.losses.smooth_l1 import SmoothL1Loss
from det_models.metainfo import MetaInfo
from det_models.postprocess import flatten_levels
from det_models.towers import each_level
from det_models.truth import GroundTruth
from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, DepthwiseSeparableConvModule, ModuleList, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_RELU = {"type": "ReLU"}
_XAVIER: dict[str, Any] = {"type": "Xavier", "distribution": "uniform", "layer": "Conv2d"}
_NECK_INIT = [_XAVIER, {"type": "Constant", "val": 1, "layer": "BatchNorm2d"}]
_HEAD_INIT = {**_XAVIER, "bias": 0}


class L2Norm(nn.Module):
    """Each cell's vector of channels at length 1, times a learnt factor for each channel.

    Args:
        num_channels: Channels of the map.
        scale: What the factors start from.
        eps: Keeps an empty cell from being divided by 0.

    Attributes:
        weight: The factors, ``Tensor[num_channels]``.
    """

    def __init__(self, num_channels: int, scale: float = 20.0, eps: float = 1e-10) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_channels,), float(scale)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, num_channels, H, W]`` to the same shape and dtype; reckoned in float32."""
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=1, keepdim=True) + self.eps
        return (self.weight.float()[:, None, None] * wide / length).to(x.dtype)


class SSDNeck(BaseModule):
    """The backbone's maps and coarser ones behind them; see this module's docstring.

    Args:
        in_channels: Channels of the backbone's maps.
        out_channels: Channels of all maps; begins with those of the backbone.
        level_strides: Stride of the 3x3 convolution of each added level.
        level_paddings: Its padding.
        l2_norm_scale: What :class:`L2Norm` of the first map starts from; None leaves it out.
        last_kernel_size: Kernel of the last added level in place of 3.
        use_depthwise: Whether the 3x3 convolutions are separable.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        act_cfg: Kind of activation, None for none.
        init_cfg: How weights are initialised.

    Raises:
        ConfigError: Numbers of levels or channels do not fit.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        level_strides: Sequence[int],
        level_paddings: Sequence[int],
        l2_norm_scale: float | None = 20.0,
        last_kernel_size: int = 3,
        use_depthwise: bool = False,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        act_cfg: ActCfg = _RELU,
        init_cfg: DeferredInit = _NECK_INIT,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels, self.out_channels = tuple(in_channels), tuple(out_channels)
        given = len(self.in_channels)
        added = len(self.out_channels) - given
        if self.out_channels[:given] != self.in_channels:
            raise ConfigError(
                f"SSDNeck: out_channels begins with the backbone's {list(in_channels)}, got "
                f"{list(out_channels)}"
            )
        if added < 1 or not len(level_strides) == len(level_paddings) == added:
            raise ConfigError(
                f"SSDNeck: {added} added levels need as many level_strides and level_paddings, at least 1; "
                f"got {list(level_strides)} and {list(level_paddings)}"
            )
        self.l2_norm = L2Norm(self.in_channels[0], l2_norm_scale) if l2_norm_scale else None
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        conv = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        self.extra_layers = ModuleList()
        self._least_sides: list[int] = []  # of the maps that the levels are made of
        for level, (stride, padding) in enumerate(zip(level_strides, level_paddings, strict=True)):
            before, after = self.out_channels[given + level - 1 : given + level + 1]
            kernel = last_kernel_size if level == added - 1 else 3
            self._least_sides.append(max(1, kernel - 2 * padding))
            self.extra_layers.append(
                Sequential(
                    ConvModule(before, after // 2, 1, **layers),
                    conv(after // 2, after, kernel, stride=stride, padding=padding, **layers),
                )
            )

    def connect(self, in_channels: Sequence[int], in_strides: Sequence[int] | None = None) -> None:
        """Hear from the detector what the backbone gives.

        Raises:
            ConfigError: This neck was built for other channels.
        """
        if self.in_channels != tuple(in_channels):
            raise ConfigError(
                f"SSDNeck: in_channels is {list(self.in_channels)}, but the backbone gives "
                f"{list(in_channels)}"
            )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The maps of all levels.

        Args:
            inputs: ``Tensor[B, in_channels[i], H_i, W_i]``, finest first.

        Returns:
            ``Tensor[B, out_channels[i], H_i, W_i]`` each, finest first.

        Raises:
            ValueError: The images are too small for so many levels.
        """
        outs = list(inputs)
        if self.l2_norm is not None:
            outs[0] = self.l2_norm(outs[0])
        for layer, least in zip(self.extra_layers, self._least_sides, strict=True):
            height, width = outs[-1].shape[2:]
            if min(height, width) < least:
                raise ValueError(
                    f"the images are too small for SSDNeck's {len(self.out_channels)} levels: level "
                    f"{len(outs)} is made of maps of at least {least}x{least} cells, and they give "
                    f"{height}x{width}"
                )
            outs.append(layer(outs[-1]))
        return tuple(outs)


@dataclass(kw_only=True, slots=True)
class SSDTrainCfg(DenseTrainCfg):
    """How an SSD head is trained.

    Attributes:
        smoothl1_beta: Where the square of the box loss turns into a straight line.
        neg_pos_ratio: Backgrounds that count for each positive of the image.
    """

    smoothl1_beta: float = 1.0
    neg_pos_ratio: float = 3


class SSDHead(DenseHead):
    """Classes and boxes of the anchors of every level, by layers of each level's own.

    Args:
        num_classes: K, without background.
        in_channels: Channels of each level's map.
        stacked_convs: Convolutions before the last one.
        feat_channels: Their channels.
        use_depthwise: Whether those convolutions are separable, and the last one is a 3x3 convolution within
            each channel and a 1x1 convolution (SSDLite).
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        act_cfg: Kind of activation, None for none.
        anchor_generator: Makes the anchors; by default those of SSD300.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`.
        reg_decoded_bbox: The box loss compares boxes, not offsets.
        train_cfg: How to match anchors with ground truth, and which of them count.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.

    Attributes:
        cls_out_channels: K + 1: the last score is that of background.
        num_base_priors: Anchors at each cell, of each level.

    Raises:
        ValueError: There is no class, or another number of channels than of levels.
    """

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: Sequence[int] = (512, 1024, 512, 256, 256, 256),
        stacked_convs: int = 0,
        feat_channels: int = 256,
        use_depthwise: bool = False,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        act_cfg: ActCfg = None,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = False,
        train_cfg: SSDTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        init_cfg: DeferredInit = _HEAD_INIT,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.use_sigmoid_cls, self.cls_out_channels = False, num_classes + 1
        self.in_channels: Any = tuple(in_channels)
        self.prior_generator = TASK_UTILS.build(anchor_generator or _ssd300_anchors())
        self.num_base_priors: Any = self.prior_generator.num_base_priors
        if len(self.in_channels) != len(self.num_base_priors):
            raise ValueError(
                f"anchors of {len(self.num_base_priors)} levels need as many in_channels, got "
                f"{list(in_channels)}"
            )
        self.bbox_coder = TASK_UTILS.build(bbox_coder or DeltaXYWHBBoxCoder())
        self.reg_decoded_bbox = reg_decoded_bbox
        self.train_cfg: SSDTrainCfg | None = as_settings(SSDTrainCfg, train_cfg)
        self.test_cfg = as_settings(DenseTestCfg, test_cfg)
        self.stacked_convs, self.feat_channels = stacked_convs, feat_channels
        self.use_depthwise = use_depthwise
        self.conv_cfg, self.norm_cfg, self.act_cfg = conv_cfg, norm_cfg, act_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        levels = list(zip(self.in_channels, self.num_base_priors, strict=True))
        self.cls_convs = ModuleList(self._level(each, k * self.cls_out_channels) for each, k in levels)
        self.reg_convs = ModuleList(self._level(each, k * self.bbox_coder.encode_size) for each, k in levels)

    def _level(self, channels: int, num_outputs: int) -> nn.Sequential:
        """From one level's map to ``num_outputs`` numbers a cell."""
        options: dict[str, Any] = {
            "conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg,
        }  # fmt: skip
        conv = DepthwiseSeparableConvModule if self.use_depthwise else ConvModule
        layers: list[nn.Module] = []
        for _ in range(self.stacked_convs):
            layers.append(conv(channels, self.feat_channels, 3, padding=1, **options))
            channels = self.feat_channels
        if self.use_depthwise:
            layers.append(ConvModule(channels, channels, 3, padding=1, groups=channels, **options))
        kernel = 1 if self.use_depthwise else 3
        layers.append(nn.Conv2d(channels, num_outputs, kernel, padding=kernel // 2))
        return nn.Sequential(*layers)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits ``[B, A_i * (K + 1), H, W]`` and encoded boxes ``[B, A_i * 4, H, W]``, a list of each.

        Args:
            x: ``Tensor[B, in_channels[i], H, W]`` a level.
        """
        return each_level(self.forward_single, x, self.cls_convs, self.reg_convs)

    def forward_single(  # type: ignore[override]  # levels have layers of their own
        self, x: Tensor, cls_conv: nn.Module, reg_conv: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level's map by its layers."""
        return cls_conv(x), reg_conv(x)

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every image.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar an image each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        mlvl_priors, targets = self.match_levels(cls_scores, truth, batch_img_metas)
        loss_cls = self._mined_cross_entropy(flatten_levels(cls_scores, self.cls_out_channels), targets)
        encoded = flatten_levels(bbox_preds, self.bbox_coder.encode_size)
        loss_bbox = self._box_losses(encoded, torch.cat(mlvl_priors), targets, truth)
        return {
            "loss_cls": [*(loss_cls / targets.avg_factor)],
            "loss_bbox": [*(loss_bbox / targets.avg_factor)],
        }

    def _mined_cross_entropy(self, logits: Tensor, targets: DenseTargets) -> Tensor:
        """Cross entropy of an image's positives and of its hardest backgrounds, ``Tensor[B]``.

        How many backgrounds that is, the device alone knows: all are sorted, and the first of them taken.

        Args:
            logits: ``Tensor[B, A, K + 1]``.
            targets: What the A anchors are to predict.
        """
        rows = F.cross_entropy(logits.flatten(0, 1).float(), targets.labels.flatten(), reduction="none")
        losses = rows.view_as(targets.labels) * targets.label_weights
        positive = targets.labels != self.num_classes
        wanted = positive.sum(1, keepdim=True) * self._train_cfg().neg_pos_ratio
        hardest = losses.masked_fill(positive, 0).sort(dim=1, descending=True).values
        counts = torch.arange(hardest.shape[1], device=hardest.device) < wanted
        return losses.where(positive, 0).sum(1) + hardest.where(counts, 0).sum(1)

    def _box_losses(
        self, encoded: Tensor, priors: Tensor, targets: DenseTargets, truth: GroundTruth
    ) -> Tensor:
        """Smooth L1 of the boxes of an image's positives, ``Tensor[B]``.

        Args:
            encoded: ``Tensor[B, A, 4]``.
            priors: ``Tensor[A, 4]``, xyxy.
            targets: What the A anchors are to predict.
            truth: Ground truth of the B images.
        """
        rows = regressed_rows(targets.matches, priors, truth)
        pred, wanted = encoded.flatten(0, 1)[rows.index].float(), rows.gt_boxes
        if self.reg_decoded_bbox:
            pred = self.bbox_coder.decode(rows.priors, pred)
        else:
            wanted = self.bbox_coder.encode(rows.priors, wanted)
        loss = SmoothL1Loss(self._train_cfg().smoothl1_beta, reduction="none")(pred, wanted, rows.weights)
        return loss.new_zeros(len(encoded)).index_add(0, rows.index // len(priors), loss.sum(1))

    def _train_cfg(self) -> SSDTrainCfg:
        super()._train_cfg()
        assert self.train_cfg is not None
        return self.train_cfg


def _ssd300_anchors() -> SSDAnchorGenerator:
    """Those for COCO, section 3.4."""
    return SSDAnchorGenerator(
        strides=[8, 16, 32, 64, 100, 300],
        ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scale_major=False,
    )
