"""RTMDet-tiny and YOLOX-S: what the detectors add to their bare networks, predicting and training.

    python benchmarks/real_time.py                                  # 640x640, CPU, float32
    python benchmarks/real_time.py --rounds 1 --size 64 96 --train-batch 2    # does it run at all

The bare network is the same model's backbone, neck and head convolutions; in training with the sum of all
outputs for a loss. Prediction is of one image. Weights are random, so the classes' last layers are scaled and
shifted until one score in ``--candidates`` exceeds the config's threshold.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from side_by_side.batch import made_up_batch
from side_by_side.models import CONFIGS, our_model
from side_by_side.turns import (
    Pair,
    Run,
    chosen,
    measure,
    parsed,
    parser_of,
    report,
    step,
    total,
    without_grad,
)
from torch import Tensor, nn

MODELS = {
    "RTMDet-tiny": CONFIGS / "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "YOLOX-S": CONFIGS / "yolox/yolox_s_8xb8-300e_coco.py",
}
GOAL = 1.10
ROWS = [("bare network, predict", "detcore, predict"), ("bare network, training", "detcore, training")]


@torch.no_grad()
def busy(model: nn.Module, inputs: Tensor, candidates: int) -> None:
    """Give classes' logits a deviation of 1, and let one score in ``candidates`` be above the threshold."""
    head = model.bbox_head
    layers = head.multi_level_conv_cls if hasattr(head, "multi_level_conv_cls") else head.rtm_cls
    deviation = torch.cat([level.flatten() for level in model(inputs)[0]]).std()
    for layer in layers:
        layer.weight /= deviation  # random weights give all places nearly the same score
    scores, *others = model(inputs)
    if len(others) > 1:  # a score is that of the class times that of there being an object
        for layer in head.multi_level_conv_obj:
            layer.bias.zero_()
    for layer in getattr(head, "rtm_reg", ()):
        layer.bias += 3  # distances in strides; below 0 there is no box
    threshold = torch.tensor(head.test_cfg.score_thr * (2 if len(others) > 1 else 1))
    flat = torch.cat([level.flatten() for level in scores])
    bound = flat.topk(max(1, len(flat) // candidates)).values[-1]
    for layer in layers:
        layer.bias += torch.logit(threshold) - bound


def rows(name: str, args: argparse.Namespace) -> dict[str, Run]:
    model = our_model(args.device, MODELS[name]).eval()
    image, (sample, *_) = made_up_batch(argparse.Namespace(**{**vars(args), "batch": 1}))
    batch, samples = made_up_batch(argparse.Namespace(**{**vars(args), "batch": args.train_batch}))
    # Of its own: training moves the batch norms' means, and with them how many scores pass the threshold.
    trained = copy.deepcopy(model).train()
    busy(model, image, args.candidates)
    with torch.no_grad():
        found = len(model(image, [sample], mode="predict")[0].pred_instances)
    print(f"{name}: {found} boxes found")

    def summed() -> Tensor:
        return sum(level.sum() for levels in trained(batch) for level in levels)

    def training(loss: Callable[[], Tensor]) -> Run:
        return step(trained, loss, args.device, bf16=False)

    def prediction(call: Run) -> Run:
        return without_grad(call, args.device, bf16=False)

    return {
        f"{name}, bare network, predict": prediction(lambda: model(image)),
        f"{name}, detcore, predict": prediction(lambda: model(image, [sample], mode="predict")),
        f"{name}, bare network, training": training(summed),
        f"{name}, detcore, training": training(lambda: total(trained(batch, samples, mode="loss"))),
    }


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, MODELS["RTMDet-tiny"])
    parser.set_defaults(size=(640, 640), batch=1)
    parser.add_argument("--candidates", type=int, default=200, help="scores for one above the threshold")
    parser.add_argument("--train-batch", type=int, default=4, help="images of a training step")
    args = parsed(parser, argv)
    table = {row: run for name in MODELS for row, run in rows(name, args).items()}
    pairs: list[Pair] = [(f"{name}, {one}", f"{name}, {other}") for name in MODELS for other, one in ROWS]
    report(measure(chosen(table, args), args), pairs, dict.fromkeys(pairs, GOAL))


if __name__ == "__main__":
    main()
