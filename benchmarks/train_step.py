"""Loss and backward of RetinaNet R50: what the detector adds to its bare network; torchvision's beside it.

    python benchmarks/train_step.py                                 # CPU, float32 and bfloat16
    python benchmarks/train_step.py --device cuda --batch 16 --size 800 1344
    python benchmarks/train_step.py --rounds 1 --size 64 96         # does it run at all
    python benchmarks/train_step.py --batch 8 --size 240 320 --config configs/bccd/...efficientnet-b0...py

The bare network is the same model's backbone, neck and head convolutions, with the sum of all outputs for a
loss. All get the same normalised images and boxes, in turns, and ratios are taken within a round: what else
the machine does then falls on all of them.
"""

import argparse
from collections.abc import Callable

import torch
from side_by_side.batch import made_up_batch, targets_of
from side_by_side.models import RETINANET, our_model, torchvision_retinanet
from side_by_side.turns import Run, chosen, measure, parsed, parser_of, report, step, total
from torch import Tensor, nn


def rows(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args)
    ours = our_model(args.device, args.config).train()
    last = our_model(args.device, args.config).train().to(memory_format=torch.channels_last)
    theirs = torchvision_retinanet(args.device, args.num_classes)
    images = list(inputs)
    targets = targets_of(samples)

    def row(model: nn.Module, loss: Callable[[], Tensor], bf16: bool) -> Run:
        return step(model, loss, args.device, bf16)

    def bare(model: nn.Module, batch: Tensor) -> Callable[[], Tensor]:
        return lambda: sum(level.sum(dtype=torch.float32) for levels in model(batch) for level in levels)

    def full(model: nn.Module, batch: Tensor) -> Callable[[], Tensor]:
        return lambda: total(model(batch, samples, mode="loss"))

    table: dict[str, Run] = {}
    inputs_last = inputs.to(memory_format=torch.channels_last)
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        table[f"bare network, {name}"] = row(ours, bare(ours, inputs), bf16)
        table[f"detcore, {name}"] = row(ours, full(ours, inputs), bf16)
        table[f"torchvision, {name}"] = row(theirs, lambda: total(theirs(images, targets)), bf16)
        table[f"bare network, {name}, channels_last"] = row(last, bare(last, inputs_last), bf16)
        table[f"detcore, {name}, channels_last"] = row(last, full(last, inputs_last), bf16)
    return table


def main(argv: list[str] | None = None) -> None:
    args = parsed(parser_of(__doc__, RETINANET), argv)
    seconds = measure(chosen(rows(args), args), args)
    report(
        seconds,
        [
            ("detcore, float32", "bare network, float32"),
            ("detcore, float32", "torchvision, float32"),
            ("detcore, float32, channels_last", "bare network, float32, channels_last"),
            ("detcore, bfloat16", "bare network, bfloat16"),
            ("detcore, bfloat16", "torchvision, bfloat16"),
            ("detcore, bfloat16, channels_last", "bare network, bfloat16, channels_last"),
            ("detcore, float32", "detcore, bfloat16"),
            ("detcore, float32", "detcore, bfloat16, channels_last"),
        ],
    )


if __name__ == "__main__":
    main()
