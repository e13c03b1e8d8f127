"""Scope ``models``: name -> where it lives. Sorted; imported when first built."""
from detcore.plugins import hookimpl
from detcore.registry.scopes import ComponentTable

DETCORE_API = 1


@hookimpl
def detcore_components(components: ComponentTable) -> None:
    """Name this package's components."""
    components.add_many("models", {
        "BatchFixedSizePad": "det_models.batch_augments:BatchFixedSizePad",
        "BoundedIoULoss": "det_models.losses.iou:BoundedIoULoss",
        "CIoULoss": "det_models.losses.iou:CIoULoss",
        "CrossEntropyLoss": "det_models.losses.cross_entropy:CrossEntropyLoss",
        "DIoULoss": "det_models.losses.iou:DIoULoss",
        "DetDataPreprocessor": "det_models.preprocess:DetDataPreprocessor",
        "DetTTAModel": "det_models.tta:DetTTAModel",
        "EIoULoss": "det_models.losses.iou:EIoULoss",
        "FCOS": "det_models.fcos:FCOS",
        "FCOSHead": "det_models.fcos:FCOSHead",
        "FPN": "det_models.fpn:FPN",
        "FocalLoss": "det_models.losses.focal:FocalLoss",
        "GIoULoss": "det_models.losses.iou:GIoULoss",
        "IoULoss": "det_models.losses.iou:IoULoss",
        "L1Loss": "det_models.losses.smooth_l1:L1Loss",
        "RetinaHead": "det_models.retinanet:RetinaHead",
        "RetinaNet": "det_models.retinanet:RetinaNet",
        "SingleStageDetector": "det_models.detector:SingleStageDetector",
        "SmoothL1Loss": "det_models.losses.smooth_l1:SmoothL1Loss",
    })
    components.add_many("task_utils", {
        "AnchorGenerator": "det_models.anchors:AnchorGenerator",
        "BboxOverlaps2D": "det_models.overlaps:BboxOverlaps2D",
        "DeltaXYWHBBoxCoder": "det_models.coders:DeltaXYWHBBoxCoder",
        "DistancePointBBoxCoder": "det_models.coders:DistancePointBBoxCoder",
        "MaxIoUAssigner": "det_models.assign:MaxIoUAssigner",
        "MlvlPointGenerator": "det_models.points:MlvlPointGenerator",
        "PseudoBBoxCoder": "det_models.coders:PseudoBBoxCoder",
        "PseudoSampler": "det_models.samplers:PseudoSampler",
    })
