# For comparison: four numbers make a box, on whose grid the points stand.
_base_ = './reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py'

model = dict(bbox_head=dict(transform_method='minmax', use_grid_points=True))
