import contextlib
import io
import json
import logging
import runpy
from collections import defaultdict

import numpy as np
import pytest
import torch
from det_datasets.coco_metric import CocoMetric
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.errors import ConfigError, DataError
from detcore.structures import DetDataSample, InstanceData

BACKENDS = ("pycocotools", "hotcoco")
ONE = pytest.approx(1.0)  # pycocotools adds a tiny number before it divides
NAMES = [
    "mAP",
    "mAP_50",
    "mAP_75",
    "mAP_s",
    "mAP_m",
    "mAP_l",
    "AR@1",
    "AR@10",
    "AR@100",
    "AR_s@100",
    "AR_m@100",
    "AR_l@100",
]


def write(path, annotations, images=(1, 2), categories=("cat", "dog")):
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 200, "width": 200} for i in images],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(categories)],
    }
    path.write_text(json.dumps(content))
    return str(path)


def annotation(number, image=1, category=1, bbox=(10, 10, 50, 40), **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(bbox),
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
        **more,
    }


def sample(image, boxes=(), scores=(), labels=(), **more):
    found = {
        "bboxes": torch.tensor(boxes).float().reshape(-1, 4),
        "scores": torch.tensor(scores).float(),
        "labels": torch.tensor(labels).long(),
    }
    return {"img_id": image, "pred_instances": found, **more}


def metric_for(ann_file, samples, classes=("cat", "dog"), **arguments):
    metric = CocoMetric(ann_file, **arguments)
    metric.dataset_meta = {"classes": classes}
    metric.process(None, samples)
    return metric


def figures_of(ann_file, samples, **arguments):
    metric = metric_for(ann_file, samples, **{"proposal_nums": (1, 10, 100), **arguments})
    return metric.evaluate(len(samples))


@pytest.mark.shared
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("bbox", [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]),
        ("segm", [0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381]),
    ],
)
def test_published_figures_of_a_known_pair_are_reproduced(shared, metric, expected, backend):
    folder = shared("data/eval_pairs/cocoapi_fake100")
    ann_file = folder / "instances_val2014_100.json"
    truth = json.loads(ann_file.read_text())
    classes = tuple(category["name"] for category in truth["categories"])
    label_of = {category["id"]: label for label, category in enumerate(truth["categories"])}
    found = defaultdict(list)
    for record in json.loads((folder / f"instances_val2014_fake{metric}100_results.json").read_text()):
        found[record["image_id"]].append(record)
    samples = []
    for image in truth["images"]:
        records = found[image["id"]]
        boxes = np.array([record.get("bbox", [0, 0, 0, 0]) for record in records], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # float64: the pair has overlaps that lie exactly on a threshold
        labels = [label_of[record["category_id"]] for record in records]
        instances = {
            "bboxes": boxes,
            "scores": np.array([record["score"] for record in records], dtype=float),
            "labels": np.array(labels, dtype=int),
        }
        if metric == "segm":
            instances["masks"] = [record["segmentation"] for record in records]
        samples.append({"img_id": image["id"], "pred_instances": instances})
    figures = figures_of(str(ann_file), samples, metric=metric, classes=classes, backend=backend)
    assert [round(figures[f"coco/{metric}_{name}"], 3) for name in NAMES] == expected


@st.composite
def problems(draw):
    """A random problem with crowds, ties between scores, foreign classes and images without anything."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = sorted(rng.choice(50, draw(st.integers(1, 5)), replace=False).tolist())
    annotations, samples = [], []
    for image in images:
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = (rng.integers(0, 100, 4) * [1, 1, rng.integers(1, 4), 1]).tolist()
            annotations.append(
                annotation(
                    len(annotations) + draw(st.sampled_from([0, 1])) * 1000,
                    image,
                    int(rng.integers(1, 4)),
                    (x, y, w, h),
                    iscrowd=int(rng.random() < 0.2),
                )
            )
        near = [one["bbox"] for one in annotations if one["image_id"] == image]
        near = [box for box in near for _ in range(rng.integers(0, 3))]
        boxes = [np.array(box) + rng.normal(0, 4, 4).round(1) for box in near]
        boxes += list(rng.uniform(0, 120, (rng.integers(0, 4), 4)))
        xywh = np.abs(np.array(boxes).reshape(-1, 4))
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        scores, labels = rng.integers(0, 10, len(xyxy)) / 10, rng.integers(0, 2, len(xyxy))
        samples.append(sample(image, xyxy, scores, labels))
    for number, one in enumerate(annotations):
        one["id"] = number
    return images, annotations, samples


@settings(max_examples=60, deadline=None)
@given(problem=problems(), metric=st.sampled_from(["bbox", "proposal"]))
def test_both_backends_give_equal_figures(tmp_path_factory, problem, metric):
    images, annotations, samples = problem
    path = tmp_path_factory.mktemp("p") / "a.json"
    ann_file = write(path, annotations or [annotation(1, images[0])], images, ("cat", "dog", "x"))
    one, other = (
        figures_of(ann_file, samples, metric=metric, backend=backend, classwise=True) for backend in BACKENDS
    )
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=0, atol=1e-12, equal_nan=True)
    assert one.keys() == other.keys()


@settings(max_examples=25, deadline=None)
@given(problem=problems())
def test_figures_are_those_of_plain_pycocotools(tmp_path_factory, problem):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, annotations, samples = problem
    annotations = [{**one, "id": one["id"] + 1} for one in annotations] or [annotation(1, images[0])]
    ann_file = write(tmp_path_factory.mktemp("p") / "a.json", annotations, images)
    rows = [
        [one["img_id"], x1, y1, x2 - x1, y2 - y1, score, label + 1]
        for one in samples
        for (x1, y1, x2, y2), score, label in zip(
            one["pred_instances"]["bboxes"].tolist(),
            one["pred_instances"]["scores"].tolist(),
            one["pred_instances"]["labels"].tolist(),
            strict=True,
        )
    ]
    if not rows or not any(one["category_id"] < 3 for one in annotations):
        return
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ann_file)
        job = COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
        job.evaluate()
        job.accumulate()
        job.summarize()
    figures = figures_of(ann_file, samples, backend="auto")
    np.testing.assert_allclose([figures[f"coco/bbox_{name}"] for name in NAMES], job.stats, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_match_to_annotation_id_zero_counts(tmp_path, backend):
    ann_file = write(tmp_path / "a.json", [annotation(0)])
    figures = figures_of(ann_file, [sample(1, [[10, 10, 60, 50]], [0.9], [0]), sample(2)], backend=backend)
    assert figures["coco/bbox_mAP"] == ONE


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_annotations_with_one_id_both_count(tmp_path, backend):
    ann_file = write(tmp_path / "a.json", [annotation(7), annotation(7, bbox=(100, 100, 40, 40))])
    figures = figures_of(ann_file, [sample(1, [[10, 10, 60, 50]], [0.9], [0]), sample(2)], backend=backend)
    assert figures["coco/bbox_AR@100"] == 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_area_and_iscrowd_have_their_usual_values(tmp_path, backend):
    bare = annotation(1)
    del bare["area"], bare["iscrowd"]
    ann_file = write(tmp_path / "a.json", [bare])
    figures = figures_of(ann_file, [sample(1, [[10, 10, 60, 50]], [0.9], [0]), sample(2)], backend=backend)
    assert figures["coco/bbox_mAP_m"] == ONE
    assert figures["coco/bbox_mAP_s"] == -1.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_at_all_gives_zeros_and_a_warning(tmp_path, backend, caplog):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    with caplog.at_level(logging.WARNING):
        figures = figures_of(ann_file, [sample(1), sample(2)], backend=backend)
    assert figures["coco/bbox_mAP"] == 0.0
    assert figures["coco/bbox_AR@100"] == 0.0
    assert "found nothing in 2 images" in caplog.text


@pytest.mark.parametrize("backend", BACKENDS)
def test_detections_in_crowds_count_neither_way(tmp_path, backend):
    truth = [annotation(1), annotation(2, bbox=(100, 100, 80, 80), iscrowd=1)]
    ann_file = write(tmp_path / "a.json", truth)
    found = sample(1, [[110, 110, 120, 130], [10, 10, 60, 50]], [0.99, 0.9], [0, 0])
    assert figures_of(ann_file, [found, sample(2)], backend=backend)["coco/bbox_mAP"] == ONE


def test_a_repeated_image_counts_once(tmp_path, caplog):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    hit = sample(1, [[10, 10, 60, 50]], [0.9], [0])
    with caplog.at_level(logging.WARNING):
        assert figures_of(ann_file, [hit, sample(2), hit])["coco/bbox_mAP"] == ONE
    assert "1 of 3 images came more than once" in caplog.text


def test_classes_are_matched_by_name_whatever_their_order_and_ids(tmp_path):
    ann_file = write(tmp_path / "a.json", [annotation(1, category=2)], categories=("x", "dog", "cat"))
    found = [sample(1, [[10, 10, 60, 50]], [0.9], [1]), sample(2)]
    figures = figures_of(ann_file, found, classwise=True)
    assert figures["coco/bbox_mAP"] == ONE
    assert figures["coco/dog_precision"] == ONE
    assert np.isnan(figures["coco/cat_precision"])


def test_a_class_that_the_file_does_not_know_is_named_at_once(tmp_path, caplog):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    metric = CocoMetric(ann_file)
    with caplog.at_level(logging.WARNING):
        metric.dataset_meta = {"classes": ("cat", "dogg")}
    assert "no category 'dogg'" in caplog.text
    assert "Did you mean 'dog'?" in caplog.text
    with pytest.raises(DataError, match="no category 'bird'; it has cat, dog"):
        metric.dataset_meta = {"classes": ("bird",)}


def test_the_table_of_the_classes_is_logged(tmp_path, caplog):
    ann_file = write(tmp_path / "a.json", [annotation(1), annotation(2, category=2)])
    with caplog.at_level(logging.INFO):
        figures_of(ann_file, [sample(1, [[10, 10, 60, 50]], [0.9], [0]), sample(2)], classwise=True)
    assert "category" in caplog.text
    assert "maxDets= 100" in caplog.text
    line = next(line for line in caplog.text.splitlines() if "dog" in line)
    assert "0.000" in line


def test_nothing_is_printed(tmp_path, capsys):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    for backend in BACKENDS:
        figures_of(ann_file, [sample(1, [[10, 10, 60, 50]], [0.9], [0]), sample(2)], backend=backend)
    captured = capsys.readouterr()
    assert captured.out == ""


def test_metric_items_choose_and_proposal_nums_are_sorted_before_they_name_figures(tmp_path):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    found = [sample(1, [[10, 10, 60, 50]], [0.9], [0]), sample(2)]
    figures = figures_of(ann_file, found, proposal_nums=(100, 1, 10), metric_items=["mAP", "AR@1"])
    assert figures == {"coco/bbox_mAP": ONE, "coco/bbox_AR@1": ONE}
    figures = figures_of(ann_file, found, metric="proposal")
    assert figures["coco/AR@10"] == ONE
    assert not any("bbox" in name for name in figures)


def test_own_overlaps_replace_the_ten(tmp_path):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    found = [sample(1, [[10, 10, 60, 45]], [0.9], [0]), sample(2)]
    figures = figures_of(ann_file, found, iou_thrs=[0.5, 0.9])
    assert figures["coco/bbox_mAP"] == pytest.approx(0.5)
    assert figures["coco/bbox_mAP_50"] == ONE
    assert figures["coco/bbox_mAP_75"] == -1.0


def test_format_only_writes_what_the_server_takes_and_measures_nothing(tmp_path):
    ann_file = write(tmp_path / "a.json", [])
    prefix = str(tmp_path / "new" / "test")
    found = [sample(1, [[10, 10, 60, 50]], [0.5], [1]), sample(2)]
    assert metric_for(ann_file, found, format_only=True, outfile_prefix=prefix).evaluate(2) == {}
    records = json.loads((tmp_path / "new" / "test.bbox.json").read_text())
    assert records == [{"image_id": 1, "bbox": [10.0, 10.0, 50.0, 40.0], "score": 0.5, "category_id": 2}]


def test_a_written_file_of_no_detections_is_an_empty_list(tmp_path):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    figures_of(ann_file, [sample(1), sample(2)], outfile_prefix=str(tmp_path / "r"))
    assert json.loads((tmp_path / "r.bbox.json").read_text()) == []


def test_truth_without_annotations_is_refused_before_training(tmp_path):
    with pytest.raises(DataError, match=r"no annotations.*format_only=True"):
        CocoMetric(write(tmp_path / "a.json", []))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not a json"), ("[]", "no COCO annotation file.*list"), ('{"a": 1}', "'images', found a")],
)
def test_files_that_are_no_annotations_are_named(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        CocoMetric(str(path))


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"not found: nowhere\.json"):
        CocoMetric("nowhere.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"metric": "box"}, "bbox, segm, proposal, proposal_fast"),
        ({"metric": []}, "one or more"),
        ({"proposal_nums": (0,)}, "positive"),
        ({"iou_thrs": [1.5]}, "above 0"),
        ({"metric_items": ["AP"]}, "available: mAP"),
        ({"format_only": True}, "outfile_prefix"),
        ({"backend": "fast"}, "auto, pycocotools, hotcoco"),
    ],
)
def test_unusable_arguments_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        CocoMetric(**arguments)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"pred_instances": {}}, "img_id.*meta_keys"),
        ({"img_id": 1}, "no pred_instances"),
        ({"img_id": 1, "pred_instances": {"bboxes": torch.zeros(0, 4)}}, "no 'scores'"),
        (sample(1, [[0, 0, 1, 1]], [0.1, 0.2], [0]), "do not match"),
        (sample(1, [[0, 0, 1, float("nan")]], [0.1], [0]), "NaN"),
        (sample(1, [[0, 0, 1, 1]], [0.1], [2]), "label 2.*2 classes.*num_classes"),
    ],
)
def test_unusable_predictions_are_named_with_their_image(tmp_path, broken, said):
    with pytest.raises(DataError, match=said):
        metric_for(write(tmp_path / "a.json", [annotation(1)]), [broken])


def test_an_image_that_is_not_annotated_is_named(tmp_path):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    with pytest.raises(DataError, match=r"id 99.*same ann_file"):
        figures_of(ann_file, [sample(1), sample(99)])


def test_images_that_were_not_predicted_are_said(tmp_path, caplog):
    ann_file = write(tmp_path / "a.json", [annotation(1)])
    with caplog.at_level(logging.WARNING):
        figures_of(ann_file, [sample(1)])
    assert "1 of the 2 images" in caplog.text


def test_without_classes_the_message_says_who_sets_them():
    with pytest.raises(ConfigError, match="dataset_meta"):
        CocoMetric().process(None, [sample(1)])


def test_image_ids_may_be_words_and_numbers_in_quotes(tmp_path):
    ann_file = write(tmp_path / "a.json", [annotation(1, "b"), annotation(2, "12")], images=("b", "12"))
    hit = ([[10, 10, 60, 50]], [0.9], [0])
    assert figures_of(ann_file, [sample("b", *hit), sample(12, *hit)])["coco/bbox_mAP"] == ONE


@pytest.mark.parametrize("backend", BACKENDS)
def test_truth_can_come_from_the_data_samples_scaled_back(backend):
    annotated = InstanceData(bboxes=torch.tensor([[20.0, 20, 120, 100]]), labels=torch.tensor([0]))
    ignored = InstanceData(bboxes=torch.tensor([[200.0, 200, 390, 390]]), labels=torch.tensor([0]))
    found = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 60, 50], [110, 110, 150, 150]]),
        scores=torch.tensor([0.8, 0.9]),
        labels=torch.tensor([0, 0]),
    )
    one = DetDataSample(
        metainfo={"img_id": 3, "ori_shape": (200, 200), "scale_factor": (2.0, 2.0)},
        gt_instances=annotated,
        ignored_instances=ignored,
        pred_instances=found,
    )
    assert figures_of(None, [one.to_dict()], backend=backend)["coco/bbox_mAP"] == ONE
    listed = sample(
        3,
        [[10, 10, 60, 50]],
        [0.9],
        [0],
        ori_shape=(200, 200),
        instances=[{"bbox": [10, 10, 60, 50], "bbox_label": 0, "ignore_flag": 0}],
    )
    assert figures_of(None, [listed], backend=backend)["coco/bbox_mAP"] == ONE


def test_without_any_truth_the_message_says_what_to_give():
    with pytest.raises(DataError, match=r"no ann_file.*LoadAnnotations"):
        figures_of(None, [sample(1)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_measured_on_their_own_area_also_where_none_is_found(tmp_path, backend):
    outline = [[10, 10, 60, 10, 60, 50, 10, 50]]
    ann_file = write(tmp_path / "a.json", [annotation(1, segmentation=outline)])
    mask = torch.zeros(1, 200, 200, dtype=torch.bool)
    mask[0, 10:50, 10:60] = True
    hit = sample(1, [[0, 0, 1, 1]], [0.9], [0])
    hit["pred_instances"]["masks"] = mask
    none = sample(2)
    none["pred_instances"]["masks"] = torch.zeros(0, 200, 200, dtype=torch.bool)
    assert figures_of(ann_file, [hit, none], metric="segm", backend=backend)["coco/segm_mAP"] == ONE
    assert figures_of(ann_file, [none], metric="segm", backend=backend)["coco/segm_mAP"] == 0.0
    without = write(tmp_path / "b.json", [annotation(1)])
    with pytest.raises(DataError, match="needs a segmentation"):
        figures_of(without, [hit, none], metric="segm", backend=backend)


def test_unusable_boxes_and_strangers_in_the_file_are_left_out_and_counted(tmp_path, caplog):
    truth = [
        annotation(1),
        annotation(2, bbox=(float("nan"), 0, 1, 1)),
        annotation(3, image=77),
        annotation(4, category=9),
    ]
    with caplog.at_level(logging.WARNING):
        metric = CocoMetric(write(tmp_path / "a.json", truth))
    assert len(metric.truth) == 1
    assert "1 annotations have a box with NaN" in caplog.text
    assert "image_id 77" in caplog.text
    assert "category_id 9" in caplog.text
    with pytest.raises(DataError, match="annotation 5 of image 1 needs bbox"):
        CocoMetric(write(tmp_path / "b.json", [{**annotation(5), "bbox": [1, 2]}]))


def test_the_benchmark_finds_equal_figures_at_a_small_size(root, capsys):
    main = runpy.run_path(str(root / "benchmarks" / "evaluation.py"))["main"]
    result = main(["--images", "20", "--boxes", "10", "--classes", "3"])
    assert result["largest_difference"] < 1e-12
    assert result["boxes"] == 200
    assert "ratio" in capsys.readouterr().out


def test_fast_recall_pairs_objects_and_proposals_over_all_images(tmp_path):
    ann_file = write(
        tmp_path / "a.json", [annotation(1, 2), annotation(2, 1), annotation(3, 1, 2, (100, 100, 40, 40))]
    )
    two = sample(1, [[0, 0, 5, 5], [100, 100, 140, 140]], [0.9, 0.1], [0, 0])
    found = [sample(2, [[10, 10, 60, 50]], [0.9], [0]), two]
    figures = figures_of(ann_file, found, metric="proposal_fast", proposal_nums=(1, 10))
    assert figures == {"coco/AR@1": pytest.approx(1 / 3), "coco/AR@10": pytest.approx(2 / 3)}
