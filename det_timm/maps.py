"""Which maps of a model a backbone gives, known before it is built."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from det_timm.zoo import FeatureMap, feature_maps
from detcore.errors import ConfigError

FINEST_STRIDE = 4  # of the maps that detectors use, where a config does not choose


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is taken from a model.

    Attributes:
        indices: Of the maps, as timm counts them.
        sources: These maps.
        resampled: Whether a pyramid is made of them.
    """

    indices: tuple[int, ...]
    sources: tuple[FeatureMap, ...]
    resampled: bool


def plan_maps(
    model_name: str, out_indices: Sequence[int] | None = None, pyramid: bool | None = None, **arguments: Any
) -> Plan:
    """Choose the maps of a model; see :class:`~det_timm.backbone.TIMMBackbone`.

    Raises:
        ConfigError: It has no maps, or not these; or a pyramid is asked for where they differ in scale.
    """
    known = feature_maps(model_name, **arguments)
    plain = len(known) > 1 and len({each.stride for each in known}) == 1
    if out_indices is None:
        fine = [i for i, each in enumerate(known) if each.stride >= FINEST_STRIDE]
        indices = (len(known) - 1,) if plain else tuple(fine)
    else:
        indices = tuple(_index(index, known, model_name) for index in out_indices)
        if list(indices) != sorted(set(indices)):
            raise ConfigError(f"out_indices must ascend, got {tuple(out_indices)}")
    if not indices:
        raise ConfigError(f"timm's {model_name}: out_indices is empty")
    sources = tuple(known[index] for index in indices)
    if pyramid and (len({each.stride for each in sources}) > 1 or len(sources) not in (1, 2, 3, 4)):
        strides = [each.stride for each in sources]
        raise ConfigError(f"pyramid=True takes one to four maps of one stride; {model_name} gives {strides}")
    return Plan(indices, sources, plain if pyramid is None else pyramid)


def _index(index: Any, known: Sequence[FeatureMap], model_name: str) -> int:
    if not isinstance(index, int) or not -len(known) <= index < len(known):
        there = ", ".join(f"{i}: stride {each.stride}" for i, each in enumerate(known))
        raise ConfigError(f"out_indices: timm's {model_name} has no map {index!r}; it has {there}")
    return index % len(known)
