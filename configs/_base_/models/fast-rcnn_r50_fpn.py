# Fast R-CNN (Girshick, 2015) over ResNet-50 and FPN: the second half of Faster R-CNN, whose proposals come from a file.
_base_ = './faster-rcnn_r50_fpn.py'

model = dict(type='FastRCNN')
del _base_.model.rpn_head
del _base_.model.train_cfg.rpn, _base_.model.train_cfg.rpn_proposal
del _base_.model.test_cfg.rpn
