"""Hooks at every point of the manual, with the signatures of mmengine's base class."""
import os.path as osp
from typing import Dict, Optional, Sequence, Union

import torch
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.fileio import dump
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner


@HOOKS.register_module()
class MyHook(Hook):
    """Writes down each point that it is called at, and what it was given."""

    def __init__(self, a, b):
        self.a = a
        self.b = b
        self.calls = []

    def before_run(self, runner) -> None:
        self.calls.append('before_run')

    def after_run(self, runner) -> None:
        self.calls.append('after_run')
        dump(self.calls, osp.join(runner.work_dir, f'{self.a}.json'))

    def before_train(self, runner) -> None:
        assert runner.train_dataloader.dataset.metainfo['classes']
        self.calls.append('before_train')

    def after_train(self, runner) -> None:
        self.calls.append('after_train')

    def before_train_epoch(self, runner) -> None:
        assert runner.model.training or runner.epoch == 0
        self.calls.append(f'before_train_epoch {runner.epoch}')

    def after_train_epoch(self, runner) -> None:
        self.calls.append(f'after_train_epoch {runner.epoch}')

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: DATA_BATCH = None) -> None:
        assert set(data_batch) == {'inputs', 'data_samples'}
        self.calls.append(f'before_train_iter {batch_idx}')

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: DATA_BATCH = None,
                         outputs: Optional[dict] = None) -> None:
        assert torch.is_tensor(outputs['loss'])
        self.calls.append(f'after_train_iter {batch_idx}')

    def before_val(self, runner) -> None:
        assert runner.val_loop is not None
        self.calls.append('before_val')

    def after_val(self, runner) -> None:
        self.calls.append('after_val')

    def before_val_epoch(self, runner) -> None:
        self.calls.append('before_val_epoch')

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        self.calls.append(f'after_val_epoch {sorted(metrics)}')

    def before_val_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        assert not runner.model.training
        self.calls.append(f'before_val_iter {batch_idx}')

    def after_val_iter(self,
                       runner,
                       batch_idx: int,
                       data_batch: DATA_BATCH = None,
                       outputs: Optional[Sequence[DetDataSample]] = None) -> None:
        assert outputs[0].pred_instances.bboxes.shape[1] == 4
        self.calls.append(f'after_val_iter {batch_idx}')

    def before_test(self, runner) -> None:
        self.calls.append('before_test')

    def after_test(self, runner) -> None:
        self.calls.append('after_test')

    def before_test_epoch(self, runner) -> None:
        self.calls.append('before_test_epoch')

    def after_test_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        self.calls.append(f'after_test_epoch {sorted(metrics)}')

    def before_test_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        self.calls.append(f'before_test_iter {batch_idx}')

    def after_test_iter(self,
                        runner,
                        batch_idx: int,
                        data_batch: DATA_BATCH = None,
                        outputs: Optional[Sequence[DetDataSample]] = None) -> None:
        self.calls.append(f'after_test_iter {batch_idx}')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['my_note'] = self.b
        self.calls.append('before_save_checkpoint')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        assert checkpoint['my_note'] == self.b
        self.calls.append('after_load_checkpoint')


@HOOKS.register_module()
class MyOrderHook(Hook):
    """Appends its name, so that the order of hooks shows."""

    def __init__(self, name: str) -> None:
        self.name = name

    def before_train(self, runner) -> None:
        order = runner.message_hub.get_info('order', [])
        runner.message_hub.update_info('order', [*order, self.name], resumed=False)


@HOOKS.register_module()
class MyEagerHook(MyOrderHook):

    priority = 'VERY_HIGH'


@HOOKS.register_module()
class MyGeneralHook(Hook):
    """Overrides the points that all modes share, as mmengine's base class offers them."""

    def __init__(self) -> None:
        self.count = dict(train=0, val=0)

    def _before_epoch(self, runner, mode: str = 'train') -> None:
        self.count[mode] += 1000

    def _after_iter(self,
                    runner,
                    batch_idx: int,
                    data_batch: DATA_BATCH = None,
                    outputs: Optional[Union[Sequence, dict]] = None,
                    mode: str = 'train') -> None:
        self.count[mode] += 1

    def after_run(self, runner) -> None:
        dump(self.count, osp.join(runner.work_dir, 'general.json'))


@HOOKS.register_module()
class MyLossGuardHook(Hook):
    """Looks at the loss at an interval, as the manual's example does."""

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        if self.every_n_train_iters(runner, self.interval) and not torch.isfinite(outputs['loss']):
            runner.logger.info('the loss is not finite')
            raise ValueError('the loss is not finite')


@HOOKS.register_module()
class UnfreezeBackboneEpochBasedHook(Hook):
    """The how-to page's hook: thaws the frozen stages of a ResNet from a pass on."""

    def __init__(self, unfreeze_epoch=1):
        self.unfreeze_epoch = unfreeze_epoch

    def before_train_epoch(self, runner):
        if runner.epoch != self.unfreeze_epoch:
            return
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        backbone = model.backbone
        stem = [backbone.stem] if backbone.deep_stem else [backbone.conv1, backbone.norm1]
        stages = [getattr(backbone, f'layer{i}') for i in range(1, backbone.frozen_stages + 1)]
        for module in stem + stages:
            module.train()
            for param in module.parameters():
                param.requires_grad = True


@HOOKS.register_module()
class MySavingHook(Hook):
    """Saves checkpoints of its own, after a step and after a pass."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.every_n_train_iters(runner, 3):
            runner.save_checkpoint(
                runner.work_dir, 'mine.pth', save_optimizer=True, meta=dict(loss=outputs['loss'].item()))

    def after_train_epoch(self, runner) -> None:
        runner.save_checkpoint(osp.join(runner.work_dir, 'mine'), f'pass_{runner.epoch}.pth')


@HOOKS.register_module()
class MyReachingHook(Hook):
    """Asks a run for what hooks usually ask, and writes the answers."""

    priority = 'LOW'

    def __init__(self, interval: int = 2) -> None:
        self.interval = interval
        self.seen = dict(every=[], ends=[], last=[])

    def before_run(self, runner: Runner) -> None:
        runner.logger.info('a line of a hook')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self.seen['every'].append(runner.iter)
            assert runner.message_hub.get_scalar('train/loss').current() > 0
            assert runner.message_hub.get_scalar('train/lr').current() > 0
            runner.visualizer.add_scalar('my/loss', outputs['loss'].item(), runner.iter)
        if self.end_of_epoch(runner.train_dataloader, batch_idx):
            self.seen['ends'].append(runner.iter)
        if self.is_last_train_iter(runner):
            self.seen['last'].append(runner.iter)
        assert self.every_n_inner_iters(batch_idx, 1)
        message_hub = MessageHub.get_current_instance()
        message_hub.update_scalar('my_sum', float(outputs['loss']))
        message_hub.update_info('my_steps', runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        if self.every_n_epochs(runner, 1) and self.is_last_train_epoch(runner):
            self.seen['rates'] = runner.optim_wrapper.get_lr()['lr']
            self.seen['schedules'] = [type(each).__name__ for each in runner.param_schedulers]
            self.seen['facts'] = [
                runner.max_epochs, runner.max_iters, runner.rank, runner.world_size, runner.train_loop.epoch,
                runner.message_hub.get_info('max_epochs'), runner.cfg.train_cfg.max_epochs,
                MessageHub.get_current_instance() is runner.message_hub, runner.experiment_name != '',
                runner.distributed, osp.dirname(runner.log_dir) == runner.work_dir
            ]
            self.seen['sum'] = len(runner.message_hub.get_scalar('my_sum').data)
            self.seen['steps'] = runner.message_hub.get_info('my_steps')

    def after_train(self, runner) -> None:
        self.seen['classes'] = runner.visualizer.dataset_meta['classes']
        dump(self.seen, osp.join(runner.work_dir, 'reached.json'))
