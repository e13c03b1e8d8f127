# The second stage trains on the proposals with the largest losses (Shrivastava et al., 2016).
_base_ = './faster-rcnn_r50_fpn_1x_coco.py'

model = dict(train_cfg=dict(rcnn=dict(sampler=dict(type='OHEMSampler'))))
