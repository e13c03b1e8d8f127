"""Which maps of a model a backbone gives, known before it is built."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from det_timm.whole import whole_map
from det_timm.zoo import FeatureMap, feature_maps
from detcore.errors import ConfigError

FINEST_STRIDE = 4  # of the maps that detectors use, where a config does not choose


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is taken from a model.

    Attributes:
        indices: Of the maps, as timm counts them; None: the whole model's output.
        sources: These maps.
        resampled: Whether a pyramid is made of them.
    """

    indices: tuple[int, ...] | None
    sources: tuple[FeatureMap, ...]
    resampled: bool


def plan_maps(
    model_name: str,
    out_indices: Sequence[int] | int | None = None,
    pyramid: bool | None = None,
    *,
    features_only: bool = True,
    **arguments: Any,
) -> Plan:
    """Choose the maps of a model; see :class:`~det_timm.backbone.TIMMBackbone`.

    Raises:
        ConfigError: It has no maps, or not these; or a pyramid is asked for where they differ in scale.
    """
    if not features_only:
        if out_indices is not None:
            raise ConfigError(f"out_indices={out_indices!r} chooses maps of features_only=True")
        return Plan(None, (whole_map(model_name, **arguments),), bool(pyramid))
    known = feature_maps(model_name, **arguments)
    plain = len(known) > 1 and len({each.stride for each in known}) == 1
    indices = _default(known, plain) if out_indices is None else _chosen(out_indices, known, model_name)
    sources = tuple(known[index] for index in indices)
    if pyramid and (len({each.stride for each in sources}) > 1 or len(sources) not in (1, 2, 3, 4)):
        strides = [each.stride for each in sources]
        raise ConfigError(f"pyramid=True takes one to four maps of one stride; {model_name} gives {strides}")
    resampled = plain and len(sources) <= 4 if pyramid is None else pyramid
    return Plan(indices, sources, resampled)


def _default(known: Sequence[FeatureMap], plain: bool) -> tuple[int, ...]:
    if plain:
        return (len(known) - 1,)
    fine = tuple(index for index, each in enumerate(known) if each.stride >= FINEST_STRIDE)
    return fine or (len(known) - 1,)


def _chosen(
    out_indices: Sequence[int] | int, known: Sequence[FeatureMap], model_name: str
) -> tuple[int, ...]:
    if isinstance(out_indices, int):
        out_indices = (out_indices,)
    if isinstance(out_indices, str) or not isinstance(out_indices, Sequence) or not out_indices:
        raise ConfigError(f"out_indices must be integers, for example (1, 2, 3, 4), got {out_indices!r}")
    indices = tuple(_index(index, known, model_name) for index in out_indices)
    if list(indices) != sorted(set(indices)):
        raise ConfigError(f"out_indices must ascend, got {tuple(out_indices)}")
    return indices


def _index(index: Any, known: Sequence[FeatureMap], model_name: str) -> int:
    number = isinstance(index, int) and not isinstance(index, bool)
    if not number or not -len(known) <= index < len(known):
        there = ", ".join(f"{i}: stride {each.stride}" for i, each in enumerate(known))
        raise ConfigError(f"out_indices: timm's {model_name} has no map {index!r}; it has {there}")
    return int(index) % len(known)
