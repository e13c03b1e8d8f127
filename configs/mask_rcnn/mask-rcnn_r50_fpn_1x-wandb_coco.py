# Logged to Weights & Biases, too.
_base_ = './mask-rcnn_r50_fpn_1x_coco.py'

vis_backends = [dict(type='LocalVisBackend'), dict(type='WandbVisBackend')]
visualizer = dict(vis_backends=vis_backends)
default_hooks = dict(checkpoint=dict(interval=4))
train_cfg = dict(val_interval=2)
