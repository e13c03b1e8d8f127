"""Data sets with an XML file an image, and VOC's figures."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from det_datasets import xml_style
from det_datasets.voc import VOC_CLASSES, VOC_PALETTE, VOCDataset
from det_datasets.voc_metric import VOCMetric
from det_datasets.xml_style import XMLDataset, read_xml

from detcore.data.wrappers import ConcatDataset
from detcore.errors import ConfigError, DataError
from detcore.evaluation import eval_map
from detcore.registry import DATASETS, METRICS

CLASSES = ("cat", "dog")
EDGES = ("xmin", "ymin", "xmax", "ymax")


def xml(objects, size=(100, 80), declaration=""):
    width, height = size
    told = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if size[0] else ""
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, difficult, (x1, y1, x2, y2) in objects
    )
    return f"{declaration}<annotation>{told}{body}</annotation>"


@pytest.fixture
def folder(tmp_path):
    """``folder({name: XML text})`` makes a small data set of VOC's kind."""

    def make(files, year="VOC2007"):
        import cv2

        root = tmp_path / year
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (root / "Annotations" / f"{name}.xml").write_text(text)
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.zeros((80, 100, 3), np.uint8))
        (root / "ImageSets/Main/train.txt").write_text("\n".join(files) + "\n")
        return root

    return make


def build(root, **changes):
    given = {
        "type": "VOCDataset", "ann_file": f"{root.name}/ImageSets/Main/train.txt",
        "data_root": str(root.parent), "data_prefix": {"sub_data_root": f"{root.name}/"},
        "metainfo": {"classes": CLASSES},
    }  # fmt: skip
    return DATASETS.build({**given, **changes})


def test_corners_count_from_zero_and_difficult_objects_are_ignored(folder):
    root = folder({"000005": xml([("dog", 0, (1, 2, 11, 22)), ("cat", 1, (5, 5, 50, 60))])})
    (info,) = build(root).data_list
    assert info["img_id"] == "000005"
    assert (info["height"], info["width"]) == (80, 100)
    assert Path(info["img_path"]) == root / "JPEGImages/000005.jpg"
    assert [each["bbox"] for each in info["instances"]] == [[0, 1, 10, 21], [4, 4, 49, 59]]
    assert [each["bbox_label"] for each in info["instances"]] == [1, 0]
    assert [each["ignore_flag"] for each in info["instances"]] == [0, 1]


@pytest.mark.parametrize(("year", "told"), [("VOC2007", "VOC2007"), ("VOC2012", "VOC2012"), ("mine", None)])
def test_the_year_is_told_to_the_metric(year, told, folder):
    assert build(folder({"a": xml([("cat", 0, (1, 1, 9, 9))])}, year)).metainfo["dataset_type"] == told


def test_both_years_go_together(folder):
    parts = [
        build(folder({"a": xml([("cat", 0, (1, 1, 9, 9))])}, year)) for year in ("VOC2007", "VOC2012")
    ]
    assert len(ConcatDataset(parts)) == 2


def test_small_boxes_are_ignored_and_empty_images_left_out(folder):
    two = xml([("cat", 0, (1, 1, 9, 9)), ("dog", 0, (1, 1, 50, 50))])
    root = folder({"a": two, "b": xml([("bird", 0, (1, 1, 9, 9))])})
    rules = {"filter_empty_gt": True, "min_size": 32, "bbox_min_size": 32}
    (info,) = build(root, filter_cfg=rules).data_list
    assert [each["ignore_flag"] for each in info["instances"]] == [1, 0]


def test_a_size_that_the_file_does_not_tell_is_the_images(folder):
    (info,) = build(folder({"a": xml([("cat", 0, (1, 1, 9, 9))], size=(0, 0))})).data_list
    assert (info["height"], info["width"]) == (80, 100)


def test_unusable_boxes_are_counted(folder, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = build(folder({"a": xml([("cat", 0, (5, 5, 5, 9)), ("cat", 0, (1, 1, 9, 9))])}))
    assert dataset.defects.counts == {"box-empty": 1}
    assert "box-empty" in caplog.text


def test_misspelt_classes_are_noticed(folder, monkeypatch):
    said = []
    monkeypatch.setattr(xml_style.logger, "warning", lambda text, *values: said.append(text % values))
    build(folder({"a": xml([("cat", 0, (1, 1, 9, 9)), ("hound", 0, (1, 1, 9, 9))])}))
    (line,) = said
    assert "no object of dog" in line
    assert line.endswith("hound")


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml([], declaration=BOMB), "document type"),
        ("<annotation><object>", "no XML file"),
        ("", "no XML file"),
        (xml([("cat", 0, ("a", 1, 9, 9))]), "corners"),
        (xml([("cat", 0, ("inf", 1, 9, 9))]), "corners"),
    ],
)
def test_files_that_are_no_annotations_are_named(text, message, folder):
    root = folder({"good": xml([("cat", 0, (1, 1, 9, 9))]), "broken": text})
    with pytest.raises(DataError, match=message) as error:
        build(root)
    assert "broken.xml" in str(error.value)


def test_missing_files_are_named(folder, tmp_path):
    root = folder({"a": xml([("cat", 0, (1, 1, 9, 9))])})
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(DataError, match=r"a\.xml"):
        build(root)
    with pytest.raises(DataError, match=r"none\.txt"):
        build(root, ann_file="none.txt")
    with pytest.raises(DataError, match="classes"):
        XMLDataset(ann_file=str(root / "ImageSets/Main/train.txt"), data_root=str(root))


def test_the_classes_are_vocs():
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == len(VOC_PALETTE) == 20
    assert VOCDataset.METAINFO["classes"] is VOC_CLASSES


def test_photographs_of_blood_are_the_same_in_both_formats(shared):
    root = shared("data/bccd")
    common = {"data_root": str(root), "metainfo": {"classes": ("RBC", "WBC", "Platelets")}}
    voc = DATASETS.build(
        {**common, "type": "XMLDataset", "ann_file": "ImageSets/Main/val.txt", "img_subdir": "images",
         "ann_subdir": "voc_annotations"}
    )  # fmt: skip
    coco = {}
    for part in ("train", "val"):
        file = {"ann_file": f"annotations/instances_{part}.json", "data_prefix": {"img": "images/"}}
        dataset = DATASETS.build({**common, **file, "type": "CocoDataset"})
        coco.update({Path(info["img_path"]).stem: info for info in dataset.data_list})
    assert len(voc) > 50
    for info in voc.data_list:
        other = coco[info["img_id"]]
        assert (info["height"], info["width"]) == (other["height"], other["width"])
        mine, theirs = (np.array([each["bbox"] for each in one["instances"]]) for one in (info, other))
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= 1.0  # one counts corners from 1 or not


# -- figures
# -------------------------------------------------------------------------------------


@pytest.fixture
def toy_example(shared):
    """Detections and truth of the published toy example."""
    root = shared("data/eval_pairs/podm_toyexample")
    truth, found = {}, {}
    for path in sorted((root / "gts_vocpascal_format").glob("*.xml")):
        truth[path.stem] = [
            (each.findtext("name"), [float(each.findtext(f"bndbox/{edge}")) for edge in EDGES])
            for each in read_xml(path).iter("object")
        ]
        lines = (root / "dets_classname_abs_xywh" / f"{path.stem}.txt").read_text().splitlines()
        rows = [line.split() for line in lines if line.strip()]
        found[path.stem] = [
            (name, [x, y, x + w, y + h, score])
            for name, (score, x, y, w, h) in ((row[0], map(float, row[1:6])) for row in rows)
        ]
    classes = sorted({name for objects in truth.values() for name, _ in objects})
    detections = [
        [np.array([box for other, box in found[image] if other == name]).reshape(-1, 5) for name in classes]
        for image in truth
    ]
    annotations = [
        {
            "bboxes": np.array([box for _, box in objects]).reshape(-1, 4),
            "labels": np.array([classes.index(name) for name, _ in objects], int),
        }
        for objects in truth.values()
    ]
    return detections, annotations


@pytest.mark.parametrize(
    ("iou", "mode", "published"),
    [(0.5, "area", 89.58), (0.5, "11points", 88.64), (0.75, "area", 50.97), (0.75, "11points", 49.24)],
)
def test_the_published_figures_of_the_toy_example(iou, mode, published, toy_example):
    mean, _ = eval_map(*toy_example, iou_thr=iou, eval_mode=mode)
    assert round(mean * 100, 2) == published


def one_image(boxes, objects, ignored=(), **options):
    annotation = {
        "bboxes": np.array(objects, float).reshape(-1, 4),
        "labels": np.zeros(len(objects), int),
        "bboxes_ignore": np.array(ignored, float).reshape(-1, 4),
        "labels_ignore": np.zeros(len(ignored), int),
    }
    detections = [[np.array(boxes, float).reshape(-1, 5)]]
    return eval_map(detections, [annotation], **options)


A, B = [0, 0, 10, 10], [20, 20, 40, 40]


@pytest.mark.parametrize(
    ("boxes", "objects", "ignored", "ap"),
    [
        ([[*A, 0.9]], [A], [], 1.0),
        ([[*A, 0.9], [*A, 0.8]], [A], [], 1.0),  # a second box on the same object comes later
        ([[*A, 0.9], [*A, 0.8], [*B, 0.7]], [A, B], [], 0.5 + 0.5 * 2 / 3),
        ([[*B, 0.9], [*A, 0.8]], [A], [], 0.5),
        ([[*B, 0.9], [*A, 0.8]], [A], [B], 1.0),  # a box on an ignored object does not count
        ([], [A], [], 0.0),
        ([[*A, 0.9]], [], [], 0.0),
        # The best partner is taken already; another one that also overlaps enough is not looked at.
        ([[0, 0, 10, 10, 0.9], [0, 0, 10, 10, 0.8]], [A, [0, 0, 10, 9]], [], 0.5),
    ],
)
def test_average_precision_by_hand(boxes, objects, ignored, ap):
    mean, (figures,) = one_image(boxes, objects, ignored)
    assert mean == pytest.approx(ap)
    assert figures["num_gts"] == len(objects)
    assert figures["num_dets"] == len(boxes)


def test_the_last_pixel_counts_where_asked():
    # 10 x 10 beside 10 x 5: the overlap is 0.5, with the last pixel 66 / 121.
    for legacy, ap in ((False, 0.0), (True, 1.0)):
        mean, _ = one_image([[0, 0, 10, 5, 0.9]], [A], iou_thr=0.52, use_legacy_coordinate=legacy)
        assert mean == ap


def test_ranges_of_sizes_look_at_their_objects_only():
    boxes, objects = [[*A, 0.9], [*B, 0.8]], [A, B]
    mean, (figures,) = one_image(boxes, objects, scale_ranges=[(0, 15), (15, 100), (0, 100)])
    assert mean.tolist() == [1.0, 1.0, 1.0]
    assert figures["num_gts"].tolist() == [1, 1, 2]


def test_unequal_numbers_of_images_are_refused():
    with pytest.raises(ConfigError, match="2 images have annotations, 1 have detections"):
        eval_map([[np.zeros((0, 5))]], [{}, {}])


def prediction(image, boxes, labels, scores, truth):
    return {
        "img_id": image,
        "pred_instances": {
            "bboxes": torch.tensor(boxes).float().reshape(-1, 4), "scores": torch.tensor(scores).float(),
            "labels": torch.tensor(labels),
        },
        "gt_instances": {
            "bboxes": torch.tensor(truth[0]).float().reshape(-1, 4), "labels": torch.tensor(truth[1])
        },
        "ignored_instances": {
            "bboxes": torch.tensor(truth[2]).float().reshape(-1, 4), "labels": torch.tensor(truth[3])
        },
    }  # fmt: skip


def test_the_metric_reports_each_overlap_and_their_mean():
    metric = METRICS.build({"type": "VOCMetric", "iou_thrs": [0.5, 0.9]})
    metric.dataset_meta = {"classes": CLASSES, "dataset_type": "VOC2007"}
    metric.process(None, [prediction(1, [A, B, B], [0, 1, 0], [0.9, 0.8, 0.7], ([A, B], [0, 1], [B], [0]))])
    metric.process(None, [prediction(2, [[0, 0, 10, 8]], [0], [0.6], ([A], [0], [], []))])
    figures = metric.evaluate(2)
    assert figures["pascal_voc/AP50"] == 1.0
    # Class 0 at 0.9: one of two objects, and one wrong box behind it: precision 1 up to recall 0.5.
    assert figures["pascal_voc/AP90"] == pytest.approx((6 / 11 + 1) / 2, abs=1e-3)
    mean = (figures["pascal_voc/AP50"] + figures["pascal_voc/AP90"]) / 2
    assert figures["pascal_voc/mAP"] == pytest.approx(mean)


def test_recall_is_measured_where_asked():
    metric = VOCMetric(metric="recall", proposal_nums=(1, 10))
    metric.dataset_meta = {"classes": CLASSES}
    metric.process(None, [prediction(1, [A, B], [0, 0], [0.9, 0.8], ([A, B], [0, 1], [], []))])
    figures = metric.evaluate(1)
    assert (figures["pascal_voc/AR@1"], figures["pascal_voc/AR@10"]) == (0.5, 1.0)


def test_an_image_that_came_twice_counts_once():
    metric = VOCMetric()
    metric.dataset_meta = {"classes": CLASSES}
    for _ in range(2):
        metric.process(None, [prediction(1, [A], [0], [0.9], ([A], [0], [], []))])
    assert metric.evaluate(1)["pascal_voc/mAP"] == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [({"metric": "bbox"}, "mAP, recall"), ({"eval_mode": "12points"}, "11points"), ({"iou_thrs": 0}, "iou")],
)
def test_unusable_arguments_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        VOCMetric(**given)


def test_predictions_without_truth_are_explained():
    sample = prediction(1, [A], [0], [0.9], ([A], [0], [], []))
    del sample["gt_instances"]
    with pytest.raises(DataError, match="LoadAnnotations"):
        VOCMetric().process(None, [sample])
