"""Changes of colour: what they do to values, held against Pillow's, and what they leave alone."""
import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from detcore.data.transforms.color import (
    AutoContrast,
    Brightness,
    Color,
    ColorTransform,
    Contrast,
    Equalize,
    Invert,
    Posterize,
    Sharpness,
    Solarize,
    SolarizeAdd,
)
from detcore.testing import tiny_results

ALL = (
    ColorTransform, Color, Brightness, Contrast, Sharpness, Solarize, SolarizeAdd, Posterize, Equalize,
    AutoContrast, Invert,
)  # fmt: skip


def made_up():
    """Smooth and noisy parts, in colour, with few very dark and very bright values."""
    ys, xs = np.mgrid[0:90, 0:130]
    img = np.stack([60 + xs, 20 + ys + xs // 2, 200 - ys], -1) + np.random.default_rng(0).integers(
        -15, 16, (90, 130, 3)
    )
    return img.clip(0, 255).astype(np.uint8)


def photographs(folder: Path) -> list[np.ndarray]:
    found = sorted(folder.rglob("*.jpg"))[:6]
    assert len(found) == 6
    return [cv2.imread(str(path)) for path in found]


def changed(transform, img):
    before = img.copy()
    out = transform({"img": img})["img"]
    assert np.array_equal(img, before)  # the given image is not written to
    assert (out.shape, out.dtype) == (img.shape, img.dtype)
    return out


def by_pillow(img, change):
    return np.asarray(change(Image.fromarray(img[..., ::-1])))[..., ::-1].astype(int)


# level 5 of (0.1, 1.9) is 1, which changes nothing; magnitudes are rounded to one decimal.
ENHANCED = [
    (kind, getattr(ImageEnhance, kind.__name__), level, mag)
    for kind in (Color, Brightness, Contrast, Sharpness)
    for level, mag in ((0, 0.1), (3, 0.6), (5, 1.0), (8, 1.5), (10, 1.9))
]
OPS = [
    (Posterize(level=4), lambda picture: ImageOps.posterize(picture, 2)),
    (Posterize(level=10), lambda picture: ImageOps.posterize(picture, 4)),
    (Solarize(level=5), lambda picture: ImageOps.solarize(picture, 128)),
    (Solarize(level=10), lambda picture: picture),
    (Solarize(level=0), ImageOps.invert),
    (Equalize(), ImageOps.equalize),
    (AutoContrast(), ImageOps.autocontrast),
    (Invert(), ImageOps.invert),
    (ColorTransform(level=9), lambda picture: picture),
]


def hold_against_pillow(img):
    for kind, enhance, level, mag in ENHANCED:
        ours = changed(kind(level=level), img).astype(int)
        theirs = by_pillow(img, lambda picture, enhance=enhance, mag=mag: enhance(picture).enhance(mag))
        # Pillow leaves the outermost pixels unsmoothed.
        inner = np.s_[1:-1, 1:-1] if kind is Sharpness else np.s_[:, :]
        assert np.abs(ours - theirs)[inner].max() <= 2, (kind, mag)
    for transform, op in OPS:
        assert np.abs(changed(transform, img) - by_pillow(img, op)).max() <= 1, transform


def test_values_are_those_of_pillow():
    hold_against_pillow(made_up())


@pytest.mark.shared
def test_values_are_those_of_pillow_on_photographs(shared):
    for img in photographs(shared("data/coco_permissive/images")):
        hold_against_pillow(img)


def test_solarize_add_brightens_what_is_dark():
    img = np.array([[0, 50, 127, 128, 255]], np.uint8)
    assert changed(SolarizeAdd(level=5), img).tolist() == [[55, 105, 182, 128, 255]]
    assert changed(SolarizeAdd(level=10), img).tolist() == [[110, 160, 237, 128, 255]]


@pytest.mark.parametrize("transform", [Equalize(), AutoContrast()], ids=repr)
def test_an_image_of_one_value_has_nothing_to_spread(transform):
    img = np.full((4, 5, 3), 77, np.uint8)
    assert np.array_equal(changed(transform, img), img)


def test_spreading_reaches_both_ends_in_each_channel():
    img = made_up() // 2 + 40
    for transform in (Equalize(), AutoContrast()):
        out = changed(transform, img).reshape(-1, 3)
        assert out.min(0).tolist() == [0, 0, 0]
        assert out.max(0).min() >= 254


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (1, 1, 3)], ids=str)
def test_grey_images_and_single_pixels_keep_their_shape(kind, shape):
    img = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    out = changed(kind(), img)
    if kind in (Color, ColorTransform) and shape != (1, 1, 3):
        assert np.array_equal(out, img)


@pytest.mark.parametrize("kind", [kind for kind in ALL if not kind.uint8_only])
def test_float_images_are_changed_like_bytes(kind):
    img = made_up()
    transform = kind(level=7)
    floats = changed(transform, img.astype(np.float32))
    assert floats.min() >= 0
    assert floats.max() <= 255
    assert np.abs(floats - changed(transform, img)).max() <= 1.5


@pytest.mark.parametrize("kind", ALL)
def test_only_the_image_changes(kind):
    given = tiny_results()
    out = kind()(copy.deepcopy(given))
    assert out.keys() == given.keys()
    for key in ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags"):
        assert np.array_equal(out[key], given[key])
    assert np.array_equal(out["gt_masks"].masks, given["gt_masks"].masks)


class Half(ColorTransform):
    """One of a user's own, as it is written for MMDetection."""

    def _transform_img(self, results, mag):
        results["img"] = (results["img"] * (mag / 2)).astype(results["img"].dtype)


def test_classes_of_users_override_what_they_did():
    assert Half(level=5)({"img": np.full((2, 2, 3), 100, np.uint8)})["img"].max() == 50


def test_the_probability_decides_whether_an_image_changes():
    np.random.seed(0)
    img = made_up()
    times = sum(not np.array_equal(Invert(prob=0.3)({"img": img})["img"], img) for _ in range(400))
    assert 80 < times < 160
    assert Invert(prob=0.0)({"img": img})["img"] is img


def test_levels_are_drawn_over_the_whole_range_and_follow_the_seed():
    img = np.full((1, 1), 100, np.uint8)
    np.random.seed(3)
    drawn = [int(changed(Brightness(), img)[0, 0]) for _ in range(300)]
    assert min(drawn) < 20
    assert max(drawn) > 180
    np.random.seed(3)
    assert drawn == [int(changed(Brightness(), img)[0, 0]) for _ in range(300)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Color(prob=1.5), r"Color: prob must lie in \[0, 1\], got 1.5"),
        (lambda: Brightness(level=11), "Brightness: level must be a whole number from 0 to 10.*got 11"),
        (lambda: Brightness(level=0.5), "Brightness: level must be a whole number"),
        (lambda: Contrast(min_mag=1.5, max_mag=0.5), "Contrast: .*got min_mag=1.5, max_mag=0.5"),
        (lambda: Sharpness(max_mag=2.1), r"Sharpness: 0.0 <= min_mag <= max_mag <= 2.0 must hold"),
        (lambda: Solarize(max_mag=300.0), "Solarize: .*256.0"),
        (lambda: SolarizeAdd(min_mag=-1.0), "SolarizeAdd: .*got min_mag=-1.0"),
        (lambda: Posterize(max_mag=9.0), "Posterize: .*8.0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("transform", "img", "message"),
    [
        (Equalize(), np.zeros((2, 2, 3), np.float32), "Equalize takes an image of uint8, got float32"),
        (Posterize(), np.zeros((2, 2, 3), np.float32), "Posterize takes an image of uint8, got float32"),
        (Invert(), np.zeros((2, 2, 3), np.uint16), "Invert takes an image of uint8 or float32, got uint16"),
        (Color(), np.zeros((2, 2, 4), np.uint8), r"Color takes an image .* got shape \(2, 2, 4\)"),
        (Contrast(), np.zeros((2, 2, 2), np.uint8), "Contrast takes an image"),
    ],
)
def test_images_that_cannot_be_changed_are_named(transform, img, message):
    with pytest.raises(ValueError, match=message):
        transform({"img": img})
