"""Masks on their way from the annotation file into samples."""

import json
import logging

import numpy as np
import pytest

from detcore.data.transforms import LoadAnnotations
from detcore.data.transforms.instances import as_written
from detcore.errors import DataError
from detcore.registry import DATASETS
from detcore.structures.mask import BitmapMasks, PolygonMasks, encode_mask

PIPELINE = [
    {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_mask": True}, {"type": "PackDetInputs"},
]
TRIANGLE = [[2, 3, 20, 3, 20, 25]]


def with_masks(tiny, masks):
    """Give the instances of ``tiny`` masks, in order; None leaves an instance without."""
    path = tiny / "annotations.json"
    content = json.loads(path.read_text())
    instances = [instance for info in content["data_list"] for instance in info["instances"]]
    for instance, mask in zip(instances, masks, strict=False):
        instance.pop("mask", None)
        if mask is not None:
            instance["mask"] = mask
    path.write_text(json.dumps(content))
    return len(instances)


def test_annotations_without_any_mask_are_no_training_data_for_masks(tiny, tiny_cfg, caplog):
    said = r"annotations.json: LoadAnnotations\(with_mask=True\), but none of the 13 annotations has a seg"
    nested = [PIPELINE[0], {"type": "Compose", "transforms": [PIPELINE[1]]}]
    for pipeline in (PIPELINE, nested):
        with pytest.raises(DataError, match=said):
            DATASETS.build(tiny_cfg(pipeline=pipeline))
    late = DATASETS.build(tiny_cfg(pipeline=PIPELINE, lazy_init=True))
    for _ in range(2):
        with pytest.raises(DataError, match=said):
            len(late)
    with caplog.at_level(logging.WARNING):
        assert len(DATASETS.build(tiny_cfg(pipeline=PIPELINE, test_mode=True))) == 7
    assert "none of the 13 annotations has a segmentation" in caplog.text
    assert len(DATASETS.build(tiny_cfg())) == 7  # a pipeline that asks for boxes only


def test_annotations_without_a_mask_among_others_are_counted_and_ignored(tiny, tiny_cfg, caplog):
    with_masks(tiny, [TRIANGLE, None, TRIANGLE] + [TRIANGLE] * 10)
    with caplog.at_level(logging.WARNING):
        dataset = DATASETS.build(tiny_cfg(pipeline=PIPELINE))
    assert "1 of the 13 annotations have no segmentation" in caplog.text
    sample = dataset[1]["data_samples"]
    assert [len(sample.gt_instances), len(sample.ignored_instances)] == [1, 1]
    masks = sample.gt_instances.masks, dataset[0]["data_samples"].gt_instances.masks
    assert masks[0].areas.tolist() == masks[1].areas.tolist() != [0]


def test_polygons_of_two_points_are_a_defect_with_a_code(tiny, tiny_cfg, caplog):
    with_masks(tiny, [[[1, 2, 3, 4]], TRIANGLE, [[1, 2, 3, 4], *TRIANGLE]])
    with caplog.at_level(logging.WARNING):
        dataset = DATASETS.build(tiny_cfg(pipeline=PIPELINE))
    assert "1 x mask-malformed" in caplog.text
    assert len(dataset[0]["data_samples"].gt_instances) == 0
    assert len(dataset[1]["data_samples"].gt_instances.masks) == 2
    with pytest.raises(DataError, match="mask-malformed"):
        DATASETS.build(tiny_cfg(pipeline=PIPELINE, bad_annotations="raise"))


def test_run_lengths_of_another_size_name_the_image(tiny, tiny_cfg):
    with_masks(tiny, [{"size": [40, 61], "counts": [2440]}])
    dataset = DATASETS.build(tiny_cfg(pipeline=PIPELINE))
    with pytest.raises(DataError, match=r"images/0.png: an RLE mask has size \(40, 61\).*\(40, 60\)"):
        dataset.prepare_data(0)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("poly2mask", [False, True])
def test_run_lengths_are_loaded_also_where_polygons_are_wanted(compressed, poly2mask):
    bitmap = np.zeros((30, 40), np.uint8)
    bitmap[5:20, 8:30] = 1
    ends = [*(np.flatnonzero(np.diff(bitmap.T.reshape(-1))) + 1), 1200]
    runs = {"size": [30, 40], "counts": np.diff([0, *ends]).tolist()}
    mask = encode_mask(bitmap) if compressed else runs
    instances = [
        {"bbox": [8, 5, 30, 20], "bbox_label": 0, "mask": mask},
        {"bbox": [8, 5, 30, 20], "bbox_label": 0, "mask": mask, "ignore_flag": 1},
    ]
    results = {"instances": instances, "ori_shape": (30, 40)}
    loaded = LoadAnnotations(with_mask=True, poly2mask=poly2mask)(results)
    assert isinstance(loaded["gt_masks"], BitmapMasks if poly2mask else PolygonMasks)
    assert np.array_equal(loaded["gt_masks"].to_ndarray()[0], bitmap)
    assert loaded["gt_ignore_flags"].tolist() == [False, True]
    # A crowd is not traced: it has thousands of outlines, and is not learned from.
    assert loaded["gt_masks"].areas[1] == (bitmap.sum() if poly2mask else 0)


def test_an_image_of_crowds_only_has_no_objects_but_masks_of_its_size(tiny, tiny_cfg):
    path = tiny / "annotations.json"
    content = json.loads(path.read_text())
    for instance in content["data_list"][1]["instances"]:
        instance["ignore_flag"] = 1
    path.write_text(json.dumps(content))
    with_masks(tiny, [TRIANGLE] * 13)
    sample = DATASETS.build(tiny_cfg(pipeline=PIPELINE))[1]["data_samples"]
    assert len(sample.gt_instances) == 0
    assert (sample.gt_instances.masks.height, sample.gt_instances.masks.width) == (60, 40)
    assert sample.ignored_instances.masks.areas.all()


def test_coordinates_come_back_as_they_were_written():
    written = np.array([133.7, 0.1, 799.3, 12.25, 1.005, 3.0, 1e-8, 500.123456])
    assert np.array_equal(as_written(written.astype(np.float32))[:6], written[:6])
    assert np.allclose(as_written(written.astype(np.float32)), written, rtol=1e-6)
    assert as_written(np.array([1, 2])).dtype == np.float64


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "names"), [
    ("data/nuts", ["annotations/instances_train.json", "annotations/instances_val.json"]),
    ("data/coco_permissive", ["annotations/instances_train2017.json"]),
])
def test_bitmaps_of_real_annotations_are_those_of_pycocotools(shared, folder, names):
    import contextlib
    import io

    from pycocotools.coco import COCO

    for name in names:
        ann_file = shared(folder) / name
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(ann_file))
        classes = tuple(category["name"] for category in coco.dataset["categories"])
        dataset = DATASETS.build({
            "type": "CocoDataset", "ann_file": str(ann_file), "metainfo": {"classes": classes},
            "pipeline": [], "test_mode": True,
        })
        compared = 0
        for row in range(min(len(dataset), 40)):
            info = dataset.get_data_info(row)
            loaded = LoadAnnotations(with_mask=True)({**info, "ori_shape": (info["height"], info["width"])})
            annotations = [one for one in coco.imgToAnns[info["img_id"]] if min(one["bbox"][2:]) >= 1]
            assert len(annotations) == len(loaded["gt_masks"])
            for bitmap, annotation in zip(loaded["gt_masks"].masks, annotations, strict=True):
                assert np.array_equal(bitmap, coco.annToMask(annotation))
                compared += 1
        assert compared >= 10
