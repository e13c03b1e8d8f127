"""A detector small enough to reason about, and runs over it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcore.engine.finite import FiniteGuard
from detcore.engine.optim import build_optim_wrapper
from detcore.engine.schedules import build_schedules
from detcore.engine.state import TrainState


class Sample:
    """As much of a data sample as the engine looks at."""

    def __init__(self, index: int) -> None:
        self.metainfo = {"img_path": f"photos/{index}.jpg", "img_id": index}


class TinyDetector(nn.Module):
    """A convolution and a norm layer whose loss is a least-squares fit."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 1, 1)

    def data_preprocessor(self, batch: dict[str, Any], training: bool) -> dict[str, Any]:
        return {"inputs": torch.stack(batch["inputs"]), "data_samples": batch["data_samples"]}

    def forward(self, inputs: Tensor, data_samples: list[Any], mode: str) -> dict[str, Any]:
        assert mode == "loss"
        scores = self.head(self.norm(self.backbone(inputs)).relu())
        return {
            "loss_cls": (scores - 1).square().mean(),
            "loss_bbox": [scores.abs().mean(), scores[..., :2].square()],
            "acc": torch.tensor(50.0),
        }


def batch_of(index: int, size: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(index)
    inputs = [torch.randn(3, 8, 8, generator=generator) for _ in range(size)]
    return {"inputs": inputs, "data_samples": [Sample(index * 10 + i) for i in range(size)]}


def make_state(
    optim: dict[str, Any] | None = None, schedule: Any = None, *, deferred: bool | None = None
) -> TrainState:
    torch.manual_seed(0)
    model = TinyDetector()
    cfg = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}
    wrapper = build_optim_wrapper(model, {**cfg, **(optim or {})})
    schedules = build_schedules(schedule, wrapper, epoch_length=4)
    return TrainState(model, wrapper, schedules, torch.device("cpu"), finite=FiniteGuard(deferred=deferred))


@pytest.fixture
def new_state() -> Callable[..., TrainState]:
    return make_state


@pytest.fixture
def new_batch() -> Callable[..., dict[str, Any]]:
    return batch_of


@pytest.fixture
def tiny_detector() -> type[TinyDetector]:
    return TinyDetector
