_base_ = ['../_base_/models/mask-rcnn_r50_fpn.py', '../common/lsj-100e_coco-instance.py']

model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=_base_.image_size, pad_mask=True)]
    )
)
train_dataloader = dict(batch_size=8, num_workers=4)
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(lr=0.08))
