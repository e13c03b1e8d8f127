"""Masks out of predict: run lengths, polygons, and both back to the mask."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from detcore.apis.inferencer import DetInferencer, Prediction, write_prediction
from detcore.cli import _predict
from detcore.registry import DATASETS
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.mask import encode_masks, polygon_to_bitmap
from detcore.visualization import DetLocalVisualizer

SIZE = (90, 120)


def prediction(masks, scores=None, image=None):
    masks = torch.as_tensor(masks).bool()
    found = InstanceData(
        bboxes=torch.zeros(len(masks), 4), labels=torch.zeros(len(masks), dtype=torch.long), masks=masks,
        scores=torch.ones(len(masks)) if scores is None else torch.tensor(scores),
    )
    picture = np.full((*masks.shape[1:], 3), 90, np.uint8) if image is None else image
    return Prediction(DetDataSample(pred_instances=found), "a.jpg", "a", picture)


def drawn():
    masks = np.zeros((3, *SIZE), np.uint8)
    cv2.circle(masks[0], (60, 40), 30, 1, -1)
    cv2.ellipse(masks[1], (60, 45), (50, 12), 25, 0, 360, 1, -1)
    cv2.rectangle(masks[2], (3, 3), (40, 30), 1, -1)
    cv2.circle(masks[2], (20, 15), 6, 0, -1)
    return masks


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_records_survive_json_and_give_the_masks_back(tmp_path):
    masks = drawn()
    write_prediction(tmp_path / "a.json", prediction(masks).as_dict(polygons=True))
    record = json.loads((tmp_path / "a.json").read_text())
    for mask, encoded, polygons in zip(masks, record["masks"], record["polygons"], strict=True):
        assert np.array_equal(coco_mask.decode(encoded), mask)
        filled = polygon_to_bitmap([np.array(polygon) for polygon in polygons], *SIZE)
        assert overlap(filled, mask.astype(bool)) >= 0.95
        assert len(polygons) == 1


def test_run_lengths_instead_of_masks_are_as_good():
    masks = drawn()
    found, encoded = prediction(masks, [0.9, 0.1, 0.6]), prediction(masks, [0.9, 0.1, 0.6])
    encoded.sample.pred_instances.masks = encode_masks(masks)
    assert encoded.as_dict(0.5, polygons=True) == found.as_dict(0.5, polygons=True)
    for scale in (1, 3):
        pictures = [inferencer(one).draw(one, scale=scale) for one in (found, encoded)]
        assert np.array_equal(*pictures)
        assert pictures[0].shape == (SIZE[0] * scale, SIZE[1] * scale, 3)
    encoded.sample.pred_instances = encoded.sample.pred_instances[:0]
    assert encoded.as_dict(polygons=True)["polygons"] == encoded.as_dict()["masks"] == []
    assert inferencer(encoded).draw(encoded, scale=2).shape == (180, 240, 3)


def test_polygons_are_given_only_where_they_are_asked_for_and_for_what_is_kept():
    found = prediction(drawn(), [0.9, 0.1, 0.6])
    assert "polygons" not in found.as_dict()
    record = found.as_dict(score_thr=0.5, polygons=True)
    assert len(record["polygons"]) == len(record["masks"]) == len(record["bboxes"]) == 2
    none = prediction(np.zeros((0, *SIZE)))
    assert none.as_dict(polygons=True)["polygons"] == []
    boxes = none.sample.pred_instances
    del boxes.masks
    assert "polygons" not in none.as_dict(polygons=True)


def inferencer(found):
    """One that predicts this, whatever it is given."""
    made = object.__new__(DetInferencer)
    made.model = SimpleNamespace(dataset_meta={"classes": ("nut",)})
    made.visualizer = DetLocalVisualizer()
    made.visualizer.dataset_meta = made.model.dataset_meta
    made.iterate = lambda inputs, *args, **named: iter([found])
    return made


def test_the_command_writes_polygons_and_draws_masks(tmp_path, monkeypatch, capsys):
    found = prediction(drawn(), [0.9, 0.1, 0.6])
    monkeypatch.setattr(_predict, "DetInferencer", lambda *args, **named: inferencer(found))
    options = {
        "config": None, "checkpoint": "a.pth", "out_dir": str(tmp_path), "score_thr": 0.3, "device": None,
        "batch_size": 1, "json_file": str(tmp_path / "a.jsonl"), "no_images": False, "skip_bad": False,
        "cfg_options": (), "trust_config": False,
    }
    _predict.predict(["a.jpg"], polygons=True, **options)
    record = json.loads((tmp_path / "a.jsonl").read_text())
    assert len(record["polygons"]) == len(record["masks"]) == 2
    assert record["classes"] == ["nut", "nut"]
    assert "2 nut" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "vis" / "a.jpg"))
    scale = picture.shape[0] // SIZE[0]
    centre, corner = picture[40 * scale, 60 * scale], picture[-3, -3]
    assert np.abs(centre.astype(int) - 90).max() > 25  # tinted
    assert np.abs(corner.astype(int) - 90).max() < 10
    _predict.predict(["a.jpg"], polygons=False, **options)
    assert "polygons" not in json.loads((tmp_path / "a.jsonl").read_text())


def test_the_inferencer_hands_polygons_out_and_writes_them(tmp_path):
    given = inferencer(prediction(drawn()))("a.jpg", polygons=True, no_save_pred=False, out_dir=tmp_path)
    assert len(given["predictions"][0]["polygons"]) == 3
    written = json.loads((tmp_path / "preds" / "a.json").read_text())
    assert written["polygons"] == given["predictions"][0]["polygons"]
    assert (tmp_path / "vis" / "a.jpg").exists()


@pytest.mark.shared
def test_outlines_of_real_objects_come_back(shared):
    folder = shared("data/nuts")
    dataset = DATASETS.build({
        "type": "CocoDataset", "ann_file": str(folder / "annotations/instances_train.json"),
        "metainfo": {"classes": ("date", "fig", "hazelnut")}, "data_prefix": {"img": str(folder / "images")},
        "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_mask": True}],
    })
    compared = 0
    for row in range(len(dataset)):
        results = dataset[row]
        masks = results["gt_masks"].masks
        found = prediction(masks, image=results["img"])
        record = found.as_dict(polygons=True)
        for mask, encoded, polygons in zip(masks, record["masks"], record["polygons"], strict=True):
            assert np.array_equal(coco_mask.decode(encoded), mask)
            filled = polygon_to_bitmap([np.array(polygon) for polygon in polygons], *mask.shape)
            assert overlap(filled, mask.astype(bool)) >= 0.97
            compared += 1
        picture = inferencer(found).draw(found)
        changed = (picture != results["img"][..., ::-1]).any(2)
        assert changed[masks.any(0)].mean() > 0.9
    assert compared >= 50
