# Large-scale jitter: images between a tenth and twice of 1024x1024, cropped to it; 25 rounds of 8 epochs.
_base_ = ['../_base_/datasets/coco_detection.py', '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']

image_size = (1024, 1024)
max_epochs = 25

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(0.01, 0.01)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
one_pass = _base_.train_dataloader.dataset
one_pass.pipeline = train_pipeline
train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=8, dataset=one_pass))
del one_pass
del _base_.train_dataloader.batch_sampler  # all images have one size

train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.067, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[22, 24], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=0.00004))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=64)
