"""Imports in a config: names of components, read and never followed.

``from mmdet.models import RetinaNet`` makes ``RetinaNet`` a value that comes out as ``'mmdet.RetinaNet'``,
``from torch.nn import BatchNorm2d`` one that comes out as ``'BN'``, and ``from my_package import MyHead`` one
that comes out as ``'MyHead'``, with ``my_package`` among the config's ``custom_imports``.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from detcore.config.document import ConfigDict, origins_of
from detcore.config.functions import FUNCTIONS
from detcore.config.refusals import HINT, error_at
from detcore.config.values import ConfigFileError, Origin, a_kind
from detcore.errors import ConfigError

PLUGINS = "detcore.plugins"
"""Group of entry points whose names are scopes."""
_TYPE_KEYS = ("type", "_type", "_fn")


@dataclass(frozen=True, slots=True)
class ImportedName:
    """A module, class or function that a config names by an import; compares by what it names.

    Attributes:
        owner: Where the name was imported from; empty for a package as such.
        label: The name there.
        where: File and line of the import.
    """

    owner: str
    label: str
    where: Origin = field(compare=False)

    def attribute(self, name: str) -> "ImportedName":
        """What ``value.name`` names."""
        return ImportedName(self.path, name, self.where)

    @property
    def path(self) -> str:
        """``mmdet.models.RetinaNet``."""
        return f"{self.owner}.{self.label}" if self.owner else self.label

    @property
    def package(self) -> str:
        """``mmdet``."""
        return self.path.partition(".")[0]

    @property
    def is_users(self) -> bool:
        """Whether it is part of the user's own code, which has to be imported before it can be built."""
        return self.package != "torch" and scope_of(self.package) is None

    def __str__(self) -> str:
        return self.label


def imported_names(node: ast.Import | ast.ImportFrom, file: str) -> Iterator[tuple[str, ImportedName]]:
    """The names that an import statement outside of ``with read_base()`` binds, with what they mean.

    Raises:
        ConfigFileError: It names Python's own library, takes all names of a module, or is relative.
    """
    where = (file, node.lineno)
    if isinstance(node, ast.Import):
        for alias in node.names:
            owner, _, label = alias.name.rpartition(".")
            bound = alias.asname or alias.name.partition(".")[0]
            named = ImportedName(owner, label, where) if alias.asname else ImportedName("", bound, where)
            yield _checked(bound, named, node, file), named
        return
    if node.level or node.module is None:
        reason = "outside of 'with read_base()' an import names the package, as in 'from my_package.heads'"
        raise error_at(file, node, reason)
    for alias in node.names:
        named = ImportedName(node.module, alias.name, where)
        yield _checked(alias.asname or alias.name, named, node, file), named


def _checked(bound: str, named: ImportedName, node: ast.stmt, file: str) -> str:
    if named.package in sys.stdlib_module_names:
        reason = f"an import is not allowed where it names Python's own library ({named.package}): {HINT}"
        raise error_at(file, node, reason)
    if bound == "*":
        reason = f"{named.owner} is no config of 'with read_base()', so not all of its names can be imported"
        raise error_at(file, node, reason)
    if bound in FUNCTIONS or bound in ("map", "_base_") or bound.startswith("__"):
        raise error_at(file, node, f"an import may not take the name {bound}")
    return bound


@cache
def _scopes() -> dict[str, str]:
    """Package -> scope: of each installed plugin, by its scope's name and by its own package."""
    found: dict[str, str] = {"detcore": "detcore"}
    served: dict[str, set[str]] = {}
    for entry in metadata.entry_points(group=PLUGINS):
        found[entry.name] = entry.name
        served.setdefault(entry.value.partition(".")[0], set()).add(entry.name)
    for package, scopes in served.items():
        if len(scopes) == 1:
            found.setdefault(package, *scopes)
    return found


def scope_of(package: str) -> str | None:
    """The scope that holds a package's components, where an installed plugin serves it."""
    return _scopes().get(package)


@cache
def _torch_names() -> dict[str, str]:
    """Names of torch's classes -> what configs call them here, read from detcore's own table."""
    import detcore.registry  # noqa: F401  (its registries are what the table is checked against)
    from detcore.components import detcore_components
    from detcore.registry.scopes import ComponentTable

    table = ComponentTable("detcore", "detcore")
    detcore_components(table)
    names: dict[str, list[str]] = {}
    for _, name, reference in table:
        module, _, label = reference.target.partition(":")
        if module.partition(".")[0] == "torch":
            names.setdefault(label, []).append(name)
    chosen = {}
    for label, known in names.items():
        short = min(known, key=len)
        if label not in known and all(name.startswith(short) or name.endswith(short) for name in known):
            # BN of BN and BN2d, SyncBN of SyncBN and MMSyncBN, but neither of bilinear and nearest
            chosen[label] = short
    return chosen


def component_name(named: ImportedName) -> str:
    """What a config writes for it: ``'mmdet.RetinaNet'``, ``'BN'``, ``'MyHead'``; functions have no scope."""
    if named.package == "torch":
        return _torch_names().get(named.label, named.label)
    scope = scope_of(named.package)
    return named.label if scope is None or named.label[:1].islower() else f"{scope}.{named.label}"


def check_uses(key: Any, value: Any) -> None:
    """Refuse imported names where they cannot be names of components.

    Functions, and constants of the user's own modules, are told from classes by how they are written; they
    may stand where a type is asked for (``nms=dict(type=nms)``).

    Args:
        key: The key of the value.
        value: Plain data that holds imported names.

    Raises:
        ConfigError: It holds a module, or a value of imported code, which nobody knows without importing it.
    """
    if isinstance(value, dict):
        for inner, item in value.items():
            check_uses(inner, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_uses(key, item)
    elif isinstance(value, ImportedName):
        a_class = value.label[:1].isupper() and not (value.is_users and value.label.isupper())
        if value.owner and (a_class or (isinstance(key, str) and key.endswith(_TYPE_KEYS))):
            return
        what = f"a value of the module {value.owner}" if value.owner else "a package"
        raise ConfigError(f"{value.path} is {what}, which is not imported: {HINT}")


def name_imports(tree: ConfigDict) -> None:
    """Put names in the place of imported classes, and the modules of the user's own into ``custom_imports``.

    Args:
        tree: A whole config; changed in place.

    Raises:
        ConfigFileError: ``custom_imports`` has not the form that modules could be added to.
    """
    used: dict[str, ImportedName] = {}
    for key, value in tree.items():
        dict.__setitem__(tree, key, _named(value, used))
    if used:
        _ask_for(tree, used)


def _named(value: Any, used: dict[str, ImportedName]) -> Any:
    if isinstance(value, dict):
        for key, item in value.items():
            dict.__setitem__(value, key, _named(item, used))
    elif isinstance(value, (list, tuple)):
        return type(value)([_named(item, used) for item in value])
    elif isinstance(value, ImportedName):
        if value.is_users:
            used.setdefault(value.owner, value)
        return component_name(value)
    return value


def _ask_for(tree: ConfigDict, used: dict[str, ImportedName]) -> None:
    old = tree.get("custom_imports") or {}
    old = old if isinstance(old, dict) else {"imports": old}
    listed = old.get("imports") or []
    listed = [listed] if isinstance(listed, str) else listed
    where = next(iter(used.values())).where
    if not isinstance(listed, (list, tuple)):
        at = origins_of(tree).get("custom_imports", where)
        raise ConfigFileError(*at, f"custom_imports.imports is a list of modules, got {a_kind(listed)}")
    merged = ConfigDict({"allow_failed_imports": False, **old})
    dict.__setitem__(merged, "imports", [*listed, *(module for module in used if module not in listed)])
    origins_of(merged)["imports"] = where
    dict.__setitem__(tree, "custom_imports", merged)
    origins_of(tree).setdefault("custom_imports", where)
