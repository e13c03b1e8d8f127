# RetinaNet on photographs of blood cells (BCCD: 364 photographs, 4,886 boxes), from random weights, in float32.
# The photographs lie in `bccd/` below the folder in $DETCORE_DATA, or below `../shared/data`.
_base_ = ['../_base_/models/retinanet_r50_fpn.py', '../_base_/default_runtime.py']

data_root = '{{$DETCORE_DATA:../shared/data}}/bccd/'
classes = ('RBC', 'WBC', 'Platelets')
scale = (320, 240)  # half of the photographs' width and height
max_epochs = 40
channels_last = True  # faster convolutions on CPUs

model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    bbox_head=dict(num_classes=3, in_channels=128, feat_channels=128, stacked_convs=2),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale='${scale}', ratio_range=(0.8, 1.3), keep_ratio=True),
    dict(type='RandomCrop', crop_size='${scale}', crop_type='absolute'),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4)),  # slivers that the crop left of cells
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale='${scale}', keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # decoding takes a few per cent of a step's time; on two cores a worker would take it from there
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root='${data_root}',
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,  # all photographs have one size, so a batch needs no padding
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root='${data_root}',
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file='${data_root}annotations/instances_val.json', metric='bbox', classwise=True
)
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end='${max_epochs}',
        T_max='${max_epochs}',
        eta_min_ratio=0.01,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs='${max_epochs}', val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# What is evaluated is the moving average of the weights; on so small a data set it is worth several points of AP.
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=100, update_buffers=True)]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=5, max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'),
)
