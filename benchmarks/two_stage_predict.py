"""Faster R-CNN R50 from normalised images to boxes: its bare network and torchvision's beside it.

    python benchmarks/two_stage_predict.py                          # CPU, float32 and bfloat16
    python benchmarks/two_stage_predict.py --batch 1 --only float32
    python benchmarks/two_stage_predict.py --rounds 1 --size 64 96  # does it run at all

Weights are random, so the logits of each class are brought to mean 0 and deviation 2 over the proposals, and
the threshold is set so that ``--candidates`` scores an image exceed it, in either model: about a hundred
boxes are left after suppression, as many as both give at most; how many there were is printed. Both have 1000
proposals before and after suppression. The bare network is backbone, neck and RPN head on the images, and the
box head on random features of as many proposals.
"""

import argparse

import torch
from side_by_side.batch import made_up_batch
from side_by_side.busy import make_busy
from side_by_side.models import FASTER_RCNN, BareTwoStage, our_model, pooled, torchvision_rcnn
from side_by_side.turns import Run, chosen, measure, parsed, parser_of, report, without_grad

GOALS = {("detcore, float32", "torchvision, float32"): 0.95}


def rows(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args)
    ours = our_model(args.device, args.config).eval()
    theirs = torchvision_rcnn(args.device, args.num_classes).eval()
    images = list(inputs)

    def detcore() -> list:
        return ours(inputs, samples, mode="predict")

    def torchvision() -> list:
        return theirs(images)

    number = args.candidates * args.batch
    head, predictor = ours.roi_head, theirs.roi_heads.box_predictor
    head.test_cfg.score_thr = make_busy(head.bbox_head.fc_cls, detcore, number, range(args.num_classes))
    classes = range(1, args.num_classes + 1)
    theirs.roi_heads.score_thresh = make_busy(predictor.cls_score, torchvision, number, classes)
    regions = pooled(ours, args.batch * ours.rpn_head.test_cfg.max_per_img, args.device)
    bare = BareTwoStage(ours)
    table: dict[str, Run] = {}
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        table[f"bare network, {name}"] = without_grad(lambda: bare(inputs, regions), args.device, bf16)
        table[f"detcore, {name}"] = without_grad(detcore, args.device, bf16)
        table[f"torchvision, {name}"] = without_grad(torchvision, args.device, bf16)
    with torch.no_grad():
        found = [len(sample.pred_instances) for sample in detcore()]
        print(f"boxes found: detcore {found}, torchvision {[len(each['boxes']) for each in torchvision()]}")
    return table


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, FASTER_RCNN, "a two-stage detector")
    parser.add_argument("--candidates", type=int, default=300, help="scores an image above the threshold")
    args = parsed(parser, argv)
    seconds = measure(chosen(rows(args), args), args)
    pairs = list(GOALS)
    for precision in ("float32", "bfloat16"):
        pairs.append((f"detcore, {precision}", f"bare network, {precision}"))
    pairs.append(("detcore, bfloat16", "torchvision, bfloat16"))
    report(seconds, pairs, GOALS)


if __name__ == "__main__":
    main()
