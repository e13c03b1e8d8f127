"""How strong a change is: fixed by a level, or drawn for each sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_LEVEL = 10


@dataclass(frozen=True)
class Magnitude:
    """A range of magnitudes and how one of them is chosen.

    Magnitudes are rounded to one decimal, as policies that were found with MMDetection expect: a range of
    (0, 0.1) holds two of them.

    Attributes:
        owner: Name of the transform, for messages.
        prob: Probability that the transform is applied at all.
        level: Place in the range, from 0 (``min_mag``) to 10 (``max_mag``); drawn evenly where None.
        min_mag: Smallest magnitude.
        max_mag: Largest magnitude.
        limits: What both must lie between.

    Raises:
        ValueError: A value is outside its range.
    """

    owner: str
    prob: float
    level: int | None
    min_mag: float
    max_mag: float
    limits: tuple[float, float]

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise ValueError(f"{self.owner}: prob must lie in [0, 1], got {self.prob}")
        whole = self.level is None or isinstance(self.level, int)
        if not whole or not 0 <= (self.level or 0) <= MAX_LEVEL:
            raise ValueError(
                f"{self.owner}: level must be a whole number from 0 to {MAX_LEVEL}, or None to draw one, "
                f"got {self.level!r}"
            )
        low, high = self.limits
        if not low <= self.min_mag <= self.max_mag <= high:
            raise ValueError(
                f"{self.owner}: {low} <= min_mag <= max_mag <= {high} must hold, "
                f"got min_mag={self.min_mag}, max_mag={self.max_mag}"
            )

    def drawn(self) -> float | None:
        """A magnitude, or None where this sample is left as it is."""
        if np.random.rand() >= self.prob:
            return None
        place = np.random.rand() if self.level is None else self.level / MAX_LEVEL
        return round(place * (self.max_mag - self.min_mag) + self.min_mag, 1)

    def __repr__(self) -> str:
        return f"prob={self.prob}, level={self.level}, min_mag={self.min_mag}, max_mag={self.max_mag}"
