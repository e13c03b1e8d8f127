# Soft Teacher on BCCD: a tenth of the photographs is labelled, of the rest only the pictures are used. From random
# weights. Beside the supervised one it has as many labelled photographs in each step, and as many unlabelled ones.
_base_ = 'faster-rcnn_r18_fpn_bccd-0.1.py'

detector = _base_.model
model = dict(
    _delete_=True,
    type='semi.SoftTeacher',
    detector=detector,
    data_preprocessor=dict(
        type='semi.MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor
    ),
    semi_train_cfg=dict(
        sup_weight=1.0,
        unsup_weight=0.5,
        pseudo_label_initial_score_thr=0.5,
        rpn_pseudo_thr=0.5,
        cls_pseudo_thr=0.6,
        reg_pseudo_thr=0.03,
        jitter_times=10,
        jitter_scale=0.06,
        min_pseudo_bbox_wh=(4, 4),
        burn_in_iters=600,
        # The labels of the rest are known here; they measure the pseudo labels and teach nobody.
        unlabeled_truth='${semi_anns}instances_train.${fold}@10-unlabeled.json',
    ),
    semi_test_cfg=dict(predict_on='teacher'),
)

view_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'homography_matrix')
sup_pipeline = _base_.train_pipeline[:-1] + [dict(type='semi.MultiBranch', sup=dict(type='PackDetInputs'))]
weak_pipeline = [
    dict(type='Resize', scale='${scale}', keep_ratio=True),
    _base_.flip,
    dict(type='PackDetInputs', meta_keys=view_keys),
]
# No rotation and no shear: the box around a turned box is larger than the one around a turned cell.
strong_pipeline = [
    dict(type='RandomResize', scale='${scale}', ratio_range=(0.8, 1.3), keep_ratio=True),
    # There are no boxes yet that a crop could miss.
    dict(type='RandomCrop', crop_size='${scale}', crop_type='absolute', allow_negative_crop=True),
    _base_.flip,
    dict(type='RandAugment', aug_space=_base_.color_space, aug_num=1),
    dict(type='RandomErasing', n_patches=(1, 5), ratio=(0, 0.1)),
    dict(type='PackDetInputs', meta_keys=view_keys),
]
unlabeled_dataset = dict(
    type='CocoDataset',
    ann_file='${semi_anns}instances_train.${fold}@10-unlabeled.json',
    data_prefix=dict(img='${data_root}images/'),
    metainfo=dict(classes=_base_.classes),
    filter_cfg=dict(filter_empty_gt=False),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadEmptyAnnotations'),
        dict(type='semi.MultiBranch', unsup_teacher=weak_pipeline, unsup_student=strong_pipeline),
    ],
)
labeled_dataset = dict(_base_.labeled_dataset, pipeline=sup_pipeline)
train_dataloader = dict(
    _delete_=True,
    batch_size=4,
    num_workers=0,
    sampler=dict(type='MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(type='ConcatDataset', datasets=[labeled_dataset, unlabeled_dataset]),
)
val_cfg = dict(_delete_=True, type='semi.TeacherStudentValLoop')
custom_hooks = [dict(type='semi.MeanTeacherHook', momentum=0.02)]
