"""Soft Teacher (Xu et al., ICCV 2021, arXiv 2106.09018), for detectors of two stages.

The student's view is learnt from the teacher's boxes in three ways, each with a rule of its own for which
boxes are good enough (sections 3.2 and 3.3):

- its first stage from boxes of high score;
- classes in its second stage from boxes of high score. What of the sampled regions is background there may be
  an object that the teacher missed, so each counts as much as the teacher, looking at the same region in its
  own view, believes in background: ``w_j = r_j / sum_k r_k`` (equations 4 and 5);
- boxes in its second stage from boxes that stay where they are: the teacher refines each ``jitter_times``
  times from places nearby, and the mean deviation of the four coordinates, in parts of half the width plus
  height, has to be small (equations 6 to 8).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from det_semi.pseudo_labels import (
    Samples,
    above,
    as_one_class,
    between_views,
    chosen,
    moved,
    to_original,
    weighted,
    with_instances,
)
from det_semi.semi_base import Losses, SemiBaseDetector
from det_semi.settings import SemiTestCfg, SoftTeacherTrainCfg, as_settings
from detcore.errors import ConfigError
from detcore.nn.base_module import DeferredInit
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.bbox import bbox2roi

_NEEDED = ("rpn_head", "roi_head")


class SoftTeacher(SemiBaseDetector):
    """See this module's docstring.

    Args:
        detector: Of two stages, with one box head, such as FasterRCNN.
        semi_train_cfg: Weights and thresholds.
        semi_test_cfg: Which of the two networks answers.
        data_preprocessor: Prepares batches with branches.
        init_cfg: Kept for configs.

    Raises:
        ConfigError: The detector has not the two stages that this needs.
    """

    def __init__(
        self,
        detector: nn.Module,
        semi_train_cfg: SoftTeacherTrainCfg | None = None,
        semi_test_cfg: SemiTestCfg | None = None,
        data_preprocessor: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(detector, semi_train_cfg, semi_test_cfg, data_preprocessor, init_cfg)
        lacking = [name for name in _NEEDED if not hasattr(self.student, name)]
        head = getattr(getattr(self.student, "roi_head", None), "bbox_head", None)
        if lacking or not hasattr(head, "get_targets"):
            raise ConfigError(
                f"SoftTeacher needs a detector of two stages with one box head, such as FasterRCNN, got "
                f"{type(self.student).__name__}; SemiBaseDetector takes any detector"
            )

    def _settings(self, given: Any) -> Any:
        return as_settings(SoftTeacherTrainCfg, given)

    # -- the teacher -----------------------------------------------------------------------------

    @torch.no_grad()
    def get_pseudo_instances(
        self, batch_inputs: Tensor, batch_data_samples: Samples
    ) -> tuple[list[DetDataSample], dict[str, Any]]:
        """What the teacher finds in its view, with ``reg_uncs``, how uncertain each box is.

        Returns:
            Samples in pixels of the original images, and for the loss ``feat``, the teacher's feature maps,
            and ``samples``, its view of each image.
        """
        self.teacher.eval()
        feat = self.teacher.extract_feat(batch_inputs)
        proposals = self.teacher.rpn_head.predict(feat, batch_data_samples, rescale=False)
        found = self.teacher.roi_head.predict(feat, proposals, batch_data_samples, rescale=False)
        pairs = zip(batch_data_samples, found, strict=True)
        seen = [with_instances(sample, _boxes_only(instances)) for sample, instances in pairs]
        seen = chosen(seen, above(self.semi_train_cfg.pseudo_label_initial_score_thr))
        for sample, uncertainty in zip(seen, self.compute_uncertainty_with_aug(feat, seen), strict=True):
            sample.gt_instances.reg_uncs = uncertainty
        info = {"feat": feat, "samples": seen}
        return [to_original(sample) for sample in seen], info

    @torch.no_grad()
    def compute_uncertainty_with_aug(self, x: Any, batch_data_samples: Samples) -> list[Tensor]:
        """How much the teacher's boxes depend on where it looks.

        Args:
            x: Its feature maps.
            batch_data_samples: Its boxes, ``bboxes`` and ``labels``, in its view.

        Returns:
            ``Tensor[N]`` an image: the deviation of a box's refined coordinates, in parts of its mean width
            and height, averaged over the four.
        """
        times, scale = self.semi_train_cfg.jitter_times, self.semi_train_cfg.jitter_scale
        instances = [sample.gt_instances for sample in batch_data_samples]
        moves = [jittered(each.bboxes, times, scale) for each in instances]
        shaken = [InstanceData(bboxes=boxes.flatten(0, 1)) for boxes in moves]
        metas = [sample.metainfo for sample in batch_data_samples]
        refined = self.teacher.roi_head.predict_bbox(x, metas, shaken, rcnn_test_cfg=None, rescale=False)
        return [
            relative_deviation(of_label(result.bboxes.unflatten(0, (times, len(each))), each.labels))
            for result, each in zip(refined, instances, strict=True)
        ]

    # -- the student -----------------------------------------------------------------------------

    def loss_by_pseudo_instances(
        self, batch_inputs: Tensor, batch_data_samples: Samples, batch_info: dict[str, Any] | None = None
    ) -> Losses:
        """The student's losses on unlabelled images, see this module's docstring.

        Args:
            batch_inputs: The student's view.
            batch_data_samples: The teacher's boxes in that view, with ``scores`` and ``reg_uncs``.
            batch_info: What :meth:`get_pseudo_instances` gave besides them.
        """
        assert batch_info is not None
        x = self.student.extract_feat(batch_inputs)
        losses, proposals = self.rpn_loss_by_pseudo_instances(x, batch_data_samples)
        losses.update(self.rcnn_cls_loss_by_pseudo_instances(x, proposals, batch_data_samples, batch_info))
        losses.update(self.rcnn_reg_loss_by_pseudo_instances(x, proposals, batch_data_samples))
        return weighted(losses, self.semi_train_cfg.unsup_weight, "unsup_")

    def rpn_loss_by_pseudo_instances(
        self, x: Any, batch_data_samples: Samples
    ) -> tuple[Losses, list[InstanceData]]:
        """Losses of the first stage, and its proposals."""
        certain = chosen(batch_data_samples, above(self.semi_train_cfg.rpn_pseudo_thr))
        losses, proposals = self.student.rpn_head.loss_and_predict(
            x, as_one_class(certain), proposal_cfg=getattr(self.student, "proposal_cfg", None)
        )
        return {name if "rpn" in name else f"rpn_{name}": value for name, value in losses.items()}, proposals

    def rcnn_cls_loss_by_pseudo_instances(
        self, x: Any, proposals: list[InstanceData], batch_data_samples: Samples, batch_info: dict[str, Any]
    ) -> Losses:
        """Loss of the second stage's classes."""
        roi_head = self.student.roi_head
        certain = chosen(batch_data_samples, above(self.semi_train_cfg.cls_pseudo_thr))
        instances = [sample.gt_instances for sample in certain]
        sampled = roi_head.sample_regions(x, proposals, instances, None)
        rois = bbox2roi([result.priors for result in sampled])
        cls_score = roi_head._bbox_forward(x, rois)["cls_score"]
        labels, weights, *_ = roi_head.bbox_head.get_targets(sampled, roi_head.train_cfg)
        background = [result.neg_priors for result in sampled]
        belief = self.background_belief(background, batch_data_samples, batch_info).to(weights.dtype)
        # Of each image the positives come first, then the background, which `belief` has in the same order.
        weights = weights.masked_scatter(labels == roi_head.bbox_head.num_classes, belief)
        losses: Losses = roi_head.bbox_head.loss(cls_score, None, rois, labels, weights)
        # The head divides by the number of regions; the weights are to sum to one.
        losses["loss_cls"] = losses["loss_cls"] * len(weights) / weights.sum().clamp(min=1.0)
        return losses

    @torch.no_grad()
    def background_belief(
        self, regions: list[Tensor], batch_data_samples: Samples, batch_info: dict[str, Any]
    ) -> Tensor:
        """The teacher's score of background, ``Tensor[N]``, in regions ``[N_i, 4]`` of the student's view."""
        views = batch_info["samples"]
        seen = [
            moved(InstanceData(bboxes=boxes), between_views(ours, theirs), theirs.metainfo["img_shape"])
            for boxes, ours, theirs in zip(regions, batch_data_samples, views, strict=True)
        ]
        results = self.teacher.roi_head.predict_bbox(
            batch_info["feat"], [view.metainfo for view in views], seen, rcnn_test_cfg=None, rescale=False
        )
        return torch.cat([result.scores[:, -1] for result in results])

    def rcnn_reg_loss_by_pseudo_instances(
        self, x: Any, proposals: list[InstanceData], batch_data_samples: Samples
    ) -> Losses:
        """Loss of the second stage's boxes."""
        roi_head = self.student.roi_head
        steady = chosen(batch_data_samples, self._criteria()["reg"])
        sampled = roi_head.sample_regions(x, proposals, [s.gt_instances for s in steady], None)
        if _norms_over_regions(roi_head):
            return {"loss_bbox": roi_head.bbox_loss(x, sampled)["loss_bbox"]["loss_bbox"]}
        # Background has no box to learn, but counts in the mean.
        counts = [len(result.pos_priors) for result in sampled]
        rois = bbox2roi([result.pos_priors for result in sampled])
        bbox_pred = roi_head._bbox_forward(x, rois)["bbox_pred"]
        targets = roi_head.bbox_head.get_targets(sampled, roi_head.train_cfg, concat=False)
        of_positives = [
            torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]) for parts in targets
        ]
        loss = roi_head.bbox_head.loss(None, bbox_pred, rois, *of_positives)["loss_bbox"]
        return {"loss_bbox": loss * (len(rois) / max(1, sum(len(labels) for labels in targets[0])))}

    def _criteria(self) -> dict[str, Callable[[Any], Tensor]]:
        cfg = self.semi_train_cfg
        return {
            "rpn": above(cfg.rpn_pseudo_thr),
            "cls": above(cfg.cls_pseudo_thr),
            "reg": lambda instances: instances.reg_uncs < cfg.reg_pseudo_thr,
        }


def _norms_over_regions(roi_head: nn.Module) -> bool:
    """Whether what the box head says of a region depends on the other regions."""
    norms = (layer for layer in roi_head.modules() if isinstance(layer, _BatchNorm))
    return any(norm.training or not norm.track_running_stats for norm in norms)


def _boxes_only(instances: InstanceData) -> InstanceData:
    return InstanceData(bboxes=instances.bboxes, labels=instances.labels, scores=instances.scores)


def jittered(boxes: Tensor, times: int, scale: float) -> Tensor:
    """Boxes moved at random, ``Tensor[times, N, 4]``.

    Args:
        boxes: ``Tensor[N, 4]``, xyxy.
        times: How often.
        scale: Standard deviation of a coordinate's move, in widths or heights of the box (of at least 1).
    """
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).repeat(1, 2)
    moved = boxes + torch.randn(times, *boxes.shape, device=boxes.device) * size * scale
    one, other = moved[..., :2], moved[..., 2:]  # corners of a box of less than a pixel may change places
    return torch.cat([torch.minimum(one, other), torch.maximum(one, other)], -1)


def of_label(boxes: Tensor, labels: Tensor) -> Tensor:
    """Those of each one's label, ``Tensor[T, N, 4]``, of boxes of every class, ``[T, N, K * 4]``.

    Where boxes do not depend on the class, ``[T, N, 4]``, they are what is wanted already.
    """
    by_class = boxes.unflatten(-1, (-1, 4))
    if by_class.shape[2] == 1:
        return by_class[:, :, 0]
    return by_class[:, torch.arange(len(labels), device=labels.device), labels]


def relative_deviation(boxes: Tensor) -> Tensor:
    """How far boxes ``Tensor[T, N, 4]`` of N objects scatter, ``Tensor[N]``, in parts of their mean size."""
    if not boxes.numel():
        return boxes.new_zeros(boxes.shape[1])
    mean = boxes.mean(dim=0)
    size = (mean[:, 2:] - mean[:, :2]).clamp(min=1).repeat(1, 2)
    return (boxes.std(dim=0) / size).mean(dim=-1)
