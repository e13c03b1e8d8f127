"""Scope ``models``: name -> where it lives. Sorted; imported when first built."""
from detcore.plugins import hookimpl
from detcore.registry.scopes import ComponentTable

DETCORE_API = 1


@hookimpl
def detcore_components(components: ComponentTable) -> None:
    """Name this package's components."""
    components.add_many("models", {
        "ATSS": "det_models.atss:ATSS",
        "ATSSHead": "det_models.atss:ATSSHead",
        "BBoxHead": "det_models.bbox_heads:BBoxHead",
        "BatchFixedSizePad": "det_models.batch_augments:BatchFixedSizePad",
        "BoundedIoULoss": "det_models.losses.iou:BoundedIoULoss",
        "CIoULoss": "det_models.losses.iou:CIoULoss",
        "CascadeRCNN": "det_models.cascade_rcnn:CascadeRCNN",
        "CascadeRoIHead": "det_models.cascade_rcnn:CascadeRoIHead",
        "ConvFCBBoxHead": "det_models.conv_fc_heads:ConvFCBBoxHead",
        "CrossEntropyLoss": "det_models.losses.cross_entropy:CrossEntropyLoss",
        "DIoULoss": "det_models.losses.iou:DIoULoss",
        "DetDataPreprocessor": "det_models.preprocess:DetDataPreprocessor",
        "DetTTAModel": "det_models.tta:DetTTAModel",
        "DistributionFocalLoss": "det_models.losses.gfocal:DistributionFocalLoss",
        "DoubleConvFCBBoxHead": "det_models.double_heads:DoubleConvFCBBoxHead",
        "DoubleHeadRoIHead": "det_models.double_heads:DoubleHeadRoIHead",
        "EIoULoss": "det_models.losses.iou:EIoULoss",
        "FCNMaskHead": "det_models.mask_rcnn:FCNMaskHead",
        "FCOS": "det_models.fcos:FCOS",
        "FCOSHead": "det_models.fcos:FCOSHead",
        "FPN": "det_models.fpn:FPN",
        "FastRCNN": "det_models.fast_rcnn:FastRCNN",
        "FasterRCNN": "det_models.faster_rcnn:FasterRCNN",
        "FocalLoss": "det_models.losses.focal:FocalLoss",
        "GFL": "det_models.gfl:GFL",
        "GFLHead": "det_models.gfl:GFLHead",
        "GIoULoss": "det_models.losses.iou:GIoULoss",
        "IoULoss": "det_models.losses.iou:IoULoss",
        "L1Loss": "det_models.losses.smooth_l1:L1Loss",
        "MaskRCNN": "det_models.mask_rcnn:MaskRCNN",
        "QualityFocalLoss": "det_models.losses.gfocal:QualityFocalLoss",
        "RPN": "det_models.rpn:RPN",
        "RPNHead": "det_models.rpn:RPNHead",
        "RetinaHead": "det_models.retinanet:RetinaHead",
        "RetinaNet": "det_models.retinanet:RetinaNet",
        "Shared2FCBBoxHead": "det_models.conv_fc_heads:Shared2FCBBoxHead",
        "Shared4Conv1FCBBoxHead": "det_models.conv_fc_heads:Shared4Conv1FCBBoxHead",
        "SingleRoIExtractor": "det_models.roi_extract:SingleRoIExtractor",
        "SingleStageDetector": "det_models.detector:SingleStageDetector",
        "SmoothL1Loss": "det_models.losses.smooth_l1:SmoothL1Loss",
        "StandardRoIHead": "det_models.roi_head:StandardRoIHead",
        "TwoStageDetector": "det_models.two_stage:TwoStageDetector",
        "VFNet": "det_models.vfnet:VFNet",
        "VFNetHead": "det_models.vfnet:VFNetHead",
        "VarifocalLoss": "det_models.losses.varifocal:VarifocalLoss",
    })
    components.add_many("task_utils", {
        "ATSSAssigner": "det_models.atss_assign:ATSSAssigner",
        "AnchorGenerator": "det_models.anchors:AnchorGenerator",
        "BboxOverlaps2D": "det_models.overlaps:BboxOverlaps2D",
        "CombinedSampler": "det_models.samplers_balanced:CombinedSampler",
        "DeltaXYWHBBoxCoder": "det_models.coders:DeltaXYWHBBoxCoder",
        "DistancePointBBoxCoder": "det_models.coders:DistancePointBBoxCoder",
        "InstanceBalancedPosSampler": "det_models.samplers_balanced:InstanceBalancedPosSampler",
        "IoUBalancedNegSampler": "det_models.samplers_balanced:IoUBalancedNegSampler",
        "MaxIoUAssigner": "det_models.assign:MaxIoUAssigner",
        "MlvlPointGenerator": "det_models.points:MlvlPointGenerator",
        "OHEMSampler": "det_models.samplers_balanced:OHEMSampler",
        "PseudoBBoxCoder": "det_models.coders:PseudoBBoxCoder",
        "PseudoSampler": "det_models.samplers:PseudoSampler",
        "RandomSampler": "det_models.samplers:RandomSampler",
    })
