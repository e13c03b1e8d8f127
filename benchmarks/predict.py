"""RetinaNet R50 from normalised images to boxes: what the detector adds to its bare network; torchvision too.

    python benchmarks/predict.py                                    # CPU, float32 and bfloat16
    python benchmarks/predict.py --device cuda --batch 16 --size 800 1344
    python benchmarks/predict.py --rounds 1 --size 64 96            # does it run at all

Weights are random, so the last layer's biases are shifted until one score in ``--candidates`` exceeds the
threshold of 0.05 in either model, as many as a trained one gives on a busy picture.
"""

import argparse
import copy
import math
from collections.abc import Callable

import torch
from side_by_side.batch import made_up_batch
from side_by_side.models import RETINANET, our_model, torchvision_retinanet
from side_by_side.turns import Run, chosen, measure, parsed, parser_of, report, without_grad
from torch import Tensor, nn


@torch.no_grad()
def busy(layer: nn.Conv2d, logits: Callable[[], list[Tensor]], share: float) -> None:
    """Shift the biases so that ``share`` of all scores is above 0.05."""
    flat = torch.cat([each.float().flatten() for each in logits()])
    bound = flat.topk(max(1, int(share * flat.numel()))).values[-1]
    layer.bias += math.log(0.05 / 0.95) - float(bound)


def rows(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args)
    ours = our_model(args.device, args.config).eval()
    theirs = torchvision_retinanet(args.device, args.num_classes).eval()
    images, share = list(inputs), 1 / args.candidates
    with torch.no_grad():
        for module in (ours.bbox_head.retina_cls, theirs.head.classification_head.cls_logits):
            module.weight *= 10
    busy(ours.bbox_head.retina_cls, lambda: ours(inputs)[0], share)
    features = list(theirs.backbone(inputs).values())
    busy(
        theirs.head.classification_head.cls_logits,
        lambda: [theirs.head.classification_head(features)],
        share,
    )
    last = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    inputs_last = inputs.to(memory_format=torch.channels_last)

    def no_grad(call: Run, bf16: bool) -> Run:
        return without_grad(call, args.device, bf16)

    table: dict[str, Run] = {}
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        table[f"bare network, {name}"] = no_grad(lambda: ours(inputs), bf16)
        table[f"detcore, {name}"] = no_grad(lambda: ours(inputs, samples, mode="predict"), bf16)
        table[f"torchvision, {name}"] = no_grad(lambda: theirs(images), bf16)
        table[f"bare network, {name}, channels_last"] = no_grad(lambda: last(inputs_last), bf16)
        table[f"detcore, {name}, channels_last"] = no_grad(
            lambda: last(inputs_last, samples, mode="predict"), bf16
        )
    with torch.no_grad():
        found = [len(sample.pred_instances) for sample in ours(inputs, samples, mode="predict")]
        print(f"boxes found: detcore {found}, torchvision {[len(each['boxes']) for each in theirs(images)]}")
    return table


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, RETINANET)
    parser.add_argument("--candidates", type=int, default=5000, help="scores for one above the threshold")
    args = parsed(parser, argv)
    seconds = measure(chosen(rows(args), args), args)
    pairs = []
    for precision in ("float32", "bfloat16"):
        pairs += [
            (f"detcore, {precision}", f"bare network, {precision}"),
            (f"detcore, {precision}", f"torchvision, {precision}"),
            (f"detcore, {precision}, channels_last", f"bare network, {precision}, channels_last"),
        ]
    report(seconds, pairs)


if __name__ == "__main__":
    main()
