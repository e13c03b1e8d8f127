# Mask R-CNN on photographs of dates, figs and hazelnuts (18 photographs, 165 outlines), from random weights, in bfloat16.
# The photographs lie in `nuts/` below the folder in $DETCORE_DATA, or below `../shared/data`.
_base_ = ['../_base_/models/mask-rcnn_r50_fpn.py', '../_base_/default_runtime.py']

data_root = '{{$DETCORE_DATA:../shared/data}}/nuts/'
classes = ('date', 'fig', 'hazelnut')
scale = (320, 240)  # two fifths of the photographs' width and height
max_epochs = 8
channels_last = True  # faster convolutions on CPUs

model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=512, num_classes=3),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(in_channels=128, conv_out_channels=128, num_classes=3),
    ),
    # A photograph has about ten nuts, so a quarter of these regions shows all of them several times.
    train_cfg=dict(rpn_proposal=dict(max_per_img=500), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(max_per_img=500)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale='${scale}', ratio_range=(0.9, 1.2), keep_ratio=True),
    dict(type='RandomCrop', crop_size='${scale}', crop_type='absolute', recompute_bbox=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(8, 8)),  # slivers that the crop left of nuts
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale='${scale}', keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=0,  # decoding takes a few per cent of a step's time; on two cores a worker would take it from there
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RepeatDataset',
        times=20,
        dataset=dict(
            type='CocoDataset',
            data_root='${data_root}',
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=classes),
            filter_cfg=dict(filter_empty_gt=True),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
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
    type='CocoMetric', ann_file='${data_root}annotations/instances_val.json', metric=['bbox', 'segm']
)
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=0.0005, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
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
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs='${max_epochs}', val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=2, max_keep_ckpts=2))
