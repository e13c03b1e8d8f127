# Mask R-CNN from scratch, with batch norm over all GPUs everywhere, a deeper RPN and a box head of four convolutions: what
# simple copy-paste (Ghiasi et al., 2021) is compared with.
_base_ = ['../_base_/models/mask-rcnn_r50_fpn.py', '../common/ssj_270k_coco-instance.py']

norm_cfg = dict(type='SyncBN', requires_grad=True)
head_norm_cfg = dict(type='MMSyncBN', requires_grad=True)

model = dict(
    data_preprocessor=dict(
        pad_size_divisor=32,  # for testing; in training all images are of one size
        batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)],
    ),
    backbone=dict(frozen_stages=-1, norm_eval=False, norm_cfg=norm_cfg, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=head_norm_cfg),
        mask_head=dict(norm_cfg=head_norm_cfg),
    ),
)
