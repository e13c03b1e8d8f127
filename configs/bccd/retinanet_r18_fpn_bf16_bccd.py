# The same with the passes in bfloat16, where the processor has instructions for it: no more time for larger pictures and
# more epochs.
_base_ = 'retinanet_r18_fpn_bccd.py'

scale = (384, 288)  # multiples of 32, so no padding is computed
max_epochs = 70

optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')
train_cfg = dict(val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))
