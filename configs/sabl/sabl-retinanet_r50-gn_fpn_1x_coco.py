# Group norms in the head.
_base_ = './sabl-retinanet_r50_fpn_1x_coco.py'

model = dict(bbox_head=dict(norm_cfg=dict(type='GN', num_groups=32, requires_grad=True)))
