"""What a semi-supervised training refuses, and how it says so."""

import pytest

from detcore.config import Config
from detcore.engine.check import check_config
from detcore.engine.runner import Runner
from detcore.errors import ConfigError, DataError

OTHERS = ("circle", "ring", "star")


@pytest.fixture
def refusal(training):
    """``refusal(error, change)``: the message with which a training ends after ``change`` of its loader."""

    def run(error, change):
        config = Config(training())
        change(config.train_dataloader)
        with pytest.raises(error) as caught:
            Runner.from_cfg(config).train()
        return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])

    return run


def test_a_ratio_that_does_not_fit_the_batch(refusal):
    said = refusal(ConfigError, lambda loader: loader.sampler.update(source_ratio=[1, 2]))
    assert said.startswith("train_dataloader.sampler: source_ratio=[1, 2] does not fit batch_size=2")
    assert "batch_size=3 would fit" in said


def test_a_ratio_for_other_sources(refusal):
    said = refusal(ConfigError, lambda loader: loader.sampler.update(source_ratio=[1, 1, 1]))
    assert "3 numbers for 2 sources" in said


def test_a_sampler_that_cuts_other_batches_than_the_loader(refusal):
    said = refusal(ConfigError, lambda loader: loader.update(batch_size=4))
    assert "train_dataloader.sampler.batch_size=2 differs from train_dataloader.batch_size=4" in said


def test_unlabelled_images_of_other_classes(refusal):
    said = refusal(DataError, lambda loader: loader.dataset.datasets[1].update(metainfo={"classes": OTHERS}))
    assert "datasets[0] and datasets[1] differ in metainfo 'classes'" in said
    assert "('circle', 'ring', 'square')" in said
    assert "('circle', 'ring', 'star')" in said


@pytest.mark.parametrize(("plain", "branches"), [(0, "unsup_teacher, unsup_student"), (1, "sup")])
def test_one_data_set_without_branches(refusal, plain, branches):
    def change(loader):
        loader.dataset.datasets[plain].pipeline[-1] = {"type": "PackDetInputs"}

    said = refusal(DataError, change)
    assert f"has the branches {branches}" in said
    assert "MultiBranch" in said


def test_no_data_set_with_branches(refusal):
    def change(loader):
        for dataset in loader.dataset.datasets:
            dataset.pipeline[-1] = {"type": "PackDetInputs"}

    assert "end the pipelines with MultiBranch" in refusal(DataError, change)


def rename(branch, name):
    def change(loader):
        for dataset in loader.dataset.datasets:
            last = dataset.pipeline[-1]
            if branch in last:
                last[name] = last.pop(branch)

    return change


@pytest.mark.parametrize(("branch", "name"), [("sup", "supp"), ("unsup_teacher", "unsup_techer")])
def test_a_misspelt_branch(refusal, branch, name):
    said = refusal(DataError, rename(branch, name))
    assert f"the batch has the branches {name}, which the detector does not know" in said
    assert "sup, unsup_teacher, unsup_student" in said


def test_a_misspelt_branch_beside_the_names_of_all(refusal):
    def change(loader):
        for dataset in loader.dataset.datasets:
            dataset.pipeline[-1].branch_field = ["sup", "unsup_teacher", "unsup_student"]
        rename("sup", "supp")(loader)

    said = refusal(ConfigError, change)
    assert "pipelines for supp, but branch_field lists sup, unsup_teacher, unsup_student" in said


def test_an_unlabelled_data_set_alone(refusal):
    def change(loader):
        loader.dataset.datasets = loader.dataset.datasets[1:] * 2

    assert "no labelled images (branch 'sup')" in refusal(DataError, change)


def test_a_head_with_other_classes_than_the_data_is_found_before_a_run(training):
    config = Config(training())
    assert not check_config(config, ["train"])
    config.model.detector.roi_head.bbox_head.num_classes = 7
    (found,) = check_config(config, ["train"])
    assert found.path == "model.detector.roi_head.bbox_head.num_classes"
    assert "train_dataloader.dataset.datasets.0" in found.message
