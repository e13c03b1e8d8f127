_base_ = './cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

checkpoint_file = (
    'https://download.openmmlab.com/mmclassification/v0/convnext/downstream/'
    'convnext-small_3rdparty_32xb128-noema_in1k_20220301-303e75e3.pth'
)
model = dict(
    backbone=dict(arch='small', drop_path_rate=0.6, init_cfg=dict(checkpoint=checkpoint_file)),
)

optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
