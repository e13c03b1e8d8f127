# ssj_270k_coco-instance with simple copy-paste (Ghiasi et al., 2021): objects of a second image, jittered likewise, are
# pasted over each image.
_base_ = './ssj_270k_coco-instance.py'

load_pipeline = [*_base_.jittered, dict(type='Pad', size=_base_.image_size)]
train_pipeline = [dict(type='CopyPaste', max_num_pasted=100), dict(type='PackDetInputs')]

plain = _base_.train_dataloader.dataset
plain.pipeline = load_pipeline
train_dataloader = dict(
    dataset=dict(_delete_=True, type='MultiImageMixDataset', dataset=plain, pipeline=train_pipeline)
)
del plain
