# Mask R-CNN as first published for ResNet-50 without FPN: boxes and masks are both read from the shared fourth stage.
_base_ = './faster-rcnn_r50-caffe-c4.py'

model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        mask_roi_extractor=None,  # the box head's
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=0,
            in_channels=2048,
            conv_out_channels=256,
            num_classes=80,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rpn=dict(allowed_border=0), rcnn=dict(mask_size=14)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
del _base_.model.roi_head.shared_head.init_cfg  # the reference starts it from random weights
