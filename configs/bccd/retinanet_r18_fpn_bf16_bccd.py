# The same with the passes in bfloat16: where the processor has instructions for it, the same time sees about twice
# as many images, so it trains twice as long.
_base_ = 'retinanet_r18_fpn_bccd.py'

max_epochs = 80
channels_last = True

optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')
train_cfg = dict(val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
