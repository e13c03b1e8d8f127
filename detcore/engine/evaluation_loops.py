"""The loops over the validation and the test data: predict, hand over to the metrics, compute the figures."""
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from detcore.engine.base_loop import BaseLoop
from detcore.engine.rng import generators_kept


class ValLoop(BaseLoop):
    """Evaluates the model on the validation data.

    Args:
        runner: The run.
        dataloader: Loader of the data to evaluate on.
        evaluator: Metrics: ``process(data_batch, data_samples)`` and ``evaluate(size)``.
        fp16: Predict under half-precision autocast.
    """

    mode = "val"

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader)
        self.evaluator = evaluator
        self.fp16 = fp16

    def run(self) -> dict[str, float]:
        """Predict every image once and compute the figures.

        Returns:
            Figures by name, for example ``coco/bbox_mAP``.
        """
        runner, mode = self.runner, self.mode
        runner.log_processor.start(mode)
        runner.call_hook(f"before_{mode}")
        runner.call_hook(f"before_{mode}_epoch")
        with evaluating(runner):
            metrics = self.evaluate()
        runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
        runner.call_hook(f"after_{mode}")
        runner.observe("evaluation_finished", metrics=metrics)
        runner.evaluated(mode, metrics)
        return metrics

    def evaluate(self) -> dict[str, float]:
        """Predict every image once and give the figures, without telling anybody."""
        for batch_idx, batch in enumerate(self.dataloader):
            self.run_iter(batch_idx, batch)
        metrics: dict[str, float] = self.evaluator.evaluate(len(self.dataloader.dataset))
        return metrics

    def run_iter(self, batch_idx: int, batch: Any) -> None:
        """Predict one batch and hand the predictions to the metrics."""
        runner, mode = self.runner, self.mode
        runner.call_hook(f"before_{mode}_iter", batch_idx=batch_idx, data_batch=batch)
        with torch.autocast(runner.device.type, enabled=self.fp16):
            outputs = predict_step(runner.model, batch)
        self.evaluator.process(data_samples=outputs, data_batch=batch)
        runner.call_hook(f"after_{mode}_iter", batch_idx=batch_idx, data_batch=batch, outputs=outputs)
        runner.stop_if_asked()


class TestLoop(ValLoop):
    """Evaluates the model on the test data, or only writes its predictions (``format_only``)."""

    __test__ = False  # the name is the manual's; test runners must not collect it
    mode = "test"


@contextlib.contextmanager
def evaluating(runner: Any) -> Iterator[None]:
    """Context of an evaluation: averaged weights, no gradients, the model's evaluation mode.

    The training's random generators and the model's mode are left as they were found, so that evaluating more
    or less often changes nothing else. Within itself it does nothing.
    """
    if runner.is_evaluating:
        yield
        return
    was_training = runner.model.training
    runner.is_evaluating = True
    with generators_kept(), runner.averaged_weights(), torch.no_grad():
        runner.model.eval()
        try:
            yield
        finally:
            runner.is_evaluating = False
            runner.model.train(was_training)


def predict_step(model: nn.Module, batch: Any) -> list[Any]:
    """Predictions for one batch as the loader gave it.

    Args:
        model: A detector with ``data_preprocessor``.
        batch: ``dict(inputs=[Tensor[C, H, W], ...], data_samples=[DetDataSample, ...])``.

    Returns:
        One DetDataSample an image, boxes in pixels of the original image.
    """
    preprocess: Any = model.data_preprocessor
    prepared = preprocess(batch, training=False)
    return model(prepared["inputs"], prepared["data_samples"], mode="predict")
