"""Training throughput of Faster R-CNN R50 on a GPU, bfloat16 and channels last; torchvision's beside it.

    python benchmarks/gpu_two_stage.py                              # 800 x 1333, batch 16
    python benchmarks/gpu_two_stage.py --only detcore --rounds 10

Rows: either side, with and without `torch.compile`. A step is forward, backward and a fused SGD; images are
on the device, normalised and padded to 800 x 1344. Sides take turns, medians over rounds. Also how often the
host waits for the device in one step: warnings of `torch.cuda.set_sync_debug_mode`, each place once with its
count. Equal on both sides: see two_stage_train.py.
"""

import argparse
import collections
import statistics
import warnings
from collections.abc import Callable

import torch
from side_by_side.batch import made_up_batch, targets_of
from side_by_side.busy import propose_truth
from side_by_side.models import FASTER_RCNN, our_model, torchvision_rcnn
from side_by_side.turns import Run, chosen, measure, parsed, parser_of, report, total
from torch import Tensor, nn

PAIRS = [
    ("detcore", "torchvision"),
    ("detcore, compiled", "torchvision, compiled"),
    ("detcore, compiled", "detcore"),
]


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Run:
    optimiser = torch.optim.SGD(
        [each for each in model.parameters() if each.requires_grad],
        lr=1e-5,  # the weights are random and the images noise: nothing is to be learnt, nothing to blow up
        momentum=0.9,
        weight_decay=1e-4,
        fused=True,
    )

    def run() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return run


def rows(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    targets, images = targets_of(samples, first_label=1), list(inputs)
    table: dict[str, Run] = {}
    for suffix in ("", ", compiled"):
        ours = our_model(args.device, args.config).train().to(memory_format=torch.channels_last)
        theirs = torchvision_rcnn(args.device, args.num_classes).to(memory_format=torch.channels_last)
        for model in (ours, theirs):
            propose_truth(model, samples, args.near)
            if suffix:
                model.compile()

        def our_loss(model: nn.Module = ours) -> Tensor:
            return total(model(inputs, samples, mode="loss"))

        def their_loss(model: nn.Module = theirs) -> Tensor:
            return total(model(images, targets))

        table[f"detcore{suffix}"] = training_step(ours, our_loss)
        table[f"torchvision{suffix}"] = training_step(theirs, their_loss)
    return table


def waits(run: Run) -> collections.Counter:
    """Times that the host waits for the device in one step, by file and line."""
    for _ in range(3):  # compilation, caches
        run()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return collections.Counter(
        f"{each.filename}:{each.lineno}" for each in heard if "synchroniz" in str(each.message)
    )


def main(argv: list[str] | None = None) -> None:
    if not torch.cuda.is_available():
        print("there is no GPU: nothing is measured")
        return
    parser = parser_of(__doc__, FASTER_RCNN, "a two-stage detector")
    parser.set_defaults(device="cuda", batch=16, size=(800, 1344), rounds=20)
    parser.add_argument("--near", type=int, default=100, help="proposals near the ground truth")
    args = parsed(parser, argv)
    print(torch.cuda.get_device_name())
    table = chosen(rows(args), args)
    for name, run in table.items():
        places = waits(run)
        print(f"{name}: the host waits {places.total()} times in a step")
        for place, count in places.most_common():
            print(f"  {count:3} {place}")
    torch.cuda.reset_peak_memory_stats()
    seconds = measure(table, args)
    report(seconds, PAIRS)
    for name, values in seconds.items():
        print(f"{name:42} {args.batch / statistics.median(values):9.1f} images/s")
    print(f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GB, all of them together")


if __name__ == "__main__":
    main()
