# RetinaNet as teacher and student, 10 % of COCO train2017 labelled.
_base_ = ['../_base_/models/retinanet_r50_fpn.py', '../common/semi-180k_semi-0.1-coco.py']

detector = _base_.model
model = dict(
    _delete_=True,
    type='semi.SemiBaseDetector',
    detector=detector,
    data_preprocessor=dict(
        type='semi.MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor
    ),
    semi_train_cfg=dict(
        freeze_teacher=True,
        sup_weight=1.0,
        unsup_weight=1.0,
        cls_pseudo_thr=0.9,
        min_pseudo_bbox_wh=(1e-2, 1e-2),
    ),
    semi_test_cfg=dict(predict_on='teacher'),
)
