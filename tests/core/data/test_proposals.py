"""Proposals from files into samples, and there along with the image."""

import json
import pickle

import numpy as np
import pytest
import torch

from detcore.data import build_dataloader
from detcore.data.proposals import load_proposals
from detcore.data.transforms.base import BaseTransform, record_homography
from detcore.data.transforms.proposals import LoadProposals, ProposalBroadcaster
from detcore.errors import DataError
from detcore.evaluation.dump import DumpProposals
from detcore.registry import DATASETS, TRANSFORMS
from detcore.structures.proposals import image_key, proposals_from, read_proposals, write_proposals

LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadProposals"}, {"type": "PackDetInputs"}]


def entries(number=7, seed=0):
    """Proposals of the images of ``tiny``; image 3 has none."""
    rng = np.random.default_rng(seed)
    for image in range(number):
        count = 0 if image == 3 else int(rng.integers(1, 9))
        boxes = np.sort(rng.uniform(0, 30, (count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
        yield f"images/{image}.png", boxes, np.sort(rng.random(count).astype(np.float32))[::-1]


def dumped(folder, name, number=7):
    """The file as `DumpProposals` writes it."""
    metric = DumpProposals(str(folder), name)
    samples = [
        {"img_path": f"/somewhere/{key}", "pred_instances":
            {"bboxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores.copy())}}
        for key, boxes, scores in entries(number)
    ]
    metric.process(None, samples)
    metric.evaluate(len(samples))
    return str(folder / name)


@pytest.mark.parametrize("name", ["rpn.npz", "rpn.json", "rpn.pkl"])
def test_what_was_dumped_is_read_back_bit_for_bit(tmp_path, name):
    table = load_proposals(dumped(tmp_path, name))
    assert len(table) == 7
    for key, boxes, scores in entries():
        found_boxes, found_scores = table.of(key)
        assert found_boxes.dtype == found_scores.dtype == np.float32
        assert np.array_equal(found_boxes, boxes)
        assert np.array_equal(found_scores, scores)
    assert table.of("images/9.png") is None


@pytest.mark.parametrize("name", ["rpn.npz", "rpn.json", "rpn.pkl"])
def test_a_data_set_hands_each_image_its_proposals(tiny, tiny_cfg, name):
    dumped(tiny, name)
    dataset = DATASETS.build(tiny_cfg(proposal_file=name, pipeline=LOAD))
    subset = dataset.get_subset([2, 5, 3])
    for row, (_, boxes, scores) in enumerate(entries()):
        sample = dataset[row]["data_samples"]
        assert torch.equal(sample.proposals.bboxes, torch.from_numpy(boxes))
        assert torch.equal(sample.proposals.scores, torch.from_numpy(scores.copy()))
        sample.proposals.bboxes.zero_()  # a sample is its own
    assert torch.equal(subset[1]["data_samples"].proposals.bboxes, torch.from_numpy(list(entries())[5][1]))
    assert subset[2]["data_samples"].proposals.bboxes.shape == (0, 4)
    assert "proposals" not in DATASETS.build(tiny_cfg(pipeline=LOAD[:1]))[0]


@pytest.mark.slow
def test_spawned_workers_look_at_the_same_memory(tiny, tiny_cfg):
    dumped(tiny, "rpn.npz")
    loader = build_dataloader({
        "dataset": tiny_cfg(proposal_file="rpn.npz", pipeline=LOAD), "batch_size": 1, "num_workers": 1,
        "persistent_workers": False, "multiprocessing_context": "spawn",
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }, seed=0)
    found = [batch["data_samples"][0].proposals.bboxes.clone() for batch in loader]
    loader.close()
    for boxes, (_, want, _) in zip(found, entries(), strict=True):
        assert torch.equal(boxes, torch.from_numpy(want))
    assert not loader.dataset._proposals.boxes.flags.owndata


def test_no_more_than_asked_for_are_taken(tiny, tiny_cfg):
    dumped(tiny, "rpn.npz")
    pipeline = [LOAD[0], {"type": "LoadProposals", "num_max_proposals": 1}]
    dataset = DATASETS.build(tiny_cfg(proposal_file="rpn.npz", pipeline=pipeline))
    for row, (_, boxes, scores) in enumerate(entries()):
        assert np.array_equal(dataset[row]["proposals"], boxes[:1])
        assert np.array_equal(dataset[row]["proposals_scores"], scores[:1])
    with pytest.raises(ValueError, match="positive or None, got 0"):
        LoadProposals(0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: images.pop("images/4.png"), "no proposals for 1 of the 7 images, .* images/4.png"),
        (lambda images: images["images/4.png"].pop("scores"), "'images/4.png' needs a dict with bboxes and"),
        (lambda images: images["images/4.png"].update(bboxes=[[1, 2, 3]], scores=[1]),
         r"bboxes of images/4.png must have shape \(n, 4\), got \(1, 3\)"),
        (lambda images: images["images/4.png"].update(scores=[0.5] * 99), "images/4.png has .* 99 scores"),
        (lambda images: images["images/4.png"].update(bboxes=[[0, 0, float("inf"), 1]], scores=[1]),
         "proposals of images/4.png hold NaN or infinite"),
        (lambda images: images["images/4.png"].update(bboxes=[["a", 0, 1, 1]], scores=[1]), "are no numbers"),
    ],
)
def test_proposals_that_do_not_fit_are_named_with_file_and_image(tiny, tiny_cfg, change, said):
    path = tiny / "rpn.json"
    dumped(tiny, "rpn.json")
    content = json.loads(path.read_text())
    change(content["images"])
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"rpn.json: .*{said}"):
        DATASETS.build(tiny_cfg(proposal_file="rpn.json", pipeline=LOAD))


def test_proposals_of_another_data_set_are_told_so(tiny, tiny_cfg):
    write_proposals(tiny / "other.npz", proposals_from([("train/a.jpg", [[0, 0, 1, 1]], [1])], "test"))
    with pytest.raises(DataError, match=r"any of the 7 images; .*another.*images/0.png, .*train/a.jpg"):
        DATASETS.build(tiny_cfg(proposal_file="other.npz", pipeline=LOAD))


class Runs:
    """What a pickle could do."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images/0.png": Runs()}, "builtins.print.*docs/data.md"),
        ([np.zeros((3, 5), np.float32)], "this is a list; files of MMDetection 2.x"),
        ({"images/0.png": np.zeros((3, 5), np.float32)}, "needs a dict with bboxes and scores"),
    ],
)
def test_pickles_of_something_else_are_refused_and_run_nothing(tmp_path, content, said, capsys):
    path = tmp_path / "rpn.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=said):
        load_proposals(path)
    assert capsys.readouterr().out == ""


def test_a_pickle_in_another_protocol_says_what_to_do(tmp_path):
    path = tmp_path / "rpn.pkl"
    path.write_bytes(pickle.dumps({"images/0.png": {"bboxes": [], "scores": []}}, protocol=4))
    with pytest.raises(DataError, match=r"protocol 4.*docs/data.md"):
        load_proposals(path)


@pytest.mark.parametrize("name", ["rpn.npz", "rpn.json", "rpn.pkl"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "text"])
def test_damaged_files_are_named(tmp_path, name, damage):
    path = tmp_path / name
    if damage != "missing":
        dumped(tmp_path, name)
        content = path.read_bytes()
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(DataError, match=name):
        load_proposals(path)


def test_arrays_of_something_else_are_told_apart(tmp_path):
    np.savez(tmp_path / "a.npz", names=np.array(["a"]))
    with pytest.raises(DataError, match="no array 'first'"):
        read_proposals(tmp_path / "a.npz")
    good = {"names": np.array(["b", "a"]), "first": np.array([0, 0, 1]), "boxes": np.ones((1, 4)),
            "scores": np.ones(1)}
    np.savez(tmp_path / "b.npz", **good)
    with pytest.raises(DataError, match="must ascend, each once; 'a' does not"):
        read_proposals(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **{**good, "first": np.array([0, 2, 1])})
    with pytest.raises(DataError, match="are no proposals: names"):
        read_proposals(tmp_path / "c.npz")
    np.save(tmp_path / "e.npy", np.ones(3))
    (tmp_path / "e.npy").rename(tmp_path / "e.npz")
    with pytest.raises(DataError, match="no array 'names'"):
        read_proposals(tmp_path / "e.npz")
    with pytest.raises(DataError, match=r"\.npz or \.json, got"):
        read_proposals(tmp_path / "d.txt")


def test_images_go_by_folder_and_name():
    assert image_key("/data/coco/val2017/7.jpg") == "val2017/7.jpg"
    assert image_key("7.jpg") == "7.jpg"
    assert image_key("/7.jpg") == "7.jpg"


def test_a_pipeline_without_proposals_says_who_gives_them():
    with pytest.raises(DataError, match=r"a.jpg has no proposals .*proposal_file="):
        LoadProposals().transform({"img_path": "a.jpg"})


# In step with the image.

def sample(seed=0):
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.uniform(0, 60, (12, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    return {
        "img": rng.integers(0, 256, (60, 80, 3)).astype(np.uint8),
        "img_shape": (60, 80), "ori_shape": (60, 80),
        "gt_bboxes": boxes.copy(), "gt_bboxes_labels": np.arange(12), "gt_ignore_flags": np.zeros(12, bool),
        "proposals": boxes.copy(), "proposals_scores": np.linspace(1, 0, 12).astype(np.float32),
    }


class Shift(BaseTransform):
    """A user's transform, which knows no proposals: moves everything right by a drawn number of pixels."""

    def transform(self, results):
        right = np.random.randint(1, 40)
        results["img"] = np.roll(results["img"], right, axis=1)
        boxes = results["gt_bboxes"] + np.array([right, 0, right, 0], np.float32)
        inside = boxes[:, 0] < 80
        for key in ("gt_bboxes_labels", "gt_ignore_flags"):
            results[key] = results[key][inside]
        results["gt_bboxes"] = boxes[inside].clip(max=80)
        record_homography(results, np.array([[1, 0, right], [0, 1, 0], [0, 0, 1]]))
        return results


OURS = [
    {"type": "Resize", "scale": (100, 50), "keep_ratio": False},
    {"type": "RandomFlip", "prob": 1.0, "direction": "horizontal"},
    {"type": "RandomFlip", "prob": 1.0, "direction": "diagonal"},
    {"type": "RandomResize", "scale": (100, 50), "ratio_range": (0.5, 2.0), "keep_ratio": True},
    {"type": "RandomChoiceResize", "scales": [(50, 50), (20, 40)]},
    {"type": "RandomCrop", "crop_size": (40, 30)},
    {"type": "Pad", "size_divisor": 32},
    {"type": "PhotoMetricDistortion"},
]


@pytest.mark.parametrize("cfg", OURS, ids=lambda cfg: cfg["type"])
@pytest.mark.parametrize("broadcast", [False, True])
def test_proposals_go_the_way_of_the_boxes(cfg, broadcast):
    transform = TRANSFORMS.build(cfg)
    np.random.seed(3)
    changed = (ProposalBroadcaster([transform]) if broadcast else transform)(sample())
    assert np.array_equal(changed["proposals"], changed["gt_bboxes"])
    scores = np.linspace(1, 0, 12).astype(np.float32)
    assert np.array_equal(changed["proposals_scores"], scores[changed["gt_bboxes_labels"]])
    if cfg["type"] not in ("Pad", "PhotoMetricDistortion"):
        assert not np.array_equal(changed["proposals"], sample()["proposals"])


def test_a_crop_without_objects_keeps_its_proposals():
    given = {key: value for key, value in sample().items() if not key.startswith("gt_")}
    changed = TRANSFORMS.build({"type": "RandomCrop", "crop_size": (40, 30)})(given)
    assert len(changed["proposals"]) == len(changed["proposals_scores"]) > 0


def test_a_transform_that_knows_no_proposals_is_run_twice_alike():
    np.random.seed(5)
    changed = ProposalBroadcaster([Shift()])(sample())
    follows = np.random.random_sample()
    assert np.array_equal(changed["proposals"], changed["gt_bboxes"])
    assert 0 < len(changed["proposals"]) == len(changed["proposals_scores"])
    np.random.seed(5)
    once = Shift()(sample())
    assert np.random.random_sample() == follows  # what is drawn next is the same
    assert np.array_equal(once["img"], changed["img"])
    assert np.array_equal(once["gt_bboxes"], changed["gt_bboxes"])


def test_the_manuals_pipeline_of_fast_rcnn(tiny, tiny_cfg):
    dumped(tiny, "rpn.pkl")
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadProposals", "num_max_proposals": 4},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "ProposalBroadcaster", "transforms": [
            {"type": "Resize", "scale": (120, 80), "keep_ratio": True}, {"type": "RandomFlip", "prob": 1.0}]},
        {"type": "PackDetInputs"},
    ]
    dataset = DATASETS.build(tiny_cfg(proposal_file="rpn.pkl", pipeline=pipeline))
    for row, (_, boxes, _) in enumerate(entries()):
        packed = dataset[row]
        width = packed["inputs"].shape[2]
        want = boxes[:4] * np.array(packed["data_samples"].scale_factor * 2, np.float32)
        want[:, [0, 2]] = width - want[:, [2, 0]]
        found = packed["data_samples"].proposals.bboxes.numpy()
        inside = (boxes[:4] <= np.tile(packed["data_samples"].ori_shape[::-1], 2)).all(1)
        assert np.allclose(found[inside], want[inside], atol=1e-4)
        assert len(found) == len(boxes[:4])
