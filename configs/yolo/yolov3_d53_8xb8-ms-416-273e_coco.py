_base_ = './yolov3_d53_8xb8-ms-608-273e_coco.py'

resize = dict(type='RandomResize', scale=[(320, 320), (416, 416)], keep_ratio=True)
train_pipeline = [resize if each['type'] == 'RandomResize' else each for each in _base_.train_pipeline]
test_resize = dict(type='Resize', scale=(416, 416), keep_ratio=True)
test_pipeline = [test_resize if each['type'] == 'Resize' else each for each in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
