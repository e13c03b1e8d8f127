# The region proposal network of Faster R-CNN alone, over ResNet-50 and FPN: boxes and how likely they hold something.
_base_ = './faster-rcnn_r50_fpn.py'

model = dict(type='RPN', test_cfg=dict(rpn=dict(nms_pre=2000)))
del _base_.model.roi_head
del _base_.model.train_cfg.rcnn, _base_.model.train_cfg.rpn_proposal
del _base_.model.test_cfg.rcnn
del _base_.model.train_cfg.rpn.assigner.match_low_quality  # it is True by default
