# RTMDet-L over ConvNeXt-B, which has learnt ImageNet-22k; learning rates fall from its last layer to its first.
_base_ = './rtmdet_l_swin_b_4xb32-100e_coco.py'

checkpoint = (
    'https://download.openmmlab.com/mmclassification/v0/convnext/'
    'convnext-base_in21k-pre-3rdparty_in1k-384px_20221219-4570f792.pth'
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch='base',
        out_indices=[1, 2, 3],
        drop_path_rate=0.7,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
)

optim_wrapper = dict(
    constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.8, decay_type='layer_wise', num_layers=12),
)
