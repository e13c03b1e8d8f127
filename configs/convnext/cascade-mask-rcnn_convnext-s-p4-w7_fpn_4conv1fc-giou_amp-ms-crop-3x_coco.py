_base_ = './cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

checkpoint_file = (
    'https://download.openmmlab.com/mmclassification/v0/convnext/downstream/'
    'convnext-small_3rdparty_32xb128-noema_in1k_20220301-303e75e3.pth'
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch='small',
        out_indices=[0, 1, 2, 3],
        drop_path_rate=0.6,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint_file, prefix='backbone.'),
    ),
)

optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=12))
