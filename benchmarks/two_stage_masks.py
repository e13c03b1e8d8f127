"""Mask R-CNN R50 with 100 instances in an image of 1200 x 2000: time and peak memory, and torchvision's.

    python benchmarks/two_stage_masks.py                            # CPU, Linux: minutes
    python benchmarks/two_stage_masks.py --rounds 1 --size 128 192 --original 256 384

`predict` goes from the normalised image (800 x 1344) to masks of the original's size; `masks` is its last
part alone, from feature maps and boxes on. Ours gives booleans; torchvision's gives probabilities, and a
threshold on them, which would take more time and memory, is left out. Weights are random and made to find a
hundred objects, see two_stage_predict.py. Memory is what a process of its own grows by at its peak over what
it held when the call began.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from side_by_side.batch import made_up_batch
from side_by_side.busy import make_busy
from side_by_side.models import MASK_RCNN, our_model, torchvision_rcnn
from side_by_side.turns import Run, chosen, measure, parsed, parser_of, report, without_grad
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference

from detcore.data.memory import return_freed_memory

WAYS = ("detcore, predict", "torchvision, predict", "detcore, masks", "torchvision, masks")
PAIRS = [("detcore, predict", "torchvision, predict"), ("detcore, masks", "torchvision, masks")]
GOALS = dict.fromkeys(PAIRS, 1.0)


def detcore_ways(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args, tuple(args.original))
    model: Any = our_model(args.device, args.config).eval()
    metas = [sample.metainfo for sample in samples]

    def predict() -> list:
        return model(inputs, samples, mode="predict")

    number, head = args.candidates * args.batch, model.roi_head
    head.test_cfg.score_thr = make_busy(head.bbox_head.fc_cls, predict, number, range(args.num_classes))
    with torch.no_grad():
        features = model.extract_feat(inputs)
        proposals = model.rpn_head.predict(features, samples, rescale=False)
        boxes = head.predict_bbox(features, metas, proposals, head.test_cfg)
    return {
        "detcore, predict": predict,
        "detcore, masks": lambda: head.predict_mask(features, metas, boxes, rescale=True),
    }


def torchvision_ways(args: argparse.Namespace) -> dict[str, Run]:
    inputs, _ = made_up_batch(args)
    original = tuple(args.original)
    model: Any = torchvision_rcnn(args.device, args.num_classes, masks=True, original=original).eval()
    head, images, sizes = model.roi_heads, list(inputs), [tuple(args.size)] * args.batch

    def predict() -> list:
        return model(images)

    number, classes = args.candidates * args.batch, range(1, args.num_classes + 1)
    head.score_thresh = make_busy(head.box_predictor.cls_score, predict, number, classes)
    with torch.no_grad():
        features = model.backbone(inputs)
        proposals, _ = model.rpn(ImageList(inputs, sizes), features)
        found, _ = head(features, proposals, sizes)
    boxes, labels = [each["boxes"] for each in found], [each["labels"] for each in found]
    del found

    def masks() -> list:
        logits = head.mask_predictor(head.mask_head(head.mask_roi_pool(features, boxes, sizes)))
        probabilities = maskrcnn_inference(logits, labels)
        results = [{"boxes": b, "masks": m} for b, m in zip(boxes, probabilities, strict=True)]
        return model.transform.postprocess(results, sizes, sizes)

    return {"torchvision, predict": predict, "torchvision, masks": masks}


def rows(args: argparse.Namespace, side: str = "") -> dict[str, Run]:
    sides = {"detcore": detcore_ways, "torchvision": torchvision_ways}
    ways: dict[str, Run] = {}
    for name, make in sides.items():
        if side in ("", name):
            ways.update(make(args))
    return {name: without_grad(ways[name], args.device, bf16=False) for name in WAYS if name in ways}


def instances(result: Any) -> list[int]:
    """Number of masks of each image."""
    return [len(each["masks"] if isinstance(each, dict) else each.pred_instances) for each in result]


def kilobytes(entry: str) -> int:
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index(entry) + 1])


def peak_of(run: Run) -> float:
    """Megabytes that this process grows by at most, over what it holds now."""
    return_freed_memory()
    before = kilobytes("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    kept = run()
    peak = kilobytes("VmHWM:")
    del kept
    return (peak - before) / 1024


def peak_in_a_process(name: str, argv: list[str]) -> float:
    command = [sys.executable, __file__, *argv, "--way", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = parser_of(__doc__, MASK_RCNN, "a Mask R-CNN")
    parser.set_defaults(batch=1, size=(800, 1344), rounds=3)
    parser.add_argument("--original", type=int, nargs=2, default=(1200, 2000), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--candidates", type=int, default=300, help="scores an image above the threshold")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parsed(parser, argv)
    if args.way:
        print(peak_of(rows(args, args.way.split(",")[0])[args.way]))
        return
    table = chosen(rows(args), args)
    for name, way in table.items():
        if "predict" in name:
            print(f"{name}: {instances(way())} instances")
    seconds = measure(table, args)
    report(seconds, PAIRS, GOALS)
    del table
    megabytes = {name: peak_in_a_process(name, argv) for name in seconds}
    for name, value in megabytes.items():
        print(f"{name:42} {value:9.1f} MB at the peak")
    for one, other in PAIRS:
        if one in megabytes and other in megabytes:
            print(f"{one} / {other}: {megabytes[one] / megabytes[other]:.3f}   goal: at most 1.00")


if __name__ == "__main__":
    main()
