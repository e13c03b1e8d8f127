"""Constructors of the optimiser: over the default one, its groups changed, and from scratch."""
from typing import List, Optional

import torch.nn as nn
from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper

from .my_optimizer import MyOptimizer


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MyOptimizerWrapperConstructor(DefaultOptimWrapperConstructor):

    def __init__(self,
                 optim_wrapper_cfg: dict,
                 paramwise_cfg: Optional[dict] = None):
        self.optimizer_cfg = optim_wrapper_cfg.pop('optimizer')
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        self.optimizer_cfg.pop('type')
        optim_wrapper = OptimWrapper(MyOptimizer(model.parameters(), **self.optimizer_cfg))
        optim_wrapper.paramwise_cfg = self.paramwise_cfg
        return optim_wrapper


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MyHeadFirstConstructor(DefaultOptimWrapperConstructor):

    def add_params(self, params: List[dict], module: nn.Module, **kwargs) -> None:
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            scale = self.paramwise_cfg.get('head_mult', 1.0) if 'bbox_head' in name else 1.0
            params.append(dict(params=[param], lr=self.base_lr * scale, weight_decay=self.base_wd))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MyPlainConstructor:

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None):
        self.optim_wrapper_cfg = optim_wrapper_cfg.copy()
        self.optimizer_cfg = self.optim_wrapper_cfg.pop('optimizer')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        if hasattr(model, 'module'):
            model = model.module
        optimizer_cfg = self.optimizer_cfg.copy()
        optimizer_cfg['params'] = [p for p in model.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS.build(optimizer_cfg)
        optim_wrapper_cfg = self.optim_wrapper_cfg.copy()
        optim_wrapper_cfg.setdefault('type', 'OptimWrapper')
        return OPTIM_WRAPPERS.build(optim_wrapper_cfg, default_args=dict(optimizer=optimizer))
