"""What a user means by "these images": files, folders, patterns, arrays, and lists of them."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detcore.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def iterate_images(inputs: Any) -> Iterator[Path | np.ndarray]:
    """Go through images one by one; nothing is loaded, and no list of all of them is made.

    Args:
        inputs: file; folder (its image files by name, not those of folders in it); pattern such as
            ``'shots/**/*.png'``; array (H, W, 3) or (N, H, W, 3); or an iterable of those, a generator too.

    Raises:
        DataError: a file or folder is not there, a folder or pattern has no image, or something is no image.
    """
    if isinstance(inputs, np.ndarray):
        if inputs.ndim not in (2, 3, 4):
            raise DataError(f"an image is an array (H, W, 3), several are (N, H, W, 3); got {inputs.shape}")
        yield from inputs if inputs.ndim == 4 else [inputs]
    elif isinstance(inputs, (str, Path)):
        yield from _files(Path(inputs))
    elif isinstance(inputs, Iterable):
        for one in inputs:
            yield from iterate_images(one)
    else:
        raise DataError(f"expected files, folders or arrays, got {type(inputs).__name__}")


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        names = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
        if not names:
            raise DataError(f"the folder {path} has no image ({', '.join(IMAGE_SUFFIXES)})")
        yield from names
    elif path.exists() or not glob.has_magic(str(path)):
        yield path  # a missing one is named when it is read, so that it can be skipped as a broken one is
    else:
        found = glob.iglob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        names = sorted(Path(name) for name in found)
        names = [name for name in names if name.suffix.lower() in IMAGE_SUFFIXES]
        if not names:
            raise DataError(f"no image file fits the pattern {path}")
        yield from names
