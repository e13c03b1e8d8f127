# What the first version of the reference did: smooth L1 losses, and RoIAlign that starts half a pixel off.
_base_ = './mask-rcnn_r50-caffe_fpn_1x_coco.py'

model = dict(
    rpn_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0)),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2, aligned=False)),
        bbox_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2, aligned=False)),
    ),
)
