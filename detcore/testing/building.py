"""How the checks get what they check: a config, or a function that makes a fresh one."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from detcore.registry import Registry

Source = Mapping[str, Any] | Callable[[], Any]
"""``dict(type=...)``, or a function without arguments that gives a fresh component at each call."""


def build(source: Source, registry: Registry) -> Any:
    """A fresh component; the same weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return registry.build(dict(source)) if isinstance(source, Mapping) else source()


def require(condition: Any, message: str) -> None:
    """Fail a check with a sentence of its own.

    Raises:
        AssertionError: The condition does not hold.
    """
    if not condition:
        raise AssertionError(message)
