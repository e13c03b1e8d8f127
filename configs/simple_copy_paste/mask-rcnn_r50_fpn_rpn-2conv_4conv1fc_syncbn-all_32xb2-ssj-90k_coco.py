# A third as long. (The published file sets max_iters beside train_cfg, which goes on to 270,000 at the last rate.)
_base_ = './mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-270k_coco.py'

max_iters = 90000
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.067, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_iters, by_epoch=False, milestones=[81000, 85500, 87750], gamma=0.1),
]
