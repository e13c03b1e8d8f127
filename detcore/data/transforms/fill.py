"""Values of pixels that a transform makes up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Fill = float | Sequence[float]


def checked_fill(value: Fill, name: str) -> tuple[float, ...]:
    """A number, or one a channel, as a tuple.

    Raises:
        ValueError: There is none, or one lies outside of [0, 255].
    """
    values = (value,) if isinstance(value, (int, float)) else tuple(value)
    if not values or not all(isinstance(each, (int, float)) and 0 <= each <= 255 for each in values):
        raise ValueError(f"{name} must be a number from 0 to 255, or one a channel, got {value!r}")
    return tuple(float(each) for each in values)


def fill_of(img: np.ndarray, values: tuple[float, ...], name: str) -> tuple[float, ...]:
    """One value for each channel of an image (H, W[, C]).

    Raises:
        ValueError: There are different values, but not as many as channels, or more than 4 channels.
    """
    channels = 1 if img.ndim == 2 else img.shape[2]
    if channels > 4:
        raise ValueError(f"an image of at most 4 channels is expected, got shape {img.shape}")
    if len(set(values)) == 1:
        return values[:1] * channels
    if len(values) != channels:
        raise ValueError(
            f"{name}={values} has {len(values)} values, but the image has {channels} channel(s): "
            f"shape {img.shape}"
        )
    return values
