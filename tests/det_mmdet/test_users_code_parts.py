"""Users' parts one by one; see conftest.py."""

import json
from pathlib import Path

import pytest
import torch

SOURCES = Path(__file__).with_name("users_code")


def test_only_import_lines_change(their_project):
    for path in SOURCES.glob("*.py"):
        old = path.read_text().splitlines()
        new = (their_project / path.name).read_text().splitlines()
        start = max((i for i, line in enumerate(old) if line.startswith(("import ", "from "))), default=-1)
        body = old[start + 1 :]
        while body and not body[0].startswith(
            ("@", "class ", "def ")
        ):  # the rest of a statement of several lines
            body.pop(0)
        assert new[len(new) - len(body) :] == body, path.name


@pytest.mark.parametrize(
    "constructor", ["MyOptimizerWrapperConstructor", "MyHeadFirstConstructor", "MyPlainConstructor"]
)
def test_constructors_of_the_optimiser(their_project, their_config, constructor):
    from detcore.engine.optim import build_optim_wrapper
    from detcore.registry import MODELS

    model = MODELS.build(their_config().model, default_scope="mmdet")
    optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    paramwise = None
    if constructor == "MyOptimizerWrapperConstructor":
        optimizer = {"type": "MyOptimizer", "a": 0.1}
    if constructor == "MyHeadFirstConstructor":
        paramwise = {"custom_keys": {"head_mult": {}}}
    cfg = {"type": "OptimWrapper", "constructor": constructor, "optimizer": optimizer}
    cfg |= {"paramwise_cfg": paramwise} if paramwise else {}
    optim = build_optim_wrapper(model, cfg, default_scope="mmdet")
    held = sum(len(group["params"]) for group in optim.optimizer.param_groups)
    assert held == len(list(model.parameters()))
    before = model.bbox_head.my_reg.weight.detach().clone()
    optim.update_params(model.bbox_head.my_reg.weight.sum())
    assert not torch.equal(before, model.bbox_head.my_reg.weight)


def test_the_manuals_data_set_runs_as_it_is_written(theirs, their_data, monkeypatch):
    monkeypatch.chdir(their_data)  # its image paths are those of the file
    load = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "PackDetInputs"},
    ]
    dataset = theirs("datasets").MyDataset(ann_file="annotation.txt", pipeline=load)
    sample = dataset[3]
    assert len(dataset) == 8
    assert dataset.metainfo["palette"][0] == (220, 20, 60)
    assert sample["inputs"].shape == (3, 64, 64)
    assert sample["data_samples"].gt_instances.labels.tolist() == [0, 1]


def test_an_own_rule_chooses_the_images(theirs, their_data):
    make = theirs("datasets").MyPrefixedDataset
    arguments = {"ann_file": "annotation.txt", "data_root": str(their_data), "data_prefix": {"img": ""}}
    assert len(make(**arguments, most_instances=2)) == 8
    assert len(make(**arguments, most_instances=1, test_mode=True)) == 8
    assert make(**arguments).get_cat_ids(0) == [0, 1]
    from detcore.errors import DataError

    with pytest.raises(DataError, match="8 by filter_data"):
        make(**arguments, most_instances=1)


def test_the_middle_format_is_read_without_any_code(their_project, their_data, tmp_path):
    from detcore.registry import DATASETS

    instances = [{"bbox": [0, 0, 10, 20], "bbox_label": 1, "ignore_flag": 0}]
    image = {"img_path": str(their_data / "000000.png"), "height": 64, "width": 64, "instances": instances}
    content = {"metainfo": {"classes": ["person", "bicycle"]}, "data_list": [image]}
    (tmp_path / "ann.json").write_text(json.dumps(content))
    cfg = {"type": "BaseDetDataset", "ann_file": str(tmp_path / "ann.json"), "pipeline": []}
    info = DATASETS.build(cfg, default_scope="mmdet")[0]
    assert info["instances"][0]["bbox_label"] == 1


def test_weighted_loss_reduces_as_it_is_told(theirs):
    loss = theirs("losses").MyLoss(loss_weight=2.0)
    pred, target = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])
    value = 2 * torch.tensor(3.0).log()
    assert loss(pred, target) == pytest.approx(value / 2)
    assert loss(pred, target, reduction_override="sum") == pytest.approx(value)
    assert loss(pred, target, avg_factor=4) == pytest.approx(value / 4)
    assert loss(pred, target, torch.tensor([1.0, 0.0])) == 0
    assert loss(pred, target, reduction_override="none").shape == (2,)


def test_channels_of_a_new_backbone(theirs):
    backbone = theirs("backbone").MyMobileNet(arch="small")
    backbone.eval()
    shapes = [tuple(each.shape) for each in backbone.forward(torch.rand(1, 3, 32, 32))]
    assert shapes == [(1, 32, 8, 8), (1, 64, 4, 4), (1, 128, 2, 2)]


def test_init_cfg_of_a_module_and_of_the_config(their_project):
    from detcore.registry import MODELS

    own = MODELS.build({"type": "MyMobileNet"}, default_scope="mmdet")
    own.init_weights()
    assert all((m.weight == 1).all() for m in own.modules() if isinstance(m, torch.nn.BatchNorm2d))
    given = {"type": "MyMobileNet", "init_cfg": {"type": "Constant", "val": 3, "layer": "Conv2d"}}
    built = MODELS.build(given, default_scope="mmdet")
    built.init_weights()
    assert (built.layer1[0].pointwise.weight == 3).all()


def test_a_conversion_script_runs(theirs, their_data, tmp_path, caplog):
    regions = {
        "0": {
            "region_attributes": {},
            "shape_attributes": {"all_points_x": [1, 9, 9], "all_points_y": [2, 2, 8]},
        }
    }
    via = tmp_path / "via.json"
    via.write_text(json.dumps({"a": {"filename": "000000.png", "regions": regions}}))
    theirs("convert").convert_via_to_coco(str(via), str(tmp_path / "out" / "coco.json"), str(their_data))
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert coco["images"] == [{"id": 0, "file_name": "000000.png", "height": 64, "width": 64}]
    assert coco["annotations"][0]["bbox"] == [1, 2, 8, 6]
    assert coco["annotations"][0]["segmentation"] == [[1.5, 2.5, 9.5, 2.5, 9.5, 8.5]]
