_base_ = './faster-rcnn_r50_fpn_1x_coco.py'

model = dict(
    roi_head=dict(
        bbox_head=dict(
            reg_decoded_bbox=True,  # the loss compares boxes, not deltas
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
        )
    )
)
