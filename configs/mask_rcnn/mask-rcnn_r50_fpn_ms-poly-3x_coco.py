_base_ = ['../_base_/models/mask-rcnn_r50_fpn.py', '../common/ms-poly_3x_coco-instance.py']
