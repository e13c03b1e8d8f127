"""Loops of one's own, in the shape of mmengine's."""
import torch
from mmdet.registry import LOOPS
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, ValLoop


@LOOPS.register_module()
class MyEpochLoop(EpochBasedTrainLoop):
    """Replaces one pass, in mmengine's shape."""

    def __init__(self, runner, dataloader, max_epochs: int, val_begin: int = 1, val_interval: int = 1,
                 my_factor: int = 1) -> None:
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval)
        self.my_factor = my_factor

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx, data_batch) -> None:
        self.runner.message_hub.update_info('my_factor', self.my_factor, resumed=False)
        super().run_iter(idx, data_batch)


@LOOPS.register_module()
class MyTrainLoop(EpochBasedTrainLoop):
    """Replaces the order of passes and validations."""

    def run(self) -> torch.nn.Module:
        self.runner.call_hook('before_train')

        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if (self.runner.val_loop is not None
                    and self._epoch >= self.val_begin
                    and self._epoch % self.val_interval == 0):
                self.runner.val_loop.run()

        self.runner.call_hook('after_train')
        return self.runner.model


@LOOPS.register_module()
class MyTwiceValLoop(ValLoop):
    """After TeacherStudentValLoop: evaluates in two ways, and gives nothing back."""

    def run(self):
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()

        model = self.runner.model
        if is_model_wrapper(model):
            model = model.module

        multi_metrics = dict()
        for _predict_on in ['teacher', 'student']:
            for idx, data_batch in enumerate(self.dataloader):
                self.run_iter(idx, data_batch)
            metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
            multi_metrics.update(
                {'/'.join((_predict_on, k)): v for k, v in metrics.items()})

        self.runner.call_hook('after_val_epoch', metrics=multi_metrics)
        self.runner.call_hook('after_val')


@LOOPS.register_module()
class MyCountingLoop(BaseLoop):
    """A loop from the ground up."""

    def __init__(self, runner, dataloader, evaluator=None, fp16: bool = False) -> None:
        super().__init__(runner, dataloader)
        self.evaluator = evaluator

    @torch.no_grad()
    def run(self) -> dict:
        self.runner.model.eval()
        images = sum(len(batch['inputs']) for batch in self.dataloader)
        return {'my/images': images}
