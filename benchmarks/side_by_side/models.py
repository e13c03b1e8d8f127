"""The two sides: a detector of ours from its config, and torchvision's, as equal as its arguments allow."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection

from detcore.config import Config
from detcore.registry import MODELS
from side_by_side.batch import AsTheyAre, Size

CONFIGS = Path(__file__).parents[2] / "configs"
RETINANET = CONFIGS / "retinanet/retinanet_r50_fpn_1x_coco.py"
FASTER_RCNN = CONFIGS / "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
MASK_RCNN = CONFIGS / "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"


def our_model(device: str, config: Path) -> nn.Module:
    cfg = Config.fromfile(config).model
    cfg.backbone.init_cfg = None
    cfg.backbone.pop("pretrained", None)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.to(device)


def _as_ours(model: nn.Module, device: str, original: Size | None = None) -> nn.Module:
    # Without pretrained weights it trains all its layers; ours has stem and first stage frozen, as its config
    # says.
    for name, parameter in model.backbone.body.named_parameters():
        if not name.startswith(("layer2", "layer3", "layer4")):
            parameter.requires_grad_(False)
    model.transform = AsTheyAre(original)
    model.train()
    for module in model.backbone.body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # ours has norm_eval
    return model.to(device)


def torchvision_retinanet(device: str, num_classes: int) -> nn.Module:
    model = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes)
    return _as_ours(model, device)


def torchvision_rcnn(
    device: str, num_classes: int, *, masks: bool = False, original: Size | None = None
) -> nn.Module:
    """Faster or Mask R-CNN; its numbers of anchors, proposals and regions are those of our configs.

    What is left of its own: two samples a bin in RoIAlign, where our configs take as many as a region's size
    asks for.
    """
    make = detection.maskrcnn_resnet50_fpn if masks else detection.fasterrcnn_resnet50_fpn
    model = make(
        weights=None,
        weights_backbone=None,
        num_classes=num_classes + 1,
        rpn_pre_nms_top_n_train=2000,
        rpn_post_nms_top_n_train=1000,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=1000,
        rpn_batch_size_per_image=256,
        box_batch_size_per_image=512,
    )
    return _as_ours(model, device, original)


class BareTwoStage(nn.Module):
    """Backbone, neck and RPN head of one of ours on images, its box head on given features of regions.

    No anchors, no proposals, no pooling, no targets.

    Args:
        model: A two-stage detector of ours; its layers are shared.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, regions: Tensor) -> list[Tensor]:
        """All outputs for images ``Tensor[B, 3, H, W]`` and regions ``Tensor[N, C, h, w]``."""
        levels = self.model.rpn_head(self.model.extract_feat(inputs))
        return [output for outputs in (*levels, self.model.roi_head.bbox_head(regions)) for output in outputs]


def pooled(model: Any, number: int, device: str) -> Tensor:
    """Random features ``Tensor[number, C, h, w]`` as the box head gets them; they want a gradient, too."""
    head = model.roi_head.bbox_head
    regions = torch.rand(number, head.in_channels, *head.roi_feat_size, device=device)
    return regions.requires_grad_()
