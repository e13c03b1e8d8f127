"""Data sets, samplers and transforms take every argument that MMDetection's take, or say why not."""

import json

import numpy as np
import pytest
from det_mmdet.names import reference_names

from detcore import registry
from detcore.errors import ConfigError, DataError
from detcore.registry import DATASETS, TRANSFORMS
from detcore.registry.lookup import NameNotFoundError
from detcore.registry.signatures import parameters_of
from detcore.testing import tiny_coco

REGISTRIES = {
    "datasets": registry.DATASETS,
    "data_samplers": registry.DATA_SAMPLERS,
    "transforms": registry.TRANSFORMS,
}


def ours():
    """``(registry, name, arguments of the reference)`` for every name that detcore or a plugin has."""
    for package, kind, name, takes in reference_names():
        table = REGISTRIES.get(kind)
        if table is None or takes is None:
            continue
        try:
            component = table.get(name)
        except NameNotFoundError:
            continue
        yield pytest.param(component, takes, id=f"{package}.{name}")


OURS = list(ours())


def test_the_reference_is_not_empty():
    names = {param.id for param in OURS}
    assert {"mmdet.GroupMultiSourceSampler", "mmdet.MultiImageMixDataset", "mmcv.TestTimeAug"} <= names
    assert len(names) > 30


@pytest.mark.parametrize(("component", "takes"), OURS)
def test_every_argument_of_the_reference_is_taken(component, takes):
    known = parameters_of(component)
    # A star stands for arguments that are handed on to another transform; ours are named.
    named = [name for name in takes if name != "*"]
    missing = [] if known.rest is not None else [name for name in named if name not in known.slots]
    assert missing == []


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """A data set in the manual's middle format and one in COCO's, four drawn images each."""
    folder = tmp_path_factory.mktemp("data")
    coco = json.loads(tiny_coco(folder, num=4, image_size=(64, 48)).read_text())
    infos = [
        {
            "img_path": image["file_name"], "height": image["height"], "width": image["width"],
            "instances": [
                {"bbox": [1, 1, 20, 20], "bbox_label": 0, "ignore_flag": 0}
            ][: number],
        }
        for number, image in enumerate(coco["images"])
    ]  # fmt: skip
    content = {"metainfo": {"classes": ["shape"]}, "data_list": infos}
    (folder / "middle.json").write_text(json.dumps(content))
    return {
        "type": "BaseDetDataset", "ann_file": "middle.json", "data_root": str(folder),
        "data_prefix": {"img_path": "images/"},
    }  # fmt: skip


@pytest.mark.parametrize(("changes", "length"), [
    ({"lazy_init": True}, 4), ({"lazy_init": False}, 4), ({"serialize_data": False}, 4),
    ({"serialize_data": True}, 4), ({"max_refetch": 3}, 4), ({"indices": 2}, 2), ({"indices": [0, 3]}, 2),
    ({"filter_cfg": {"filter_empty_gt": True, "min_size": 32}}, 3), ({"filter_cfg": None}, 4),
    ({"filter_cfg": {"filter_empty_gt": True}, "test_mode": True}, 4), ({"return_classes": True}, 4),
    ({"return_classes": True, "caption_prompt": {"shape": {"suffix": " drawn"}}}, 4),
    ({"backend_args": None}, 4), ({"backend_args": {"backend": "local"}}, 4), ({"file_client_args": None}, 4),
    ({"proposal_file": None}, 4), ({"seg_map_suffix": ".png"}, 4), ({"metainfo": {"classes": ("shape",)}}, 4),
])  # fmt: skip
def test_a_data_set_does_what_an_argument_says(middle, changes, length):
    data = DATASETS.build({**middle, **changes})
    assert len(data) == length
    info = data.get_data_info(0)
    prompt = changes.get("caption_prompt")
    texts = {"text": ["shape"], "caption_prompt": prompt} if changes.get("return_classes") else {}
    found = {key: list(info[key]) if key == "text" else info[key] for key in texts}
    assert found == texts


@pytest.mark.parametrize(("changes", "message"), [
    ({"proposal_file": "rpn.pkl"}, r"cannot read the proposals .*rpn\.pkl: No such file"),
    ({"file_client_args": {"backend": "disk"}}, "write backend_args"),
    ({"backend_args": {"backend": "petrel"}}, "only local files"),
    ({"caption_prompt": {"a": {}}}, "caption_prompt needs return_classes=True"),
    ({"filter_cfg": {"filter_empty": True}}, "did you mean 'filter_empty_gt'"),
    ({"indices": [9]}, "indices names image 9"),
])  # fmt: skip
def test_an_argument_that_is_refused_says_why(middle, changes, message):
    with pytest.raises((ConfigError, DataError), match=message):
        DATASETS.build({**middle, **changes})


@pytest.mark.parametrize(("cfg", "message"), [
    ({"type": "LoadAnnotations", "with_keypoints": True}, "keypoints are not loaded"),
    ({"type": "LoadAnnotations", "box_type": "qbox"}, "hbox"),
    ({"type": "RandomFlip", "prob": 0.5, "swap_seg_labels": [(1, 2, 3)]}, "needs pairs of labels"),
])  # fmt: skip
def test_a_transform_refuses_what_it_cannot_do(cfg, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(cfg)


def test_labels_of_left_and_right_change_places_in_a_mirrored_image():
    flip = TRANSFORMS.build({"type": "RandomFlip", "prob": 1.0, "swap_seg_labels": [(1, 2)]})
    labels = np.array([[0, 1, 2], [3, 2, 2]], np.uint8)
    results = flip({"img": np.zeros((2, 3, 3), np.uint8), "gt_seg_map": labels})
    assert results["gt_seg_map"].tolist() == [[1, 2, 0], [1, 1, 3]]
