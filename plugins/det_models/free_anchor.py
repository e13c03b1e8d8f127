"""FreeAnchor: Learning to Match Anchors for Visual Object Detection (Zhang et al., NeurIPS 2019, 1909.02466).

RetinaNet's network, and no rule for which anchor answers for which object. Detection is a likelihood that is
made as great as possible (section 3.2, eq. 3-5), and which anchor explains an object comes out of that. Two
losses take the place of RetinaNet's:

- every object has a bag, the ``pre_anchor_topk`` anchors that overlap it most. Some anchor of the bag must
  get class and box right, so the mean of ``P = P_class * P_box`` over the bag is to be likely, weighted so
  that it becomes a maximum as training goes on (mean-max, eq. 6), with ``P_box = exp(-loss_bbox)``::

      positive_bag_loss = alpha * mean over objects of -log(sum_j w_j P_j),  w_j ~ 1 / (1 - P_j)

- an anchor whose predicted box overlaps no object must be background. How probable that is follows from the
  IoU of the box with the objects of a class, stretched from ``bbox_thr`` to the object's best box (eq. 5)::

      negative_bag_loss = (1 - alpha) * sum over anchors and classes of p^gamma * -log(1 - p),
                          p = P_class * (1 - P(anchor is good for an object of the class))
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, retina_anchors
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.host import host_tensor, reduce_mean
from det_models.losses.cross_entropy import entropy_of_probs
from det_models.losses.focal import FocalLoss
from det_models.losses.smooth_l1 import SmoothL1Loss
from det_models.metainfo import MetaInfo
from det_models.postprocess import flatten_levels
from det_models.towers import conv_tower
from det_models.truth import check_labels
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": 0.01},
}


class FreeAnchorRetinaHead(DenseHead):
    """Classes and boxes of the anchors of every level; see this module's docstring.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        pre_anchor_topk: Anchors in each object's bag.
        bbox_thr: IoU up to which a predicted box is no good for an object.
        gamma: How strongly easy backgrounds fade.
        alpha: Share of the positive loss; the negative one has ``1 - alpha``.
        anchor_generator: Makes the anchors; by default those of RetinaNet.
        init_cfg: How weights are initialised.
        feat_channels: Channels of the convolutions before the last one.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`, a tenth and a fifth
            as its units.
        reg_decoded_bbox: Has no effect: offsets are compared.
        loss_cls: Not reckoned with; whether it is over sigmoids, as it must be, tells the number of scores.
        loss_bbox: Box loss, by default three quarters of smooth L1.
        train_cfg: Has no effect: there is nothing to choose.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: An empty bag, or a class loss that is not over sigmoids.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        pre_anchor_topk: int = 50,
        bbox_thr: float = 0.6,
        gamma: float = 2.0,
        alpha: float = 0.5,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        init_cfg: DeferredInit = _INIT_CFG,
        feat_channels: int = 256,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = False,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or retina_anchors(),
            bbox_coder=bbox_coder or DeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2)),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or SmoothL1Loss(beta=0.11, loss_weight=0.75),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if pre_anchor_topk < 1:
            raise ValueError(f"pre_anchor_topk is a number of anchors, at least 1, got {pre_anchor_topk}")
        if not self.use_sigmoid_cls:
            raise ValueError(
                "FreeAnchorRetinaHead scores classes by sigmoids; loss_cls must have use_sigmoid"
            )
        self.pre_anchor_topk = pre_anchor_topk
        self.bbox_thr = bbox_thr
        self.gamma = gamma
        self.alpha = alpha
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        tower = (self.in_channels, self.feat_channels, self.stacked_convs, self.conv_cfg, self.norm_cfg)
        self.cls_convs, self.reg_convs = conv_tower(*tower), conv_tower(*tower)
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        num_offsets = self.num_base_priors * self.bbox_coder.encode_size
        self.retina_cls = nn.Conv2d(channels, self.num_base_priors * self.cls_out_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(channels, num_offsets, 3, padding=1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``[B, A * K, H, W]`` and encoded boxes ``[B, A * 4, H, W]``."""
        return self.retina_cls(self.cls_convs(x)), self.retina_reg(self.reg_convs(x))

    def loss_by_feat(  # type: ignore[override]  # sums over levels
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: Not needed.
            batch_gt_instances_ignore: Not looked at: boxes found in these regions are wrong.

        Returns:
            ``positive_bag_loss`` and ``negative_bag_loss``, a scalar each.
        """
        check_labels([truth.labels for truth in batch_gt_instances], self.num_classes)
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        priors = torch.cat(self.prior_generator.grid_priors(sizes, device=cls_scores[0].device))
        logits = flatten_levels(cls_scores, self.cls_out_channels).float()
        encoded = flatten_levels(bbox_preds, self.bbox_coder.encode_size).float()
        num_objects = sum(len(truth.bboxes) for truth in batch_gt_instances)
        count = reduce_mean(host_tensor([num_objects], logits)[0])
        positive = encoded.sum() * 0
        if num_objects:
            positive = self._positive_losses(logits, encoded, priors, batch_gt_instances).sum()
        # Objects times anchors is much for one image already, so these go one by one.
        negatives = [
            self._negative_losses(scores, boxes, priors, truth).sum()
            for scores, boxes, truth in zip(logits, encoded, batch_gt_instances, strict=True)
        ]
        return {
            "positive_bag_loss": positive / count.clamp(min=1),
            "negative_bag_loss": torch.stack(negatives).sum() / (count * self.pre_anchor_topk).clamp(min=1),
        }

    def _positive_losses(
        self, logits: Tensor, encoded: Tensor, priors: Tensor, truths: Sequence[InstanceData]
    ) -> Tensor:
        """Loss of the bag of each of the M objects of the batch, ``Tensor[M]``.

        Args:
            logits: ``Tensor[B, A, K]``.
            encoded: ``Tensor[B, A, 4]``.
            priors: ``Tensor[A, 4]``, xyxy.
            truths: ``bboxes`` and ``labels`` of the B images.
        """
        bag_size = min(self.pre_anchor_topk, len(priors))
        bags = [
            bbox_overlaps(truth.bboxes.float(), priors).topk(bag_size, dim=1, sorted=False).indices
            for truth in truths
        ]
        rows = torch.cat([bag + number * len(priors) for number, bag in enumerate(bags)])
        labels = torch.cat([truth.labels for truth in truths]).long()
        boxes = torch.cat([truth.bboxes for truth in truths]).float()
        own = logits.flatten(0, 1)[rows, labels[:, None]].sigmoid()
        anchors = priors[torch.cat(bags)]
        wanted = self.bbox_coder.encode(anchors, boxes[:, None].expand_as(anchors))
        box_loss = self.loss_bbox(encoded.flatten(0, 1)[rows], wanted, reduction_override="none").sum(-1)
        return self.positive_bag_loss(own, torch.exp(-box_loss))

    def positive_bag_loss(self, matched_cls_prob: Tensor, matched_box_prob: Tensor) -> Tensor:
        """Loss ``Tensor[M]`` of M bags of J anchors, from how well each does: ``Tensor[M, J]`` each."""
        prob = matched_cls_prob * matched_box_prob
        weight = 1 / (1 - prob).clamp(min=1e-12)
        bag = (weight / weight.sum(1, keepdim=True) * prob).sum(1).clamp(max=1)
        return self.alpha * entropy_of_probs(bag, torch.ones_like(bag))

    def _negative_losses(
        self, logits: Tensor, encoded: Tensor, priors: Tensor, truth: InstanceData
    ) -> Tensor:
        """Loss of each anchor and class of one image, ``Tensor[A, K]``, from ``[A, K]`` and ``[A, 4]``."""
        with torch.no_grad():
            good = self.box_probs(self.bbox_coder.decode(priors, encoded), truth)
        score = logits.sigmoid()
        prob = score * (1 - good)
        missed = (-logits).sigmoid() + score * good  # 1 - prob, exact where the score is nearly 1
        entropy = -missed.clamp(min=torch.finfo(missed.dtype).tiny).log()
        return (1 - self.alpha) * prob.pow(self.gamma) * entropy

    def box_probs(self, boxes: Tensor, truth: InstanceData) -> Tensor:
        """How probably each of A boxes is good for an object of each class of an image.

        Args:
            boxes: ``Tensor[A, 4]``, xyxy, as predicted.
            truth: ``bboxes`` (``Tensor[N, 4]``, xyxy) and ``labels``.

        Returns:
            ``Tensor[A, K]``, 0 up to an IoU of ``bbox_thr``, 1 for the best box of an object.
        """
        none = boxes.new_zeros(self.cls_out_channels, len(boxes))
        if not len(truth.bboxes):
            return none.T
        overlaps = bbox_overlaps(truth.bboxes.float(), boxes)
        room = (overlaps.amax(1, keepdim=True) - self.bbox_thr).clamp(min=1e-12)
        probs = ((overlaps - self.bbox_thr) / room).clamp(0, 1)
        return none.scatter_reduce(0, truth.labels.long()[:, None].expand_as(probs), probs, "amax").T
