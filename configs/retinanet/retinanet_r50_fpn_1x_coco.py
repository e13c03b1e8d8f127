_base_ = [
    '../_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
    './retinanet_tta.py',
]

optim_wrapper = dict(optimizer=dict(lr=0.01))
