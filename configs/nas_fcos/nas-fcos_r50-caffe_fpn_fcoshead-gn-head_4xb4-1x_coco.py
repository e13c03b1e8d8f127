# NAS-FCOS with the pyramid that the search found, and FCOS's own head.
_base_ = './nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py'

model = dict(bbox_head=dict(type='FCOSHead', stacked_convs=4))
