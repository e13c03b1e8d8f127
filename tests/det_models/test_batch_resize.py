"""Batches that change their size every few steps."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from det_models.batch_augments import BatchSyncRandomResize
from det_models.preprocess import DetDataPreprocessor

from detcore.engine.message_hub import MessageHub
from detcore.structures import DetDataSample, InstanceData, PixelData
from detcore.structures.mask import BitmapMasks

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Run:
    """What a run tells."""

    iter = 0
    seed = 3


@pytest.fixture
def run():
    found = Run()
    found.hub = MessageHub(found)
    return found


def sample():
    found = DetDataSample(metainfo={"img_shape": (60, 90), "pad_shape": (64, 96), "ori_shape": (120, 180)})
    mask = np.zeros((1, 64, 96), np.uint8)
    mask[:, 8:16, 8:24] = 1
    box = torch.tensor([[8.0, 8.0, 24.0, 16.0]])
    found.gt_instances = InstanceData(
        bboxes=box, labels=torch.tensor([1]), masks=BitmapMasks(mask, 64, 96)
    )
    found.ignored_instances = InstanceData(bboxes=torch.tensor([[0.0, 0.0, 96.0, 64.0]]))
    found.gt_sem_seg = PixelData(sem_seg=torch.ones(1, 64, 96, dtype=torch.long))
    return found


def test_pictures_and_annotations_change_together(run):
    augment = BatchSyncRandomResize((128, 128), interval=5, size_divisor=32)
    run.iter = 5
    inputs, (got, _) = augment(IMAGES, [sample(), sample()])
    assert inputs.shape == (2, 3, 128, 192)
    torch.testing.assert_close(
        inputs, F.interpolate(IMAGES, size=(128, 192), mode="bilinear", align_corners=False)
    )
    assert got.gt_instances.bboxes.tolist() == [[16, 16, 48, 32]]
    assert got.ignored_instances.bboxes.tolist() == [[0, 0, 192, 128]]
    assert got.gt_instances.masks.masks.shape == (1, 128, 192)
    assert got.gt_instances.masks.masks[0, 16:32, 16:48].all()
    assert got.gt_instances.masks.masks.sum() == 16 * 32
    assert got.gt_sem_seg.sem_seg.shape == (1, 128, 192)
    meta = got.metainfo
    assert (meta["img_shape"], meta["pad_shape"], meta["batch_input_shape"]) == (
        (120, 180), (128, 192), (128, 192)
    )  # fmt: skip
    assert meta["ori_shape"] == (120, 180)


def test_a_size_lasts_for_an_interval_and_the_first_is_the_batch_s_own(run):
    augment = BatchSyncRandomResize((64, 256), interval=4)
    heights = []
    for run.iter in range(40):
        inputs, _ = augment(IMAGES, None)
        height, width = inputs.shape[-2:]
        assert height % 32 == width % 32 == 0
        assert width == height * 3 // 2 // 32 * 32
        heights.append(height)
    assert heights[:4] == [64] * 4
    by_interval = [set(heights[start : start + 4]) for start in range(0, 40, 4)]
    assert all(len(each) == 1 for each in by_interval)
    assert len(set(heights)) > 3
    assert min(heights) >= 64
    assert max(heights) <= 256


def test_sizes_follow_from_seed_and_step_alone_so_ranks_and_resumed_runs_agree(run):
    sizes = [BatchSyncRandomResize((64, 640)).size_at(step, 3, (64, 96)) for step in range(10, 200, 10)]
    again = BatchSyncRandomResize((64, 640))
    assert [again.size_at(step, 3, (64, 96)) for step in range(199, 9, -10)][::-1] == sizes
    assert [again.size_at(step, 4, (64, 96)) for step in range(10, 200, 10)] != sizes


def test_the_preprocessor_applies_it_in_training_only(run):
    prepare = DetDataPreprocessor(batch_augments=[BatchSyncRandomResize((128, 128), interval=1)])
    run.iter = 3
    batch = {"inputs": IMAGES, "data_samples": [sample(), sample()]}
    assert prepare(copy.deepcopy(batch), training=True)["inputs"].shape[-2:] == (128, 192)
    assert prepare(copy.deepcopy(batch), training=False)["inputs"].shape[-2:] == (64, 96)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="two rising sizes of at least 32 pixels, got \\(640, 320\\)"):
        BatchSyncRandomResize((640, 320))
    with pytest.raises(ValueError, match="two rising sizes of at least 32 pixels, got \\(0, 320\\)"):
        BatchSyncRandomResize((0, 320))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BatchSyncRandomResize((320, 640), interval=0)
