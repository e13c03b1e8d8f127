_base_ = './faster-rcnn_r50_fpn_ms-3x_coco.py'

model = dict(
    # Its weights come from Caffe2: BGR, and divided by deviations.
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False),
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=8,
        norm_cfg=dict(requires_grad=False),
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnext101_32x8d'),
    ),
)
