_base_ = ['../_base_/models/retinanet_r50_fpn.py', '../common/ms_3x_coco.py']

optim_wrapper = dict(optimizer=dict(lr=0.01))
