"""An optimiser of one's own, with the manual's three arguments."""
import torch
from mmdet.registry import OPTIMIZERS
from torch.optim import Optimizer


@OPTIMIZERS.register_module()
class MyOptimizer(Optimizer):

    def __init__(self, params, a=0.01, b=0.0, c=0.0, lr=None):
        defaults = dict(lr=a if lr is None else lr, momentum=b, weight_decay=c)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None:
                    continue
                grad = p.grad.add(p, alpha=group['weight_decay'])
                state = self.state[p]
                if 'buffer' not in state:
                    state['buffer'] = torch.zeros_like(p)
                state['buffer'].mul_(group['momentum']).add_(grad)
                p.add_(state['buffer'], alpha=-group['lr'])
