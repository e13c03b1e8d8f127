# lsj-200e_coco-detection, half as long: 25 rounds of 4 epochs.
_base_ = './lsj-200e_coco-detection.py'

train_dataloader = dict(dataset=dict(times=4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.067, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=25, by_epoch=True, milestones=[22, 24], gamma=0.1),
]
