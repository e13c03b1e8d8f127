"""What one of two processes does in test_distributed; run as a script by it."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detcore.engine import distributed
from detcore.engine.finite import FiniteGuard
from detcore.engine.optim import build_optim_wrapper
from detcore.engine.rng import capture_rng_of_all_ranks, seed_everything
from detcore.engine.schedules import build_schedules
from detcore.engine.state import TrainState
from detcore.engine.step import train_step
from detcore.errors import TrainingError

STEPS = 6


class Detector(nn.Module):
    """Without statistics over the batch, so that halves of a batch add up to the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 1, 1)

    def data_preprocessor(self, batch: dict[str, Any], training: bool) -> dict[str, Any]:
        return {"inputs": batch["inputs"], "data_samples": []}

    def forward(self, inputs: Tensor, data_samples: list[Any], mode: str) -> dict[str, Tensor]:
        return {"loss_cls": (self.head(self.conv(inputs).relu()) - 1).square().mean()}


def images(step: int) -> Tensor:
    """The whole batch of a step: Tensor[4, 3, 8, 8]."""
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))


def train(accumulate: int, part: slice) -> tuple[TrainState, list[float]]:
    """Train on a part of every batch."""
    torch.manual_seed(distributed.rank())  # the processes begin with other weights; the main one's must win
    model = distributed.wrap_model(Detector())
    cfg = {
        "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
        "clip_grad": {"max_norm": 1.0},
        "accumulative_counts": accumulate,
    }
    optim = build_optim_wrapper(model, cfg)
    optim.max_steps = STEPS
    state = TrainState(model, optim, build_schedules(None, optim), torch.device("cpu"), finite=FiniteGuard())
    losses = []
    for step in range(STEPS):
        report = train_step(state, {"inputs": images(step)[part]})
        losses.append(float(distributed.reduce_mean(report.losses)["loss"]))
        state.step += 1
    return state, losses


def talk() -> dict[str, Any]:
    """Everything the processes tell one another."""
    rank = distributed.rank()
    said: dict[str, Any] = {}
    sizes = [b"x" * (rank * 1000), b"", json.dumps({"rank": rank}).encode()]
    said["bytes"] = [[part.decode() for part in distributed.gather_bytes(payload)] for payload in sizes]
    said["mean"] = {k: float(v) for k, v in distributed.reduce_mean({"a": torch.tensor(float(rank))}).items()}
    said["seed"] = distributed.broadcast_seed()
    said["given_seed"] = distributed.broadcast_seed(7 + rank)
    seed_everything(rank)
    states = capture_rng_of_all_ranks()
    said["rng_is_mine"] = torch.equal(states[rank]["torch"], torch.get_rng_state())
    said["rng_differs"] = not torch.equal(states[0]["torch"], states[1]["torch"])
    try:
        distributed.reduce_mean({f"loss_{rank}": torch.tensor(1.0)})
    except TrainingError as error:
        said["mismatch"] = str(error)
    order = Path(sys.argv[1]) / "order"
    with distributed.main_first(), order.open("a") as file:
        file.write(str(rank))
    distributed.barrier()
    said["order"] = order.read_text()
    return said


def main() -> None:
    """Join, train, talk, leave."""
    distributed.init_from_environment("pytorch", "gloo", timeout_minutes=1)
    rank = distributed.rank()
    result: dict[str, Any] = {"world_size": distributed.world_size(), "main": distributed.is_main(), **talk()}
    for accumulate in (1, 4):
        state, losses = train(accumulate, slice(2 * rank, 2 * rank + 2))
        result[f"losses_{accumulate}"] = losses
        weights = distributed.unwrap_model(state.model).state_dict()
        result[f"weights_{accumulate}"] = {name: value.flatten().tolist() for name, value in weights.items()}
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(result))
    print("done", rank)
    distributed.finish()
    raise AssertionError("finish() ends the process")


if __name__ == "__main__":
    main()
