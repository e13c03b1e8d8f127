"""Loss and backward of Faster R-CNN R50: what the detector adds to its bare network; torchvision's beside it.

    python benchmarks/two_stage_train.py                            # CPU, float32 and bfloat16
    python benchmarks/two_stage_train.py --only float32             # the goals' rows only
    python benchmarks/two_stage_train.py --rounds 1 --size 64 96    # does it run at all
    python benchmarks/two_stage_train.py --only 'detcore, float32' --rounds 2 --threads 1 --profile

The bare network is the same model's backbone, neck and RPN head on the images and its box head on random
features of as many regions as ours samples (512 an image), with the sum of all outputs for a loss. All get
the same normalised images and boxes, in turns, and ratios are taken within a round. torchvision's has the
same frozen layers, batch norm in evaluation mode, 2000 and 1000 proposals before and after suppression, 256
anchors and 512 regions an image; RoIAlign takes its own two samples a bin, ours as many as the region's size
asks for. Random weights propose next to no objects, so ``--near`` proposals of an image are replaced by
boxes near its ground truth, the same in both; how many sampled regions are positive is printed.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from side_by_side.batch import made_up_batch, targets_of
from side_by_side.busy import propose_truth
from side_by_side.models import FASTER_RCNN, BareTwoStage, our_model, pooled, torchvision_rcnn
from side_by_side.turns import Run, chosen, measure, parsed, parser_of, report, step, total
from torch import Tensor, nn

GOALS = {
    ("detcore, float32", "bare network, float32"): 1.15,
    ("detcore, float32", "torchvision, float32"): 0.8,
}


def sampled_regions(
    ours: Any, theirs: Any, inputs: Tensor, samples: list, targets: list
) -> dict[str, Tensor]:
    """``BoolTensor[N]`` of either side: which sampled regions are positive. Takes a step each."""
    seen: dict[str, Tensor] = {}

    def spy(name: str, positives: Callable[[Any], Tensor], function: Callable[..., Any]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            seen[name] = positives(result)
            return result

        return call

    def flags(sampled: list) -> Tensor:
        return torch.cat([torch.arange(each.num_pos + each.num_neg) < each.num_pos for each in sampled])

    ours.roi_head.sample_regions = spy("detcore", flags, ours.roi_head.sample_regions)
    choose = theirs.roi_heads.select_training_samples
    theirs.roi_heads.select_training_samples = spy("torchvision", lambda r: torch.cat(r[2]) > 0, choose)
    with torch.no_grad():
        ours(inputs, samples, mode="loss")
        theirs(list(inputs), targets)
    del ours.roi_head.sample_regions, theirs.roi_heads.select_training_samples
    return seen


def rows(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args)
    targets = targets_of(samples, first_label=1)
    ours = our_model(args.device, args.config).train()
    theirs = torchvision_rcnn(args.device, args.num_classes)
    last = our_model(args.device, args.config).train().to(memory_format=torch.channels_last)
    for model in (ours, last, theirs):
        propose_truth(model, samples, args.near)
    flags = sampled_regions(ours, theirs, inputs, samples, targets)
    counts = [f"{name} {len(each)}, {int(each.sum())} positive" for name, each in flags.items()]
    print(f"regions of a batch: {'; '.join(counts)}")
    number = len(flags["detcore"])

    def row(model: nn.Module, loss: Callable[[], Tensor], bf16: bool) -> Run:
        return step(model, loss, args.device, bf16)

    def bare(model: nn.Module, batch: Tensor) -> Callable[[], Tensor]:
        network, regions = BareTwoStage(model), pooled(model, number, args.device)
        return lambda: sum(output.sum(dtype=torch.float32) for output in network(batch, regions))

    def full(model: nn.Module, batch: Tensor) -> Callable[[], Tensor]:
        return lambda: total(model(batch, samples, mode="loss"))

    table: dict[str, Run] = {}
    inputs_last = inputs.to(memory_format=torch.channels_last)
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        table[f"bare network, {name}"] = row(ours, bare(ours, inputs), bf16)
        table[f"detcore, {name}"] = row(ours, full(ours, inputs), bf16)
        table[f"torchvision, {name}"] = row(theirs, lambda: total(theirs(list(inputs), targets)), bf16)
        table[f"bare network, {name}, channels_last"] = row(last, bare(last, inputs_last), bf16)
        table[f"detcore, {name}, channels_last"] = row(last, full(last, inputs_last), bf16)
    return table


def profile(table: dict[str, Run]) -> None:
    """Where the time of one step of each row goes, by operator."""
    for name, run in table.items():
        run()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            run()
        averages = found.key_averages()
        print(name)
        print(averages.table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60))


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, FASTER_RCNN, "a two-stage detector")
    parser.add_argument("--near", type=int, default=100, help="proposals near the ground truth")
    parser.add_argument("--profile", action="store_true", help="operators of one step instead of times")
    args = parsed(parser, argv)
    table = chosen(rows(args), args)
    if args.profile:
        profile(table)
        return
    pairs = list(GOALS)
    for precision in ("float32, channels_last", "bfloat16", "bfloat16, channels_last"):
        pairs.append((f"detcore, {precision}", f"bare network, {precision}"))
    pairs.append(("detcore, bfloat16", "torchvision, bfloat16"))
    report(measure(table, args), pairs, GOALS)


if __name__ == "__main__":
    main()
