_base_ = './yolov3_mobilenetv2_8xb24-ms-416-300e_coco.py'

model = dict(
    bbox_head=dict(
        anchor_generator=dict(
            base_sizes=[
                [(220, 125), (128, 222), (264, 266)],
                [(35, 87), (102, 96), (60, 170)],
                [(10, 15), (24, 36), (72, 42)],
            ]
        )
    )
)

input_size = (320, 320)
resize = dict(type='Resize', scale=input_size, keep_ratio=True)
train_pipeline = [resize if each['type'] == 'RandomResize' else each for each in _base_.train_pipeline]
test_pipeline = [resize if each['type'] == 'Resize' else each for each in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
