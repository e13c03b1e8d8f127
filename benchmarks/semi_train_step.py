"""Loss and backward of Soft Teacher: what it adds to its bare networks.

    python benchmarks/semi_train_step.py                            # CPU, float32 and bfloat16
    python benchmarks/semi_train_step.py --only float32             # the goal's rows only
    python benchmarks/semi_train_step.py --rounds 1 --size 64 96    # does it run at all

The bare networks are backbone, neck and RPN head of the same model, of the student on the labelled images and
on its view of the unlabelled ones, with their gradients, and of the teacher on its view, without; and the box
heads on random features of regions: of the teacher as many as it puts through them (its proposals, its boxes
moved about, the student's regions), of the student the regions that the method samples, for labelled images,
for classes and for boxes. For boxes ours looks at the positives among them only, since no other has a box to
learn; "our regions" are the networks on as many. Random weights find nothing, so the teacher's
last layer is scaled until ``--boxes`` boxes an image are above its threshold, and proposals of labelled
images are replaced by boxes near the ground truth.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from side_by_side.batch import made_up_batch
from side_by_side.busy import make_busy, propose_truth
from side_by_side.models import CONFIGS, BareTwoStage, pooled
from side_by_side.turns import Run, chosen, measure, parsed, parser_of, report, step
from torch import Tensor

from detcore.config import Config
from detcore.registry import MODELS
from detcore.structures import DetDataSample

CONFIG = CONFIGS / "soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"
GOALS = {("detcore, float32", "bare networks, float32"): 1.10}


def our_model(args: argparse.Namespace) -> Any:
    """The config's detector with random weights."""
    cfg = Config.fromfile(args.config).model
    cfg.detector.backbone.init_cfg = None
    model = MODELS.build(cfg)
    model.init_weights()
    return model.to(args.device).train()


def views(samples: list[DetDataSample], *, mirrored: bool) -> list[DetDataSample]:
    """The images as unlabelled ones, seen as they are or in a mirror."""
    found = []
    for sample in samples:
        width = sample.metainfo["img_shape"][1]
        matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
        found.append(DetDataSample(metainfo={**sample.metainfo, "homography_matrix": matrix}))
    return found


def wake(model: Any, inputs: Tensor, samples: list[DetDataSample], boxes: int) -> None:
    """Let the teacher find about so many boxes an image, all of them certain enough."""
    head = model.teacher.roi_head.bbox_head
    classes = range(head.num_classes)

    def predict() -> object:
        return model.teacher.predict(inputs, views(samples, mirrored=True), rescale=False)

    threshold = make_busy(head.fc_cls, predict, boxes * len(samples), classes)
    cfg = model.semi_train_cfg
    cfg.pseudo_label_initial_score_thr = cfg.rpn_pseudo_thr = cfg.cls_pseudo_thr = threshold
    cfg.reg_pseudo_thr = 1e9


def regions_of(model: Any, call: Callable[[], Tensor]) -> dict[str, list[int]]:
    """How many regions either network puts through its box head in a step, call by call."""
    seen: dict[str, list[int]] = {"student": [], "teacher": []}
    hooks = [
        getattr(model, part).roi_head.bbox_head.register_forward_hook(
            lambda module, inputs, output, part=part: seen[part].append(len(inputs[0]))
        )
        for part in seen
    ]
    call()
    for hook in hooks:
        hook.remove()
    return seen


def rows(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args)
    model = our_model(args)
    wake(model, inputs, samples, args.boxes)
    batch = {"sup": inputs, "unsup_teacher": inputs.flip(-1), "unsup_student": inputs}
    propose_truth(model.student, samples, 100)

    def full() -> Tensor:
        known = {
            "sup": samples,
            "unsup_teacher": views(samples, mirrored=True),
            "unsup_student": views(samples, mirrored=False),
        }
        losses = model(batch, known, mode="loss")
        values = [value for name, value in losses.items() if "loss" in name]
        return sum(part for value in values for part in (value if isinstance(value, list) else [value]))

    counts = regions_of(model, full)
    labelled, classes, boxes = counts["student"]
    print(f"regions: student {labelled} labelled, {classes} for classes, {boxes} of them for boxes; ", end="")
    print(f"teacher {counts['teacher']}")
    teachers = sum(counts["teacher"])
    bare = bare_networks(model, batch, (labelled, 2 * classes, teachers), args.device)
    fewer = bare_networks(model, batch, (labelled, classes + boxes, teachers), args.device)
    table: dict[str, Run] = {}
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        table[f"bare networks, {name}"] = step(model, bare, args.device, bf16)
        table[f"bare networks, our regions, {name}"] = step(model, fewer, args.device, bf16)
        table[f"detcore, {name}"] = step(model, full, args.device, bf16)
    return table


def bare_networks(
    model: Any, batch: dict[str, Tensor], counts: tuple[int, int, int], device: str
) -> Callable[[], Tensor]:
    """The sum of all outputs of the student on both of its batches; the teacher's are thrown away.

    ``counts`` are regions: the student's of labelled and of unlabelled images, and the teacher's.
    """
    student, teacher = BareTwoStage(model.student), BareTwoStage(model.teacher)
    *of_student, of_teacher = (
        pooled(part, number, device)
        for part, number in zip((model.student, model.student, model.teacher), counts, strict=True)
    )

    def run() -> Tensor:
        with torch.no_grad():
            teacher(batch["unsup_teacher"], of_teacher)
        outputs = [*student(batch["sup"], of_student[0]), *student(batch["unsup_student"], of_student[1])]
        return sum(output.sum(dtype=torch.float32) for output in outputs)

    return run


def main(argv: list[str] | None = None) -> None:
    args = parsed(parser_of(__doc__, CONFIG, "Soft Teacher"), argv)
    report(
        measure(chosen(rows(args), args), args),
        [
            *GOALS,
            ("detcore, float32", "bare networks, our regions, float32"),
            ("detcore, bfloat16", "bare networks, bfloat16"),
        ],
        GOALS,
    )


if __name__ == "__main__":
    main()
