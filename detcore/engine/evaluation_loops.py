"""The loops over the validation and the test data: predict, hand over to the metrics, compute the figures."""
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from detcore.engine.rng import capture_rng, restore_rng


class ValLoop:
    """Evaluates the model on the validation data.

    Args:
        runner: The run.
        dataloader: Loader of the data to evaluate on.
        evaluator: Metrics: ``process(data_batch, data_samples)`` and ``evaluate(size)``.
        fp16: Predict under half-precision autocast.
    """

    mode = "val"

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        self.runner = runner
        self.dataloader = dataloader
        self.evaluator = evaluator
        self.fp16 = fp16

    def run(self) -> dict[str, float]:
        """Predict every image once and compute the figures.

        The training's random generators and the model's mode are left as they were, so that evaluating more
        or less often changes nothing else.

        Returns:
            Figures by name, for example ``coco/bbox_mAP``.
        """
        runner, mode = self.runner, self.mode
        was_training = runner.model.training
        runner.log_processor.start(mode)
        runner.call_hook(f"before_{mode}")
        runner.call_hook(f"before_{mode}_epoch")
        with _generators_kept(), runner.averaged_weights(), torch.no_grad():
            runner.model.eval()
            try:
                for batch_idx, batch in enumerate(self.dataloader):
                    self.run_iter(batch_idx, batch)
                metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
            finally:
                runner.model.train(was_training)
        runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
        runner.call_hook(f"after_{mode}")
        runner.observe("evaluation_finished", metrics=metrics)
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


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave all random generators as they were found."""
    before = capture_rng()
    try:
        yield
    finally:
        restore_rng(before)
