# As in the reference, the images stay as torchvision's weights want them, although these are Caffe's.
_base_ = './faster-rcnn_r50_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        depth=101,
        norm_cfg=dict(requires_grad=False),
        style='caffe',
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    ),
)
