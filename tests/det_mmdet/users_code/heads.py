"""Heads over AnchorHead, RetinaHead and BaseDenseHead, in MMDetection 3.x's shape."""
from typing import List, Optional, Tuple

import torch
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import AnchorHead, BaseDenseHead, RetinaHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.utils import (ConfigType, InstanceList, OptConfigType,  # types of the signatures
                         OptInstanceList, OptMultiConfig)
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class MyAnchorHead(AnchorHead):

    def __init__(self,
                 num_classes,
                 in_channels,
                 stacked_convs=1,
                 conv_cfg=None,
                 norm_cfg=None,
                 anchor_generator=dict(
                     type='AnchorGenerator',
                     octave_base_scale=4,
                     scales_per_octave=1,
                     ratios=[0.5, 1.0, 2.0],
                     strides=[8, 16, 32]),
                 init_cfg=dict(
                     type='Normal',
                     layer='Conv2d',
                     std=0.01,
                     override=dict(type='Normal', name='my_cls', std=0.01, bias_prob=0.01)),
                 **kwargs):
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        super(MyAnchorHead, self).__init__(
            num_classes,
            in_channels,
            anchor_generator=anchor_generator,
            init_cfg=init_cfg,
            **kwargs)

    def _init_layers(self):
        self.relu = nn.ReLU(inplace=True)
        self.shared_convs = nn.ModuleList()
        for i in range(self.stacked_convs):
            chn = self.in_channels if i == 0 else self.feat_channels
            self.shared_convs.append(
                ConvModule(chn, self.feat_channels, 3, padding=1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg))
        self.my_cls = nn.Conv2d(self.feat_channels, self.num_base_priors * self.cls_out_channels, 3, padding=1)
        reg_dim = self.bbox_coder.encode_size
        self.my_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * reg_dim, 3, padding=1)

    def forward_single(self, x):
        for conv in self.shared_convs:
            x = conv(x)
        return self.my_cls(x), self.my_reg(x)


@MODELS.register_module()
class MyWeightedRetinaHead(RetinaHead):
    """Weights the levels of the box loss by a factor of its own."""

    def __init__(self, *args, level_weight: float = 2.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.level_weight = level_weight

    def loss_by_feat_single(self, cls_score: Tensor, bbox_pred: Tensor,
                            anchors: Tensor, labels: Tensor,
                            label_weights: Tensor, bbox_targets: Tensor,
                            bbox_weights: Tensor, avg_factor: int) -> tuple:
        labels = labels.reshape(-1)
        label_weights = label_weights.reshape(-1)
        cls_score = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        loss_cls = self.loss_cls(cls_score, labels, label_weights, avg_factor=avg_factor)
        target_dim = bbox_targets.size(-1)
        bbox_targets = bbox_targets.reshape(-1, target_dim)
        bbox_weights = bbox_weights.reshape(-1, target_dim)
        bbox_pred = bbox_pred.permute(0, 2, 3, 1).reshape(-1, self.bbox_coder.encode_size)
        loss_bbox = self.loss_bbox(bbox_pred, bbox_targets, bbox_weights, avg_factor=avg_factor)
        return loss_cls, self.level_weight * loss_bbox

    def predict_by_feat(self,
                        cls_scores: List[Tensor],
                        bbox_preds: List[Tensor],
                        score_factors: Optional[List[Tensor]] = None,
                        batch_img_metas: Optional[List[dict]] = None,
                        cfg: Optional[ConfigType] = None,
                        rescale: bool = False,
                        with_nms: bool = True) -> InstanceList:
        results = super().predict_by_feat(
            cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, rescale, with_nms)
        cfg = self.test_cfg if cfg is None else cfg
        results = [result[:cfg.get('max_per_img', 100)] for result in results]
        for result in results:
            assert len(result) <= cfg['max_per_img']
            result.from_my_head = result.scores > 0
        return results


@MODELS.register_module()
class MyCenterHead(BaseDenseHead):
    """A head without anchors that does everything itself."""

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 stride: int = 8,
                 loss_cls: ConfigType = dict(type='FocalLoss', use_sigmoid=True),
                 bbox_coder: OptConfigType = None,
                 train_cfg: OptConfigType = None,
                 test_cfg: OptConfigType = None,
                 init_cfg: OptMultiConfig = dict(type='Normal', layer='Conv2d', std=0.01)) -> None:
        super().__init__(init_cfg=init_cfg)
        self.num_classes = num_classes
        self.stride = stride
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.loss_cls = MODELS.build(loss_cls)
        self.assigner = TASK_UTILS.build(train_cfg['assigner']) if train_cfg else None
        self.conv = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x: Tuple[Tensor]) -> Tuple[List[Tensor]]:
        return multi_apply(self.forward_single, x)

    def forward_single(self, x: Tensor) -> Tuple[Tensor]:
        return (self.conv(x),)

    def loss_by_feat(self,
                     cls_scores: List[Tensor],
                     batch_gt_instances: InstanceList,
                     batch_img_metas: List[dict],
                     batch_gt_instances_ignore: OptInstanceList = None) -> dict:
        score = cls_scores[0]
        target = score.new_full((score.shape[0], *score.shape[2:]), self.num_classes).long()
        for i, gt in enumerate(batch_gt_instances):
            centers = ((gt.bboxes[:, :2] + gt.bboxes[:, 2:]) / 2 / self.stride).long()
            target[i, centers[:, 1].clamp(0, target.shape[1] - 1),
                   centers[:, 0].clamp(0, target.shape[2] - 1)] = gt.labels
        logits = score.permute(0, 2, 3, 1).reshape(-1, self.num_classes)
        num_pos = max((target < self.num_classes).sum().item(), 1)
        return dict(loss_center=self.loss_cls(logits, target.reshape(-1), avg_factor=num_pos))

    def predict_by_feat(self,
                        cls_scores: List[Tensor],
                        batch_img_metas: Optional[List[dict]] = None,
                        cfg: OptConfigType = None,
                        rescale: bool = False,
                        **kwargs) -> InstanceList:
        cfg = self.test_cfg if cfg is None else cfg
        results = []
        for score, meta in zip(cls_scores[0].sigmoid(), batch_img_metas):
            top, index = score.flatten().topk(cfg.get('max_per_img', 5))
            height, width = score.shape[1:]
            x, y = index % width, index // width % height
            centers = self.stride * (torch.stack([x, y], dim=-1) + 0.5)
            bboxes = torch.cat([centers - self.stride, centers + self.stride], dim=-1)
            if rescale:
                bboxes = bboxes / bboxes.new_tensor(meta['scale_factor']).repeat(2)
            results.append(
                InstanceData(bboxes=bboxes, scores=top, labels=index // (width * height)))
        return results
