"""Policies of colour and geometric changes: AutoAugment and RandAugment (Cubuk et al. 2019 and 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results
from detcore.data.transforms.color import (
    AutoContrast,
    Brightness,
    Color,
    Contrast,
    Equalize,
    Invert,
    Posterize,
    Sharpness,
    Solarize,
    SolarizeAdd,
)
from detcore.data.transforms.compose import RandomChoice
from detcore.data.transforms.geometric import Rotate, ShearX, ShearY, TranslateX, TranslateY
from detcore.registry import TRANSFORMS

# The policies found for classification, which MMDetection takes by default: kind, probability, level.
POLICIES = (
    ((Equalize, 0.8, 1), (ShearY, 0.8, 4)),
    ((Color, 0.4, 9), (Equalize, 0.6, 3)),
    ((Color, 0.4, 1), (Rotate, 0.6, 8)),
    ((Solarize, 0.8, 3), (Equalize, 0.4, 7)),
    ((Solarize, 0.4, 2), (Solarize, 0.6, 2)),
    ((Color, 0.2, 0), (Equalize, 0.8, 8)),
    ((Equalize, 0.4, 8), (SolarizeAdd, 0.8, 3)),
    ((ShearX, 0.2, 9), (Rotate, 0.6, 8)),
    ((Color, 0.6, 1), (Equalize, 1.0, 2)),
    ((Invert, 0.4, 9), (Rotate, 0.6, 0)),
    ((Equalize, 1.0, 9), (ShearY, 0.6, 3)),
    ((Color, 0.4, 7), (Equalize, 0.6, 0)),
    ((Posterize, 0.4, 6), (AutoContrast, 0.4, 7)),
    ((Solarize, 0.6, 8), (Color, 0.6, 9)),
    ((Solarize, 0.2, 4), (Rotate, 0.8, 9)),
    ((Rotate, 1.0, 7), (TranslateY, 0.8, 9)),
    ((ShearX, 0.0, 0), (Solarize, 0.8, 4)),
    ((ShearY, 0.8, 0), (Color, 0.6, 4)),
    ((Color, 1.0, 0), (Rotate, 0.6, 2)),
    ((Equalize, 0.8, 4), (Equalize, 0.0, 8)),
    ((Equalize, 1.0, 4), (AutoContrast, 0.6, 2)),
    ((ShearY, 0.4, 7), (SolarizeAdd, 0.6, 7)),
    ((Posterize, 0.8, 2), (Solarize, 0.6, 10)),
    ((Solarize, 0.6, 8), (Equalize, 0.6, 1)),
    ((Color, 0.8, 6), (Rotate, 0.4, 5)),
)
SPACE = (
    AutoContrast, Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd, Color, Contrast, Brightness,
    Sharpness, ShearX, ShearY, TranslateX, TranslateY,
)  # fmt: skip


class AutoAugment(RandomChoice):
    """One of several policies, drawn anew for each sample; its transforms are applied in order.

    Args:
        policies: Policies, each a list of transforms; the 25 of AutoAugment by default.
        prob: Probability of each, equal ones by default.
    """

    def __init__(
        self,
        policies: Annotated[Sequence[Any] | None, TRANSFORMS] = None,
        prob: Sequence[float] | None = None,
    ) -> None:
        if policies is None:
            policies = [[kind(prob=part, level=level) for kind, part, level in each] for each in POLICIES]
        _check_lists(policies, "AutoAugment: policies")
        super().__init__(policies, prob)

    def __repr__(self) -> str:
        return f"AutoAugment({self.transforms!r}, prob={self.prob})"


class RandAugment(BaseTransform):
    """Some of several transforms, different ones, drawn anew for each sample and applied as drawn.

    Args:
        aug_space: What to draw from, each a list of transforms; 15 colour and geometric changes by default.
        aug_num: How many are drawn.
        prob: Probability of each, equal ones by default.
    """

    def __init__(
        self,
        aug_space: Annotated[Sequence[Any] | None, TRANSFORMS] = None,
        aug_num: int = 2,
        prob: Sequence[float] | None = None,
    ) -> None:
        space = [[kind()] for kind in SPACE] if aug_space is None else aug_space
        _check_lists(space, "RandAugment: aug_space")
        self.choice, self.aug_num = RandomChoice(space, prob), aug_num
        possible = len(space) if prob is None else sum(each > 0 for each in prob)
        if not isinstance(aug_num, int) or not 0 <= aug_num <= possible:
            raise ValueError(
                f"RandAugment: aug_num must be a whole number from 0 to {possible}, as many as there are to "
                f"draw from, got {aug_num!r}"
            )

    def transform(self, results: Results) -> Results | None:
        """Draw and apply; None as soon as one refuses the sample."""
        choice = self.choice
        drawn = np.random.choice(len(choice.transforms), self.aug_num, replace=False, p=choice.prob)
        changed: Results | None = results
        for index in drawn.tolist():
            if changed is None:
                break
            changed = choice.transforms[index](changed)
        return changed

    def __repr__(self) -> str:
        return f"RandAugment({self.choice.transforms!r}, aug_num={self.aug_num}, prob={self.choice.prob})"


def _check_lists(value: Any, name: str) -> None:
    """Refuse anything but a list of non-empty lists.

    Raises:
        ValueError: It is something else.
    """
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(isinstance(each, (list, tuple)) and each for each in value)
    ):
        raise ValueError(f"{name} must be a list of lists, each with at least one transform, got {value!r}")
