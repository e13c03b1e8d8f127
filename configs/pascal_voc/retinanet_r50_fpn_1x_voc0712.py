# RetinaNet on PASCAL VOC 2007 and 2012.
_base_ = [
    '../_base_/models/retinanet_r50_fpn.py', '../_base_/datasets/voc0712.py',
    '../_base_/schedules/schedule_voc_4e.py', '../_base_/default_runtime.py',
]  # fmt: skip

model = dict(bbox_head=dict(num_classes=20))
