"""A parameter schedule, of learning rate and of momentum."""
from mmdet.registry import PARAM_SCHEDULERS
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler


@PARAM_SCHEDULERS.register_module()
class MyHalvingParamScheduler(_ParamScheduler):

    def __init__(self,
                 optimizer,
                 param_name: str,
                 every: int = 2,
                 begin: int = 0,
                 end: int = INF,
                 last_step: int = -1,
                 by_epoch: bool = True,
                 verbose: bool = False):
        self.every = every
        super().__init__(
            optimizer=optimizer,
            param_name=param_name,
            begin=begin,
            end=end,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose)

    def _get_value(self):
        if self.last_step == 0:
            return [group[self.param_name] for group in self.optimizer.param_groups]
        return [base * 0.5**(self.last_step // self.every) for base in self.base_values]


@PARAM_SCHEDULERS.register_module()
class MyHalvingLR(LRSchedulerMixin, MyHalvingParamScheduler):
    pass


@PARAM_SCHEDULERS.register_module()
class MyHalvingMomentum(MomentumSchedulerMixin, MyHalvingParamScheduler):
    pass
