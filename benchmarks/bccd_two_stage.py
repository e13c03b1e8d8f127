"""torchvision's Faster R-CNN with a ResNet-18 trained on BCCD as our config trains ours, to compare AP.

    python benchmarks/bccd_two_stage.py --seed 0                    # trains torchvision's
    python benchmarks/bccd_two_stage.py --seed 0 --ours             # ours, the same as `detcore run`
    python benchmarks/bccd_two_stage.py --seed 0 --epochs 1 --float32

The photographs lie in `bccd/` below the folder in $DETCORE_DATA. Data, augmentation, batches, optimiser,
schedule, precision and evaluation are those of the config and go through our engine in both; of the network,
torchvision's gets what its arguments allow: width, anchors, numbers of anchors, proposals and regions,
thresholds. Its losses, box coding, matching of anchors, samples a bin and initial weights are its own. Both
start from random weights, and batch norm is in training mode. At the end one line of JSON: AP, AP50, and the
seconds of training with one evaluation.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList

from detcore.config import Config
from detcore.engine.runner import Runner
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData

CONFIG = Path(__file__).parents[1] / "configs/bccd/faster-rcnn_r18_fpn_bccd.py"


def torchvision_arguments(model: Any) -> dict[str, Any]:
    """What torchvision's detector is told, out of the config of ours."""
    train, test, head = model.train_cfg, model.test_cfg, model.roi_head.bbox_head
    anchors = model.rpn_head.anchor_generator
    return {
        "width": model.neck.out_channels,
        "hidden": head.fc_out_channels,
        "num_classes": head.num_classes,
        "sizes": [[scale * stride for scale in anchors.scales] for stride in anchors.strides],
        "ratios": list(anchors.ratios),
        "limits": {
            "rpn_pre_nms_top_n_train": train.rpn_proposal.nms_pre,
            "rpn_post_nms_top_n_train": train.rpn_proposal.max_per_img,
            "rpn_pre_nms_top_n_test": test.rpn.nms_pre,
            "rpn_post_nms_top_n_test": test.rpn.max_per_img,
            "rpn_nms_thresh": test.rpn.nms.iou_threshold,
            "rpn_fg_iou_thresh": train.rpn.assigner.pos_iou_thr,
            "rpn_bg_iou_thresh": train.rpn.assigner.neg_iou_thr,
            "rpn_batch_size_per_image": train.rpn.sampler.num,
            "rpn_positive_fraction": train.rpn.sampler.pos_fraction,
            "box_fg_iou_thresh": train.rcnn.assigner.pos_iou_thr,
            "box_bg_iou_thresh": train.rcnn.assigner.neg_iou_thr,
            "box_batch_size_per_image": train.rcnn.sampler.num,
            "box_positive_fraction": train.rcnn.sampler.pos_fraction,
            "box_score_thresh": test.rcnn.score_thr,
            "box_nms_thresh": test.rcnn.nms.iou_threshold,
            "box_detections_per_img": test.rcnn.max_per_img,
        },
    }


def _in_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """torchvision reckons boxes in the type of its layers' outputs; in bfloat16 they would be pixels off."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return {name: _in_float32(module, inputs, each) for name, each in outputs.items()}
    return type(outputs)(_in_float32(module, inputs, each) for each in outputs)


@MODELS.register_module()
class TorchvisionFasterRCNN(nn.Module):
    """torchvision's detector with the entries that our engine calls."""

    def __init__(
        self,
        data_preprocessor: nn.Module,
        width: int,
        hidden: int,
        num_classes: int,
        sizes: list[list[int]],
        ratios: list[float],
        limits: dict[str, float],
    ) -> None:
        super().__init__()
        self.data_preprocessor = data_preprocessor
        layers = {f"layer{number + 1}": str(number) for number in range(4)}
        backbone = BackboneWithFPN(resnet18(weights=None), layers, [64, 128, 256, 512], width)
        self.net = FasterRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes)),
            box_head=TwoMLPHead(width * 7 * 7, hidden),
            box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
            **limits,
        )
        for module in (backbone, self.net.rpn.head, self.net.roi_heads.box_predictor):
            module.register_forward_hook(_in_float32)

    def forward(self, inputs: Tensor, data_samples: list[DetDataSample], mode: str) -> Any:
        targets = (
            None
            if mode == "predict"
            else [
                {"boxes": each.gt_instances.bboxes, "labels": each.gt_instances.labels + 1}
                for each in data_samples
            ]
        )
        inputs = inputs.contiguous(memory_format=torch.channels_last)  # as ours does
        images = ImageList(inputs, [tuple(each.img_shape[:2]) for each in data_samples])
        features = self.net.backbone(inputs)
        proposals, first = self.net.rpn(images, features, targets)
        found, second = self.net.roi_heads(features, proposals, images.image_sizes, targets)
        return {**first, **second} if mode == "loss" else self._samples(found, data_samples)

    def _samples(self, found: list[dict[str, Tensor]], samples: list[DetDataSample]) -> list[DetDataSample]:
        """Predictions in pixels of the original images, classes from 0."""
        for each, sample in zip(found, samples, strict=True):
            boxes = each["boxes"] / each["boxes"].new_tensor(sample.scale_factor).repeat(2)
            sample.pred_instances = InstanceData(
                bboxes=boxes, scores=each["scores"], labels=each["labels"] - 1
            )
        return samples

    def val_step(self, data: dict[str, Any]) -> list[DetDataSample]:
        return self(**self.data_preprocessor(data, False), mode="predict")

    test_step = val_step


def settings(args: argparse.Namespace, work_dir: str) -> Config:
    """The config as it is to run: epochs, seed, precision, and torchvision's network in place of ours."""
    options = {} if args.epochs is None else {"max_epochs": args.epochs}
    cfg = Config.fromfile(args.config, cfg_options=options)
    cfg.work_dir, cfg.randomness = work_dir, {"seed": args.seed}
    cfg.train_cfg.val_interval = cfg.max_epochs
    if args.amp:
        cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16")
    elif args.float32:
        cfg.optim_wrapper.type = "OptimWrapper"
        cfg.optim_wrapper.pop("dtype", None)
    if not args.ours:
        given = torchvision_arguments(cfg.model)
        preprocessor = cfg.model.data_preprocessor
        cfg.model = {"type": "TorchvisionFasterRCNN", "data_preprocessor": preprocessor, **given}
    return cfg


def main(argv: list[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seed", type=int, help="train, with this seed")
    parser.add_argument("--epochs", type=int, help="as in the config where left out")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--ours", action="store_true", help="train the config's own detector")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--amp", action="store_true", help="bfloat16, whatever the config says")
    precision.add_argument("--float32", action="store_true", help="float32, whatever the config says")
    args = parser.parse_args(argv)
    if args.seed is None:
        print("trains for minutes or more, so only where asked: give --seed")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as work_dir:
        cfg = settings(args, work_dir)
        truth = Path(cfg.train_dataloader.dataset.data_root) / "annotations"
        if not truth.is_dir():
            print(f"{truth} is missing: set DETCORE_DATA to the folder that holds bccd/")
            return
        runner = Runner(cfg)
        start = time.perf_counter()
        runner.train()
        seconds = time.perf_counter() - start
        records = [json.loads(line) for line in (Path(work_dir) / "log.jsonl").read_text().splitlines()]
    found = [record for record in records if record["mode"] == "val"][-1]
    figures = {"AP": found["coco/bbox_mAP"], "AP50": found["coco/bbox_mAP_50"], "seconds": round(seconds, 1)}
    side = "detcore" if args.ours else "torchvision"
    print(json.dumps({"detector": side, "seed": args.seed, "epochs": cfg.max_epochs, **figures}))


if __name__ == "__main__":
    main()
