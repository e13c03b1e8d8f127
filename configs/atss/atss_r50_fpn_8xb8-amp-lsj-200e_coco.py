_base_ = ['../_base_/models/atss_r50_fpn.py', '../common/lsj-200e_coco-detection.py']

model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchFixedSizePad', size=_base_.image_size)])
)
train_dataloader = dict(batch_size=8, num_workers=4)
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(lr=0.01 * 4))
