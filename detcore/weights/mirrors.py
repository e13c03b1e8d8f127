"""Other places where the files of an address lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from detcore.errors import CheckpointError
from detcore.plugins import host


def with_mirrors(addresses: Sequence[str]) -> list[str]:
    """All places to look for a file, in order.

    Args:
        addresses: Where it was published.

    Returns:
        The same paths below each address in ``DETCORE_WEIGHTS_MIRROR`` (several are separated by commas),
        then the addresses themselves, then what plugins know to hold the same files.

    Raises:
        CheckpointError: The variable holds something else than http(s) addresses.
    """
    own = [base.strip().rstrip("/") for base in os.environ.get("DETCORE_WEIGHTS_MIRROR", "").split(",")]
    wrong = [base for base in own if base and not base.startswith(("http://", "https://"))]
    if wrong:
        raise CheckpointError(f"DETCORE_WEIGHTS_MIRROR must hold http(s) addresses, got {', '.join(wrong)}")
    groups = [group for table in host().checkpoints() for group in table.mirrors]
    places = [base + urlsplit(address).path for base in own if base for address in addresses]
    places += [*addresses, *(other for address in addresses for other in _siblings(address, groups))]
    return list(dict.fromkeys(places))


def _siblings(address: str, groups: Iterable[tuple[str, ...]]) -> Iterator[str]:
    secure = re.sub(r"^http://", "https://", address)
    for group in groups:
        base = next((base for base in group if secure.startswith(base)), None)
        if base is not None:
            yield from (other + secure.removeprefix(base) for other in group)
