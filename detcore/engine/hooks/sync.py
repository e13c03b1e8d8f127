"""Which buffers the processes of a run bring together, and when; the loops do it by name."""
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

# The common base of BatchNorm and InstanceNorm, the layers that keep statistics.
from torch.nn.modules.batchnorm import _NormBase

from detcore.engine import distributed
from detcore.engine.hooks.base import Hook


class SyncHook(Hook):
    """Base of the hooks that average tensors over the processes; alone, a process changes nothing.

    The average of the weights, where there is one, is treated like the model: evaluations use it.

    Attributes:
        after_pass: Whether the end of a pass is a moment to average at (before its checkpoint).
        before_validation: Whether an evaluation in a training is one.
    """

    after_pass: ClassVar[bool] = False
    before_validation: ClassVar[bool] = False

    def tensors(self, model: nn.Module) -> Iterator[Tensor]:
        """What is averaged, in the same order in every process."""
        raise NotImplementedError

    def synchronise(self, runner: Any) -> None:
        """Replace each tensor by its mean over the processes; all of them must call this."""
        models = [runner.model] if runner.average is None else [runner.model, runner.average.module]
        distributed.average_in_place([tensor for model in models for tensor in self.tensors(model)])


class SyncNormHook(SyncHook):
    """Averages the statistics of norm layers before each validation (YOLOX)."""

    before_validation = True

    def tensors(self, model: nn.Module) -> Iterator[Tensor]:
        """Running means and variances; the layers' weights are kept equal by the exchange of gradients."""
        for module in model.modules():
            if isinstance(module, _NormBase):
                yield from module.buffers(recurse=False)


class SyncBuffersHook(SyncHook):
    """Averages all buffers at the end of each pass; in a run by steps before each validation."""

    after_pass = True
    before_validation = True

    def tensors(self, model: nn.Module) -> Iterator[Tensor]:
        """All buffers."""
        yield from model.buffers()
