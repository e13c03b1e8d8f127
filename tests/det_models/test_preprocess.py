import pytest
import torch
from det_models.preprocess import DetDataPreprocessor
from torch import nn

from detcore.errors import DataError
from detcore.structures import DetDataSample, InstanceData, PixelData
from detcore.structures.mask import BitmapMasks

MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 8.0]


def image(height, width, seed=0):
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def sample(height, width):
    return DetDataSample(metainfo={"img_shape": (height, width), "img_path": f"{height}.jpg"})


def test_images_are_turned_normalised_and_padded_to_the_divisor():
    images = [image(5, 7), image(6, 4, 1)]
    prepare = DetDataPreprocessor(MEAN, STD, pad_size_divisor=4, pad_value=9, bgr_to_rgb=True)
    batch = prepare({"inputs": images, "data_samples": [sample(5, 7), sample(6, 4)]})
    inputs = batch["inputs"]
    assert inputs.shape == (2, 3, 8, 8)
    assert inputs.dtype == torch.float32
    want = (images[0].flip(0).float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(inputs[0, :, :5, :7], want)
    assert (inputs[0, :, 5:] == 9).all()
    assert (inputs[0, :, :, 7:] == 9).all()
    assert (inputs[1, :, 6:] == 9).all()
    assert (inputs[1, :, :, 4:] == 9).all()
    metas = [each.metainfo for each in batch["data_samples"]]
    assert [meta["batch_input_shape"] for meta in metas] == [(8, 8), (8, 8)]
    assert [meta["pad_shape"] for meta in metas] == [(8, 8), (8, 4)]


def test_the_callers_images_and_samples_stay_as_they_are():
    pictures, plain = torch.ones(2, 3, 4, 4), sample(4, 4)
    DetDataPreprocessor(MEAN, STD, pad_size_divisor=8)(
        {"inputs": pictures, "data_samples": [plain, sample(4, 4)]}
    )
    DetDataPreprocessor(MEAN, STD)({"inputs": pictures})
    assert (pictures == 1).all()
    assert "pad_shape" not in plain.metainfo


def test_a_stacked_batch_is_treated_like_its_images():
    images = torch.stack([image(6, 7), image(6, 7, 1)])
    prepare = DetDataPreprocessor(MEAN, STD, pad_size_divisor=4)
    one = prepare({"inputs": images, "data_samples": None})
    other = prepare({"inputs": list(images)})
    torch.testing.assert_close(one["inputs"], other["inputs"])
    assert other["data_samples"] is None


def test_without_mean_images_only_become_float():
    got = DetDataPreprocessor()({"inputs": [image(4, 4)]})["inputs"]
    torch.testing.assert_close(got[0], image(4, 4).float())


def test_float_images_and_a_grey_channel_are_welcome():
    got = DetDataPreprocessor([1.0], [2.0])({"inputs": [torch.full((1, 4, 4), 5.0)]})["inputs"]
    assert (got == 2).all()


def test_masks_and_label_maps_are_padded_in_training_only():
    prepare = DetDataPreprocessor(pad_size_divisor=8, pad_mask=True, pad_seg=True, seg_pad_value=255)
    for training, size in ((True, (8, 8)), (False, (5, 6))):
        one = sample(5, 6)
        one.gt_instances = InstanceData(
            bboxes=torch.ones(1, 4), masks=BitmapMasks(torch.ones(1, 5, 6, dtype=torch.uint8).numpy(), 5, 6)
        )
        one.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, 5, 6, dtype=torch.long))
        (got,) = prepare({"inputs": [image(5, 6)], "data_samples": [one]}, training=training)["data_samples"]
        assert (got.gt_instances.masks.height, got.gt_instances.masks.width) == size
        assert tuple(got.gt_sem_seg.sem_seg.shape[-2:]) == size
        if training:
            assert (got.gt_sem_seg.sem_seg[0, 5:] == 255).all()


class Doubling(nn.Module):
    def forward(self, inputs, data_samples):
        return inputs * 2, data_samples


def test_batch_augments_run_in_training_only():
    prepare = DetDataPreprocessor(batch_augments=[Doubling()])
    pictures = [torch.ones(3, 2, 2)]
    assert (prepare({"inputs": pictures, "data_samples": [sample(2, 2)]}, training=True)["inputs"] == 2).all()
    assert (prepare({"inputs": pictures, "data_samples": [sample(2, 2)]})["inputs"] == 1).all()


def test_normalisation_survives_a_model_in_half_precision():
    prepare = DetDataPreprocessor([123.675], [58.395]).bfloat16()
    got = prepare({"inputs": [torch.full((3, 2, 2), 123.0)]})["inputs"]
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(
        got.float(), torch.full((1, 3, 2, 2), (123 - 123.675) / 58.395), rtol=1e-2, atol=0
    )
    assert float(prepare.mean) == pytest.approx(123.675)
    assert float(prepare.std) == pytest.approx(58.395)


def test_it_leaves_nothing_in_checkpoints():
    assert DetDataPreprocessor(MEAN, STD).state_dict() == {}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no image"),
        ([torch.zeros(4, 4)], r"\[C, H, W\], got one of shape \(4, 4\)"),
        ([torch.zeros(4, 4, 3)], r"has 4 channels, expected 3 \(image 0 of the batch, 4.jpg\)"),
        ([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)], r"has 1 channels, expected 3 \(image 1"),
        (torch.zeros(3, 4, 4), r"got one of shape \(4, 4\) in a stacked batch"),
    ],
)
def test_images_of_another_shape_are_named(inputs, message):
    samples = [sample(4, 4) for _ in inputs]
    with pytest.raises(DataError, match=message):
        DetDataPreprocessor(MEAN, STD)({"inputs": inputs, "data_samples": samples})


def test_samples_must_be_as_many_as_images():
    with pytest.raises(DataError, match="2 images come with 1"):
        DetDataPreprocessor()({"inputs": torch.zeros(2, 3, 4, 4), "data_samples": [sample(4, 4)]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": MEAN}, "go together"),
        ({"mean": MEAN, "std": [1.0]}, "one for each of 3 channels"),
        ({"mean": [1.0, 2.0], "std": [1.0, 2.0]}, "one for each of 3 channels"),
        ({"mean": MEAN, "std": [1.0, 0.0, 1.0]}, "positive"),
        ({"bgr_to_rgb": True, "rgb_to_bgr": True}, "undo one another"),
        ({"pad_size_divisor": 0}, "at least 1"),
    ],
)
def test_arguments_that_contradict_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetDataPreprocessor(**arguments)
