"""Figures of pseudo labels: numbers, shares, agreement, precision and recall, warnings."""

import json
import logging

import pytest
import torch
from torch import nn

from det_semi.health import PseudoLabelHealth, TeacherWatch, evaluation_mode
from det_semi.pseudo_labels import above
from det_semi.truth import UnlabeledTruth, matches
from detcore.errors import ConfigError, DataError
from detcore.structures import DetDataSample, InstanceData


def instances(boxes, labels=None, scores=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return InstanceData(
        bboxes=boxes,
        labels=torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.long),
        scores=torch.tensor(scores if scores is not None else [1.0] * len(boxes)),
    )


def sample(found, image=0):
    made = DetDataSample(metainfo={"img_id": image, "img_path": f"{image}.jpg"})
    made.gt_instances = found
    return made


BOX = [0.0, 0, 10, 10]
FAR = [50.0, 50, 60, 60]


def test_boxes_images_and_shares_are_counted():
    pseudo = [
        sample(instances([BOX, FAR, BOX], [0, 2, 2], [0.95, 0.92, 0.5])),
        sample(instances([BOX], [1], [0.6])),
    ]
    health = PseudoLabelHealth(("a", "b", "c"))
    got = health.counts([sample(instances([BOX]))], pseudo, 0.9, {"cls": above(0.9), "rpn": above(0.55)})
    assert {name: float(value) for name, value in got.items()} == pytest.approx(
        {
            "pseudo_per_image": 1.0,
            "pseudo_empty_images": 0.5,
            "pseudo_kept_cls": 0.5,
            "pseudo_kept_rpn": 0.75,
            "pseudo_per_image/a": 0.5,
            "pseudo_per_image/b": 0.0,
            "pseudo_per_image/c": 0.5,
        }
    )


@pytest.mark.parametrize(
    ("found", "wanted", "right"),
    [
        (instances([BOX]), instances([BOX]), 1),
        (instances([BOX], [1]), instances([BOX], [0]), 0),  # another class
        (instances([BOX, BOX]), instances([BOX]), 1),  # no box serves twice
        (instances([[0, 0, 10, 4.9]]), instances([BOX]), 0),  # overlaps too little
        (instances([[0, 0, 10, 5]]), instances([BOX]), 1),
        (instances([]), instances([BOX]), 0),
        (instances([BOX]), instances([]), 0),
        # The better score chooses first, its best partner.
        (instances([[0, 0, 10, 8], BOX], scores=[0.5, 0.9]), instances([BOX, [0, 0, 10, 7]]), 2),
    ],
)
def test_partners_are_counted_once(found, wanted, right):
    assert matches(found, wanted) == right


class Answers(nn.Module):
    """A network that finds what it is told to."""

    def __init__(self, found):
        super().__init__()
        self.found = found
        self.norm = nn.BatchNorm2d(1)
        self.modes = []

    def predict(self, view, samples, rescale):
        self.modes.append((self.training, self.norm.training))
        for each, found in zip(samples, self.found, strict=True):
            each.pred_instances = found
        return samples


def test_agreement_is_the_share_of_common_boxes():
    pseudo = [sample(instances([BOX, FAR], scores=[0.9, 0.2])), sample(instances([]))]
    student = Answers([instances([BOX, FAR], scores=[0.9, 0.8]), instances([])])
    student.train()
    student.norm.eval()  # a frozen norm must not thaw
    got = PseudoLabelHealth().agreement(student, torch.zeros(2, 3, 8, 8), pseudo, 0.5)
    assert float(got["pseudo_agreement"]) == pytest.approx(2 / 3)  # one of three boxes has no partner
    assert student.modes == [(False, False)]
    assert student.training
    assert not student.norm.training
    with evaluation_mode(student):
        assert not student.training


def test_agreement_is_looked_at_now_and_then():
    step = [0]
    health = PseudoLabelHealth(step=lambda: step[0])
    due = []
    for step[0] in range(120):
        due.append(health.is_agreement_due)
    assert [number for number, each in enumerate(due) if each] == [0, 50, 100]
    assert not PseudoLabelHealth().is_agreement_due


def coco(folder, categories=("a", "b"), boxes=(BOX, FAR)):
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 100, "height": 100}],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(categories)],
        "annotations": [
            {
                "id": number, "image_id": 7, "category_id": number % len(categories) + 1, "iscrowd": 0,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": (box[2] - box[0]) * (box[3] - box[1]),
            }
            for number, box in enumerate(boxes)
        ],
    }  # fmt: skip
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


def test_precision_and_recall_are_those_of_the_truth(tmp_path):
    truth = UnlabeledTruth(str(coco(tmp_path)), ("a", "b"))
    health = PseudoLabelHealth(("a", "b"), truth)
    found = [sample(instances([BOX, [0, 50, 9, 60], FAR], [0, 0, 0]), image=7)]
    got = health.against_truth(found, 0.5)
    assert float(got["pseudo_precision"]) == pytest.approx(1 / 3)
    assert float(got["pseudo_recall"]) == pytest.approx(1 / 2)
    nothing = health.against_truth([sample(instances([]), image=7)], 0.5)
    assert (float(nothing["pseudo_precision"]), float(nothing["pseudo_recall"])) == (0.0, 0.0)
    assert PseudoLabelHealth().against_truth(found, 0.5) == {}


def test_labels_follow_the_detectors_classes_not_the_files_order(tmp_path):
    truth = UnlabeledTruth(str(coco(tmp_path)), ("b", "a"))
    assert truth.of(sample(instances([]), image=7)).labels.tolist() == [1, 0]


def test_a_truth_may_be_a_data_set_too(tmp_path):
    path = coco(tmp_path)
    cfg = {
        "type": "CocoDataset", "ann_file": str(path), "metainfo": {"classes": ("a", "b")}, "test_mode": True
    }  # fmt: skip
    assert len(UnlabeledTruth(cfg, None).of(sample(instances([]), image=7))) == 2


def test_a_truth_that_cannot_be_used_is_named(tmp_path):
    path = coco(tmp_path)
    with pytest.raises(ConfigError, match="classes"):
        UnlabeledTruth(str(path), None)
    with pytest.raises(ConfigError, match="int"):
        UnlabeledTruth(3, ("a",))
    with pytest.raises(DataError, match=r"no image 8 \(8\.jpg\)"):
        UnlabeledTruth(str(path), ("a", "b")).of(sample(instances([]), image=8))
    with pytest.raises(Exception, match=r"missing\.json"):
        UnlabeledTruth(str(tmp_path / "missing.json"), ("a",))


@pytest.mark.parametrize(("boxes", "word"), [(0, "silent"), (30, "flooding"), (9, "")])
def test_a_silent_or_flooding_teacher_is_warned_of_once(boxes, word, caplog):
    watch = TeacherWatch(window=5)
    with caplog.at_level(logging.INFO):
        for _ in range(20):
            watch.see(labelled=1, labels=10, images=1, boxes=boxes, threshold=0.9)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (1 if word else 0)
    if word:
        assert word in warnings[0].message
        assert "cls_pseudo_thr=0.9" in warnings[0].message
        for _ in range(5):
            watch.see(labelled=1, labels=10, images=1, boxes=10, threshold=0.9)
        assert "again" in caplog.messages[-1] or caplog.records[-1].levelno == logging.WARNING
