# Standard-scale jitter: images between 0.8 and 1.25 of 1024x1024, cropped to it; 270,000 steps of 64 images, about 144
# epochs, for models that start from scratch.
_base_ = ['../_base_/datasets/coco_instance.py', '../_base_/default_runtime.py']

image_size = (1024, 1024)
jittered = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(0.01, 0.01)),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [*jittered, dict(type='PackDetInputs')]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='InfiniteSampler'), dataset=dict(pipeline=train_pipeline)
)
del _base_.train_dataloader.batch_sampler

max_iters = 270000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=10000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.00004))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iters,
        by_epoch=False,
        milestones=[243000, 256500, 263250],  # nine tenths, and half of what is left twice
        gamma=0.1,
    ),
]

default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)  # 32 GPUs with 2 images each
