# mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-270k with copied
# objects, as ../common/ssj_scp_270k_coco-instance.py has them.
_base_ = './mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-270k_coco.py'

load_pipeline = [*_base_.jittered, dict(type='Pad', size=_base_.image_size)]
train_pipeline = [dict(type='CopyPaste', max_num_pasted=100), dict(type='PackDetInputs')]

plain = _base_.train_dataloader.dataset
plain.pipeline = load_pipeline
train_dataloader = dict(
    dataset=dict(_delete_=True, type='MultiImageMixDataset', dataset=plain, pipeline=train_pipeline)
)
del plain
