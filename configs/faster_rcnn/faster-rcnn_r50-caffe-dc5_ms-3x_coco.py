# As in the reference, the second scheduler ends before its milestones, so the rate never falls.
_base_ = './faster-rcnn_r50-caffe-dc5_ms-1x_coco.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[28, 34], gamma=0.1),
]
