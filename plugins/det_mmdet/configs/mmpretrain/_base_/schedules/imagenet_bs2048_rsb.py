# LAMB for batches of 2048 images, five epochs of warm-up, then half a cosine up to epoch 100.
auto_scale_lr = dict(base_batch_size=2048)
optim_wrapper = dict(optimizer=dict(type='Lamb', lr=0.005, weight_decay=0.02))
param_scheduler = [
    dict(type='LinearLR', begin=0, end=5, start_factor=0.0001, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=5, end=100, T_max=95, eta_min=1e-6, by_epoch=True),
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg, test_cfg = dict(), dict()
