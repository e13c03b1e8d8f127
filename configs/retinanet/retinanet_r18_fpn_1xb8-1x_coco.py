# One GPU with 8 images.
_base_ = './retinanet_r18_fpn_1x_coco.py'

train_dataloader = dict(batch_size=8)
optim_wrapper = dict(optimizer=dict(lr=0.005))
