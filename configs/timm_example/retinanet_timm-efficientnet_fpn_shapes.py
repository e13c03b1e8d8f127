# A first run with a backbone of timm, from random weights, on the drawn shapes.
_base_ = '../shapes/retinanet_r18_fpn_shapes.py'

model = dict(
    backbone=dict(_delete_=True, type='timm.EfficientNet'),
    neck=dict(in_channels=None),  # asked of the backbone
)
