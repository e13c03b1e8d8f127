"""Transforms that mix several images, shown by a toy that averages two."""
import copy
import random

import numpy as np
import pytest

from detcore.data import build_dataloader
from detcore.data.mix_dataset import MultiImageMixDataset
from detcore.data.table import Instances
from detcore.errors import ConfigError, DataError
from detcore.registry import DATASETS, TRANSFORMS


@pytest.fixture(scope="module", autouse=True)
def toys():
    """Two toy transforms, registered for this module."""

    @TRANSFORMS.register_module(force=True)
    class ToyMix:
        """Appends the boxes of others, and averages their first pixels into the image's."""

        def __init__(self, count=2):
            self.count = count

        def get_indexes(self, dataset):
            return [random.randrange(len(dataset)) for _ in range(self.count)]

        def __call__(self, results):
            others = results["mix_results"]
            results["mixed"] = [results["img_id"], *(other["img_id"] for other in others)]
            pixels = [one["img"][0, 0].astype(int) for one in (results, *others)]
            results["img"][0, 0] = np.mean(pixels, 0)
            for key in ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags"):
                results[key] = np.concatenate([results[key], *(other[key] for other in others)])
            return results

    @TRANSFORMS.register_module(force=True)
    class ToyRefuse:
        """Refuses samples with a probability."""

        def __init__(self, prob):
            self.prob = prob

        def __call__(self, results):
            return None if np.random.rand() < self.prob else results

    return ToyMix, ToyRefuse


LOAD = [
    {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "RandomFlip", "prob": 0.5},
]


@pytest.fixture
def mixed(tiny_cfg):
    def make(*steps, **changes):
        cfg = {
            "type": "MultiImageMixDataset", "dataset": tiny_cfg(pipeline=LOAD),
            "pipeline": list(steps) or [{"type": "ToyMix"}, {"type": "PhotoMetricDistortion"}],
        }
        return {**cfg, **changes}

    return make


def test_a_transform_gets_the_samples_that_it_asks_for(mixed):
    data = DATASETS.build(mixed({"type": "ToyMix", "count": 3}))
    sample = data[4]
    assert sample["mixed"][0] == 4
    assert len(sample["mixed"]) == 4
    assert len(sample["gt_bboxes"]) == sum(number % 3 + 1 for number in sample["mixed"])
    assert "mix_results" not in sample


def test_one_index_need_not_stand_in_a_list(mixed, toys):
    class One(toys[0]):
        def get_indexes(self, dataset):
            return np.int64(2)

    data = DATASETS.build(mixed(One()))
    assert data[0]["mixed"] == [0, 2]
    assert data.pipeline_types == ["One"]


def test_it_knows_what_the_data_set_knows(mixed, tiny_cfg):
    data, inner = DATASETS.build(mixed(lazy_init=True)), DATASETS.build(tiny_cfg())
    assert len(data) == len(inner) == 7
    assert data.metainfo == inner.metainfo
    assert [data.get_cat_ids(i) for i in range(7)] == [inner.get_cat_ids(i) for i in range(7)]
    assert (data.image_sizes() == inner.image_sizes()).all()
    assert data.image_labels().values.tolist() == inner.image_labels().values.tolist()
    assert data.image_size(3) == inner.image_size(3)
    assert data.get_data_info(3)["img_id"] == inner.get_data_info(3)["img_id"]


def test_named_transforms_are_left_out_and_can_be_changed(mixed, caplog):
    data = DATASETS.build(mixed(skip_type_keys=["detcore.ToyMix"]))
    assert "mixed" not in data[0]
    data.update_skip_type_keys([])
    assert "mixed" in data[0]
    assert caplog.text == ""
    data.update_skip_type_keys(("ToyMix", "Mosaics"))
    assert "the pipeline has no Mosaics; it has ToyMix, PhotoMetricDistortion" in caplog.text
    assert "mixed" not in data[0]
    with pytest.raises(ValueError, match="skip_type_keys must be a list of names, got 'ToyMix'"):
        data.update_skip_type_keys("ToyMix")


def test_a_refused_sample_is_begun_anew(mixed):
    data = DATASETS.build(mixed({"type": "ToyMix"}, {"type": "ToyRefuse", "prob": 0.5}))
    assert all(data[idx]["mixed"][0] == idx for idx in range(7))


def test_a_sample_that_is_always_refused_is_an_error_that_names_the_transform(mixed):
    data = DATASETS.build(mixed({"type": "ToyRefuse", "prob": 1}, max_refetch=3))
    with pytest.raises(DataError, match=r"sample 5 was refused 3 times \(max_refetch\).*by ToyRefuse"):
        data[5]
    with pytest.raises(ValueError, match="max_refetch must be at least 1"):
        DATASETS.build(mixed(max_refetch=0))


def test_mistakes_in_its_pipeline_are_found_with_all_others(mixed):
    cfg = mixed({"type": "Resise"}, {"type": "RandomFlip", "probability": 0.5})
    problems = [str(problem) for problem in DATASETS.check(cfg)]
    assert problems[0].startswith("pipeline.0: ")
    assert any(problem.startswith("pipeline.1.probability: ") for problem in problems)
    with pytest.raises(ConfigError, match=r"pipeline\.1\.probability"):
        DATASETS.build(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_from_seed_and_position_alone(mixed, workers):
    steps = [
        {"type": "ToyMix"}, {"type": "ToyRefuse", "prob": 0.3}, {"type": "PhotoMetricDistortion"},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "mixed", "flip")},
    ]

    def loader(**changes):
        cfg = {"batch_size": 2, "dataset": mixed(*steps), "sampler": {"type": "InfiniteSampler"}, **changes}
        return build_dataloader(cfg, seed=3)

    def batches(iterator, count):
        return [
            [
                (sample.mixed, sample.flip, int(image.sum()), sample.gt_instances.bboxes.tolist())
                for image, sample in zip(*batch.values(), strict=True)
            ]
            for batch, _ in zip(iterator, range(count), strict=False)
        ]

    whole = batches(loader(), 8)
    first = loader(num_workers=workers)
    assert batches(iter(first), 3) == whole[:3]
    second = loader(num_workers=workers)
    second.load_state_dict({**first.state_dict(), "batches": 3})
    assert batches(iter(second), 5) == whole[3:]
    first.close()
    second.close()


def test_a_copy_of_a_sample_does_not_copy_the_annotations(tiny_cfg):
    data = DATASETS.build(tiny_cfg())
    info = data.get_data_info(0)
    twin = copy.deepcopy(info)
    assert isinstance(twin["instances"], Instances)
    assert twin["instances"]._table is data.table
    assert twin == info


def test_it_takes_a_built_data_set(tiny_cfg, toys):
    inner = DATASETS.build(tiny_cfg(pipeline=LOAD))
    data = MultiImageMixDataset(inner, [toys[0](1)])
    assert len(data[6]["mixed"]) == 2
