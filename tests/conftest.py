"""Fixtures that every package's tests share."""
import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a file beside the repository (photographs, recorded numbers), or a skip that says why."""

    def find(relative: str) -> Path:
        base = Path(os.environ.get("DETCORE_SHARED", ROOT.parent / "shared"))
        path = base / relative
        data = os.environ.get("DETCORE_DATA")
        if data and relative.split("/", 1)[0] == "data":
            path = Path(data) / relative.removeprefix("data").lstrip("/")
        if not path.exists():
            pytest.skip(f"{relative} is not beside the repository (set DETCORE_SHARED or DETCORE_DATA)")
        return path

    return find


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
