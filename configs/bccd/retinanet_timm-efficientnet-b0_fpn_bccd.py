# The same with EfficientNet-B0 of timm, from random weights; its convolutions gain nothing from bfloat16 on a CPU.
_base_ = 'retinanet_r18_fpn_bccd.py'

model = dict(
    backbone=dict(_delete_=True, type='timm.EfficientNet'),
    neck=dict(in_channels=None),  # asked of the backbone
)
