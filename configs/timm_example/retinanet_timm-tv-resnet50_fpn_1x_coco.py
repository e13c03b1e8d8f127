_base_ = [
    '../_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='timm.resnet50.tv_in1k',  # torchvision's weights
        pretrained=True,
        out_indices=(1, 2, 3, 4),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
