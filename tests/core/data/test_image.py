"""Every kind of image file gives what is documented, or an error that names the file."""
import hashlib
import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from detcore.data import BadImageError, read_image
from detcore.data.transforms import LoadImageFromFile, LoadImageFromNDArray
from detcore.errors import DataError


@pytest.fixture(scope="module")
def rgb():
    """A smooth picture, wider than high, so that lossy formats stay close and rotations show."""
    low = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return cv2.resize(low, (64, 48), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def save(tmp_path):
    def write(picture, kind, **options):
        path = tmp_path / f"picture.{kind}"
        picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        picture.save(path, **options)
        return path

    return write


def close(image, rgb, tolerance):
    if image.shape != rgb.shape:
        return False
    return np.abs(image[..., ::-1].astype(int) - rgb.astype(int)).max() <= tolerance


BACKENDS = ["cv2", "pillow"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "options", "tolerance"), [
    ("png", {}, 0), ("bmp", {}, 0), ("tiff", {}, 0), ("webp", {"lossless": True}, 0), ("ppm", {}, 0),
    ("jpg", {"quality": 98}, 12), ("jpg", {"quality": 98, "progressive": True}, 12),
])
def test_plain_colour_pictures_are_read_as_bgr(save, rgb, backend, kind, options, tolerance):
    image = read_image(save(rgb, kind, **options), backend=backend)
    assert image.dtype == np.uint8
    assert close(image, rgb, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_grey_and_one_bit_pictures_get_three_equal_channels(save, rgb, backend):
    for mode in ("L", "1"):
        grey = Image.fromarray(rgb).convert(mode)
        image = read_image(save(grey, "png"), backend=backend)
        assert close(image, np.asarray(grey.convert("RGB")), 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_are_divided_by_256(tmp_path, rgb, backend, kind):
    path = tmp_path / f"deep.{kind}"
    deep = rgb[..., 0].astype(np.uint16) * 256 + 200
    cv2.imwrite(str(path), deep)
    assert close(read_image(path, backend=backend), np.repeat(rgb[..., :1], 3, 2), 0)
    stored = read_image(path, "unchanged", backend)
    assert stored.dtype in (np.uint16, np.int32)
    assert (stored == deep).all()


def test_sixteen_bit_colour_is_divided_by_256(tmp_path, rgb):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), rgb[..., ::-1].astype(np.uint16) * 256 + 200)
    assert close(read_image(path), rgb, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["jpg", "tiff"])
def test_cmyk_becomes_bgr(save, rgb, backend, kind):
    cmyk = Image.fromarray(rgb).convert("CMYK")
    options = {"quality": 98} if kind == "jpg" else {}
    assert close(read_image(save(cmyk, kind, **options), backend=backend), rgb, 16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["png", "gif", "bmp"])
def test_a_palette_is_looked_up(save, rgb, backend, kind):
    palette = Image.fromarray(rgb).quantize(32)
    assert close(read_image(save(palette, kind), backend=backend), np.asarray(palette.convert("RGB")), 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_is_dropped_and_the_colours_below_are_kept(save, rgb, backend):
    alpha = np.full(rgb.shape[:2], 60, np.uint8)
    assert close(read_image(save(np.dstack([rgb, alpha]), "png"), backend=backend), rgb, 0)
    assert read_image(save(np.dstack([rgb, alpha]), "png"), "unchanged", backend).shape == (48, 64, 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_the_first_picture_of_several_is_taken(save, rgb, backend, kind):
    first = Image.fromarray(rgb).quantize(32).convert("RGB")
    options = {"lossless": True} if kind == "webp" else {}
    path = save(first, kind, save_all=True, append_images=[Image.fromarray(255 - rgb)], **options)
    assert close(read_image(path, backend=backend), np.asarray(first), 8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied_or_ignored_as_asked(save, rgb, backend, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 98}, "webp": {"lossless": True}}.get(kind, {})
    path = save(rgb, kind, exif=exif, **options)
    turned = {
        1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1), 7: np.rot90(rgb, -1)[:, ::-1], 8: np.rot90(rgb),
    }
    if orientation == 7:
        turned[7] = rgb[::-1, ::-1].transpose(1, 0, 2)
    tolerance = 12 if kind == "jpg" else 0
    assert close(read_image(path, backend=backend), turned[orientation], tolerance)
    if kind == "jpg":
        assert close(read_image(path, "color_ignore_orientation", backend), rgb, tolerance)


def test_grey_can_be_asked_for(save, rgb):
    grey = read_image(save(rgb, "png"), "grayscale")
    assert grey.shape == (48, 64)
    assert np.abs(grey.astype(int) - np.asarray(Image.fromarray(rgb).convert("L"))).max() <= 1


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.98])
def test_a_cut_off_file_is_an_error_that_names_it(save, rgb, kind, part, capfd):
    path = save(np.random.default_rng(1).integers(0, 256, (60, 80, 3)).astype(np.uint8), kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(BadImageError, match=rf"picture\.{kind}") as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert caught.value.reason in ("image-truncated", "image-undecodable", "image-unknown-kind")
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_jpeg_with_bytes_behind_its_end_is_sound(save, rgb):
    path = save(rgb, "jpg", quality=98)
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert close(read_image(path), rgb, 12)


def test_a_thumbnail_does_not_hide_that_the_jpeg_is_cut_off(save, rgb):
    small = io.BytesIO()
    Image.fromarray(rgb[::4, ::4]).save(small, "JPEG")
    path = save(rgb, "jpg", quality=98)
    data = path.read_bytes()
    thumbnail = b"\xff\xe5" + (len(small.getvalue()) + 2).to_bytes(2, "big") + small.getvalue()
    path.write_bytes(data[:2] + thumbnail + data[2:])
    assert close(read_image(path), rgb, 12)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadImageError, match="cut off"):
        read_image(path)


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "image-empty"), (b"<html>not found</html>", "image-unknown-kind"),
    (b"\xff\xd8\xff", "image-unknown-kind"), (b"\x89PNG\r\n\x1a\n", "image-unknown-kind"),
    (bytes(100), "image-unknown-kind"),
    (b"GIF89a" + bytes(5), "image-unknown-kind"), (b"BM" + bytes(60), "image-unknown-kind"),
])
def test_what_is_no_image_says_so(tmp_path, data, reason):
    path = tmp_path / "odd.jpg"
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=r"odd\.jpg") as caught:
        read_image(path)
    assert caught.value.reason == reason


def test_a_missing_file_and_a_folder_say_so(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(BadImageError) as caught:
            read_image(path)
        assert caught.value.reason == "image-missing"
        assert str(path) in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    header = b"\x00\x00\x00\rIHDR" + struct.pack(">II", 100_000, 100_000) + b"\x08\x02"
    for name, data in {
        "bomb.png": b"\x89PNG\r\n\x1a\n" + header + bytes(40),
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6),
        "bomb.jpg": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff" + bytes(40),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImageError, match=rf"{name}.*max_pixels") as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == "image-too-large"


def test_a_lower_limit_can_be_set(save, rgb):
    with pytest.raises(BadImageError, match="64 x 48"):
        LoadImageFromFile(max_pixels=1000)({"img_path": save(rgb, "png")})


def test_load_image_sets_shapes_and_type(save, rgb):
    results = LoadImageFromFile(to_float32=True)({"img_path": str(save(rgb, "png"))})
    assert results["img"].dtype == np.float32
    assert results["img_shape"] == results["ori_shape"] == (48, 64)


def test_load_image_refuses_the_sample_where_it_is_told_to(tmp_path):
    assert LoadImageFromFile(ignore_empty=True)({"img_path": str(tmp_path / "none.png")}) is None


@pytest.mark.parametrize("arguments", [
    {"color_type": "colour"}, {"imdecode_backend": "turbojpeg"}, {"backend_args": {"backend": "petrel"}},
])
def test_load_image_refuses_unknown_options(arguments):
    with pytest.raises((ValueError, DataError), match=r"expected one of|local"):
        LoadImageFromFile(**arguments)


def test_an_array_is_taken_as_the_image(rgb):
    results = LoadImageFromNDArray()({"img": rgb})
    assert results["img_path"] is None
    assert results["ori_shape"] == (48, 64)
    with pytest.raises(DataError, match="image array"):
        LoadImageFromNDArray()({"img": "photo.jpg"})
