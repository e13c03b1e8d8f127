import numpy as np
import pytest
import torch
from det_models.batch_augments import BatchFixedSizePad

from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData, PixelData
from detcore.structures.mask import BitmapMasks


def samples():
    sample = DetDataSample(metainfo={"img_shape": (4, 6), "batch_input_shape": (4, 6)})
    sample.gt_instances = InstanceData(
        labels=torch.zeros(1), masks=BitmapMasks(np.ones((1, 4, 6), np.uint8), 4, 6)
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.ones(1, 4, 6))
    return [sample]


def test_batches_are_padded_to_one_size_with_their_masks_and_label_maps():
    pad = BatchFixedSizePad((8, 6), img_pad_value=3, pad_mask=True, pad_seg=True, seg_pad_value=9)
    inputs, padded = pad(torch.ones(1, 3, 4, 6), samples())
    assert inputs.shape == (1, 3, 8, 6)
    assert (inputs[:, :, :4] == 1).all()
    assert (inputs[:, :, 4:] == 3).all()
    assert padded[0].metainfo["batch_input_shape"] == (8, 6)
    assert padded[0].gt_instances.masks.masks.shape == (1, 8, 6)
    assert (padded[0].gt_sem_seg.sem_seg[:, 4:] == 9).all()


def test_a_batch_larger_than_the_size_keeps_its_extent():
    inputs, _ = BatchFixedSizePad((2, 8))(torch.ones(1, 3, 4, 6), None)
    assert inputs.shape == (1, 3, 4, 8)


def test_the_preprocessor_applies_it_in_training_only():
    cfg = {"type": "DetDataPreprocessor", "batch_augments": [{"type": "BatchFixedSizePad", "size": (8, 8)}]}
    prepare = MODELS.build(cfg)
    batch = {"inputs": [torch.zeros(3, 4, 6)], "data_samples": None}
    assert prepare(dict(batch), True)["inputs"].shape[-2:] == (8, 8)
    assert prepare(dict(batch), False)["inputs"].shape[-2:] == (4, 6)


def test_a_wrong_size_is_refused():
    with pytest.raises(ValueError, match="positive height and width"):
        BatchFixedSizePad((8, 0))
