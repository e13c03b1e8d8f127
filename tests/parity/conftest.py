"""What the comparisons with reference software share: the cache of wheels, and the table they print."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
TABLE: list[tuple[str, Any]] = []


def sibling(name: str) -> ModuleType:
    """A script of this folder as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def wheels() -> Any:
    """The reference software; fetched by `make parity` only, otherwise taken from the cache or skipped."""
    module = sibling("wheels")
    if not os.environ.get("DETCORE_PARITY_FETCH"):
        found = module.find()
        if found is None:
            pytest.skip(f"the reference software is not in {module.cache()} (`make parity` fetches it)")
        return found
    try:
        return module.fetch()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def script() -> Any:
    """A script of this folder as a module, by its name."""
    return sibling


@pytest.fixture(scope="session")
def table() -> list[tuple[str, Any]]:
    """Lines ``(what, figure)`` that are printed at the end."""
    return TABLE


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was compared."""
    if TABLE:
        terminalreporter.section("parity with MMDetection 3.3.0 and mmengine 0.10.7")
        width = max(len(what) for what, _ in TABLE)
        for what, figure in TABLE:
            terminalreporter.write_line(f"{what:<{width}}  {figure}")
