# The region proposal network of faster-rcnn_r50-caffe-c4 alone.
_base_ = './rpn_r50_fpn.py'

model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),  # BGR
    backbone=dict(
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(requires_grad=False),
        style='caffe',
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet50_caffe'),
    ),
    neck=None,
    rpn_head=dict(
        in_channels=1024,
        feat_channels=1024,
        anchor_generator=dict(scales=[2, 4, 8, 16, 32], strides=[16]),
    ),
    test_cfg=dict(rpn=dict(nms_pre=12000, max_per_img=2000)),
)
