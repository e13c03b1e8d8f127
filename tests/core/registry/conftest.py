"""A plugin host that tests fill by hand, and registries that forget what a test registered."""
from collections.abc import Iterator

import pytest

from detcore.errors import PluginError
from detcore.registry.core import REGISTRIES
from detcore.registry.scopes import ComponentTable, connect


class HandMadeScopes:
    """Scopes without distributions."""

    def __init__(self) -> None:
        self.tables = {"detcore": ComponentTable("detcore", "detcore 0")}
        self.broken: dict[str, Exception] = {}
        self.packages: dict[str, list[str]] = {}

    def add(self, scope: str, registry: str = "models", **names: str) -> ComponentTable:
        table = self.tables.setdefault(scope, ComponentTable(scope, f"det-{scope} 0"))
        table.add_many(registry, names)
        return table

    def table(self, scope: str) -> ComponentTable:
        if scope in self.broken:
            raise PluginError(f"plugin {scope!r} cannot be used") from self.broken[scope]
        if scope not in self.tables:
            raise PluginError(f"scope {scope!r} is not installed")
        return self.tables[scope]

    def try_table(self, scope: str) -> ComponentTable | None:
        return None if scope in self.broken else self.tables.get(scope)

    loaded_table = try_table

    def tables_telling(self, what: str) -> list[ComponentTable]:
        return [self.tables[scope] for scope in sorted(self.tables) if scope not in self.broken]

    def scopes(self) -> list[str]:
        return sorted({*self.tables, *self.broken})

    def describe(self, scope: str) -> str:
        if scope in self.broken:
            return f"failed: {self.broken[scope]}"
        if scope in self.tables:
            return "loaded"
        return "not installed: pip install det-timm" if scope == "timm" else "not installed"

    def provider(self, name: str) -> str:
        return "det-timm provides it" if name == "TIMMBackbone" else ""

    def scopes_of(self, module: str) -> list[str]:
        return self.packages.get(module, [])


@pytest.fixture
def scopes() -> Iterator[HandMadeScopes]:
    made = HandMadeScopes()
    before = connect(lambda: made)
    kept = {name: dict(registry._registered) for name, registry in REGISTRIES.items()}
    yield made
    connect(before)
    for name, registry in REGISTRIES.items():
        registry._registered = kept[name]
