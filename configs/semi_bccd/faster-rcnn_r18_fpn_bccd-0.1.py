# Faster R-CNN on a tenth of BCCD's photographs, labelled, from random weights: what the semi-supervised one beside
# it is measured against. The same labelled photographs are seen as often, by the same schedule and augmentation.
#   detcore data split $DETCORE_DATA/bccd/annotations/instances_train.json --percent 10 --folds 3 --out-dir data/semi_bccd
_base_ = '../bccd/faster-rcnn_r18_fpn_bccd.py'

semi_anns = 'data/semi_bccd/'
fold = 1
max_iters = 1500

color_space = [
    [dict(type='ColorTransform')],
    [dict(type='AutoContrast')],
    [dict(type='Equalize')],
    [dict(type='Sharpness')],
    [dict(type='Posterize')],
    [dict(type='Solarize')],
    [dict(type='Color')],
    [dict(type='Contrast')],
    [dict(type='Brightness')],
]
flip = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale='${scale}', ratio_range=(0.8, 1.3), keep_ratio=True),
    dict(type='RandomCrop', crop_size='${scale}', crop_type='absolute'),
    flip,
    dict(type='RandAugment', aug_space=color_space, aug_num=1),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4)),
    dict(type='PackDetInputs'),
]
labeled_dataset = dict(
    type='CocoDataset',
    ann_file='${semi_anns}instances_train.${fold}@10.json',
    data_prefix=dict(img='${data_root}images/'),
    metainfo=dict(classes=_base_.classes),
    filter_cfg=dict(filter_empty_gt=True),
    pipeline=train_pipeline,
)
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=labeled_dataset,
)

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters='${max_iters}', val_interval=750)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end='${max_iters}',
        T_max='${max_iters}',
        eta_min_ratio=0.01,
        by_epoch=False,
    ),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
# Evaluated is the same average of the weights that the semi-supervised one's teacher is.
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.02, update_buffers=True)
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=750, max_keep_ckpts=1, save_best=None),
)
log_processor = dict(by_epoch=False)
