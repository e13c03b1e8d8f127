_base_ = './fovea_r50_fpn_4xb4-1x_coco.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))
