# The same with the passes in bfloat16 and channels last, where the processor has instructions for it: the same time
# sees more than twice as many images, so it trains twice as long. The moving average of the weights is what is evaluated.
_base_ = 'retinanet_r18_fpn_bccd.py'

max_epochs = 80
channels_last = True

optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')
train_cfg = dict(val_interval=10)
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=100, update_buffers=True)]
default_hooks = dict(checkpoint=dict(interval=10))
