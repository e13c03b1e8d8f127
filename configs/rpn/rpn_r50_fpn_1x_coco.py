_base_ = [
    '../_base_/models/rpn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

val_evaluator = dict(metric='proposal_fast')  # recall of the proposals
test_evaluator = val_evaluator

# Proposals for Fast R-CNN are written by `detcore test` with this in place of test_evaluator (and, for the training
# images, their ann_file and data_prefix in test_dataloader):
#     dict(type='DumpProposals', output_dir='data/coco/proposals/', proposals_file='rpn_r50_fpn_1x_val2017.pkl')
