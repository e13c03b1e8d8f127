# A tenth of COCO train2017 labelled (fold 1), the rest not (`detcore data split` makes the files); as many images
# of each in a batch; 180,000 steps. For teacher-student detectors.
_base_ = ['../_base_/datasets/semi_coco_detection.py', '../_base_/default_runtime.py']

labeled_dataset = _base_.labeled_dataset
unlabeled_dataset = _base_.unlabeled_dataset
labeled_dataset.ann_file = 'semi_anns/instances_train2017.1@10.json'
unlabeled_dataset.ann_file = 'semi_anns/instances_train2017.1@10-unlabeled.json'
unlabeled_dataset.data_prefix = dict(img='train2017/')

batch_size = 2
num_workers = 2
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    sampler=dict(batch_size=batch_size, source_ratio=[1, 1]),
    dataset=dict(datasets=[labeled_dataset, unlabeled_dataset]),
)

train_cfg = dict(type='IterBasedTrainLoop', max_iters=180000, val_interval=5000)
val_cfg = dict(type='semi.TeacherStudentValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=180000, by_epoch=False, milestones=[120000, 160000], gamma=0.1),
]
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type='semi.MeanTeacherHook')]
