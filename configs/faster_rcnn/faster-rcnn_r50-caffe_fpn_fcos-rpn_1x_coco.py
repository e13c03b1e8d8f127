# FCOS in place of the RPN, both starting from a trained FCOS: its checkpoint holds the backbone, too.
_base_ = [
    '../_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),  # BGR
    backbone=dict(norm_cfg=dict(requires_grad=False), style='caffe', init_cfg=None),
    neck=dict(start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True),
    rpn_head=dict(
        _delete_=True,
        type='FCOSHead',
        num_classes=1,  # something or nothing
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[8, 16, 32, 64, 128])),  # the levels of this neck
)

load_from = (
    'https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/'
    'fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth'
)
