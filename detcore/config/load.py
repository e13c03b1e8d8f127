"""Reading a config: the file, its bases, the overrides and the references between keys."""
import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from detcore.config.document import ConfigDict, config_dict, fill_origins, origins_of
from detcore.config.evaluate import Evaluator, base_assignment, parse
from detcore.config.files import (
    Located,
    check_suffix,
    locate_base,
    locate_module,
    locate_named,
    project_of,
    read_text,
)
from detcore.config.imports import check_uses, name_imports
from detcore.config.markup import fill_placeholders, read_markup
from detcore.config.merge import freeze, merge, set_scope
from detcore.config.overrides import apply_options
from detcore.config.placeholders import Placeholders, copied
from detcore.config.read_base import Names, read_bases
from detcore.config.references import References
from detcore.config.values import Budget, ConfigFileError, LimitError, Origin, Table
from detcore.errors import ConfigError

MAX_FILES = 200
"""Files that one config may be made of; MMDetection's longest chain has 14."""
MAX_CHAIN = 30


@dataclass
class Loaded:
    """A config with all its bases merged.

    Attributes:
        tree: The result.
        env_variables: Environment variables that were used, with their values.
    """

    tree: ConfigDict
    env_variables: dict[str, str] = field(default_factory=dict)


def load_file(
    path: str | PathLike[str], *, trust: bool = False, cfg_options: Mapping[str, Any] | None = None
) -> Loaded:
    """Read a config file; see ``Config.fromfile``."""
    name = os.fspath(path)
    load = _Load(trust=trust)
    return load.finish(load.file(locate_named(name), name, ()).tree, name, cfg_options)


def load_text(text: str, suffix: str, *, trust: bool = False) -> Loaded:
    """Read a config from text; see ``Config.fromstring``."""
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    path = Path.cwd() / f"<string>{suffix}"
    check_suffix(path, suffix)
    load = _Load(trust=trust)
    names = load.text(text, _Place(path, "<string>", None if trust else project_of(path), ()))
    return load.finish(names.tree, "<string>", None)


@dataclass(frozen=True)
class _Place:
    """A file that is being read.

    Attributes:
        path: Absolute path.
        shown: The path as messages name it.
        project: Folder that its bases must lie in; None for no bounds.
        chain: The files that led here and this one, outermost first, without links.
    """

    path: Path
    shown: str
    project: Path | None
    chain: tuple[str, ...]


class _Load:
    """One load: what its files share (budget, trust, environment variables)."""

    def __init__(self, trust: bool) -> None:
        self.trust = trust
        self.budget = Budget()
        self.env: dict[str, str] = {}
        self.files = 0
        self.imports = False

    def finish(self, tree: ConfigDict, shown: str, cfg_options: Mapping[str, Any] | None) -> Loaded:
        """Overrides first, then ``${key}``, so that references see the values that will be used."""
        if self.imports:
            name_imports(tree)
        if cfg_options:
            tree = apply_options(tree, cfg_options, resolve=False)

        def origin(mapping: Any, key: Any) -> Origin:
            return (origins_of(mapping) if isinstance(mapping, ConfigDict) else {}).get(key, (shown, 0))

        return Loaded(References(tree, self.budget).resolve(tree, origin), self.env)

    def file(self, found: Located, shown: str, chain: tuple[str, ...]) -> Names:
        """Read a file and its bases.

        Args:
            found: The file.
            shown: Its path as messages name it.
            chain: The files that led here, outermost first.
        """
        real = found.real or os.path.realpath(found.path)
        if real in chain:
            circle = " -> ".join(Path(step).name for step in (*chain[chain.index(real) :], real))
            raise ConfigError(f"the bases go in a circle: {circle}")
        self.files += 1
        if self.files > MAX_FILES or len(chain) > MAX_CHAIN:
            raise ConfigError(f"a config may have at most {MAX_FILES} bases, {MAX_CHAIN} behind one another")
        project = None if self.trust else found.project
        names = self.text(read_text(found.path, shown), _Place(found.path, shown, project, (*chain, real)))
        if found.scope is not None:
            set_scope(names.tree, found.scope)
        return names

    def text(self, source: str, place: _Place) -> Names:
        """Evaluate the text of a file and lay it over its bases."""
        self.budget.charge(len(source) // 8)
        try:
            if place.path.suffix == ".py":
                return self._python(source, place)
            return Names(self._markup(source, place))
        except LimitError as error:
            raise ConfigFileError(place.shown, 0, str(error)) from None

    def _placeholders(self, path: Path, base: Mapping[str, Any]) -> Placeholders:
        return Placeholders(path, base, self.budget, self.env, secrets=self.trust)

    def _python(self, source: str, place: _Place) -> Names:
        tree = parse(source, place.shown)
        base = ConfigDict()
        statement = base_assignment(tree)
        if statement is not None:
            beside = self._placeholders(place.path, {})
            beside.file["fileDirname"] = "."  # bases are named relative to the file
            names = Evaluator(place.shown, beside, self.budget).expression(statement.value)
            base = self._bases(names, (place.shown, statement.lineno), place)
        given = read_bases(tree, place.shown, lambda node: self._module(node, place))
        read = self._trusted if self.trust else self._as_data
        table, base, imports = read(tree, place, base, given)
        return Names(merge(self._frozen(table, place.shown), base), imports)

    def _as_data(
        self, tree: ast.Module, place: _Place, base: ConfigDict, given: Names
    ) -> tuple[Table, ConfigDict, dict[str, Any]]:
        """The variables of a file, its bases as it has left them, and what its imports name."""
        evaluator = Evaluator(place.shown, self._placeholders(place.path, base), self.budget, base, given)
        table = evaluator.module(tree)
        if evaluator.has_imports:
            self.imports = True
            self._check_uses(table, place.shown)
        if evaluator.changed:
            base = self._frozen(base, place.shown)
        return table, base, evaluator.imports

    def _check_uses(self, table: Table, shown: str) -> None:
        for key, value in table.items():
            try:
                check_uses(key, value)
            except ConfigError as error:
                raise ConfigFileError(*table.lines.get(key, (shown, 0)), f"{key}: {error}") from None
            except RecursionError:
                raise ConfigFileError(shown, 0, f"{key} is nested too deeply, or holds itself") from None

    def _trusted(
        self, tree: ast.Module, place: _Place, base: ConfigDict, given: Names
    ) -> tuple[Table, ConfigDict, dict[str, Any]]:
        """As ``_as_data`` for what is data; a file that is more is run as Python."""
        from detcore.config.trusted import run_python

        left = self.budget.left
        try:
            return self._as_data(tree, place, copied(base), given.copy(self.budget))
        except (ConfigFileError, LimitError):
            self.budget.left = left
        self.imports = True
        placeholders = self._placeholders(place.path, base)
        table, base, imports = run_python(tree, place.path, place.shown, placeholders, base, given)
        return table, self._frozen(base, place.shown), imports

    def _markup(self, source: str, place: _Place) -> ConfigDict:
        table = read_markup(source, place.shown, place.path.suffix, self.budget)
        base = ConfigDict()
        if "_base_" in table:
            origin = table.lines.get("_base_", (place.shown, 0))
            base = self._bases(table.pop("_base_"), origin, place)
        filled = fill_placeholders(table, self._placeholders(place.path, base), place.shown)
        return merge(self._frozen(filled, place.shown), base)

    def _frozen(self, value: Table | ConfigDict, shown: str) -> ConfigDict:
        """Severed from everything else; a value that is no data is reported at the key that holds it."""
        items = {}
        lines = value.lines if isinstance(value, Table) else origins_of(value)
        for key, item in value.items():
            try:
                items[key] = freeze(item, self.budget, keep_objects=self.trust)
            except (ConfigError, LimitError) as error:
                raise ConfigFileError(*lines.get(key, (shown, 0)), f"{key}: {error}") from None
        frozen = config_dict(items, dict(lines))
        fill_origins(frozen, (shown, 0))
        return frozen

    def _module(self, node: ast.ImportFrom, place: _Place) -> Names:
        """The config that an import within ``with read_base()`` names."""
        name = "." * node.level + (node.module or "")
        try:
            found = locate_module(name, place.path, place.project)
            return self.file(found, _beside(place.shown, found), place.chain)
        except ConfigFileError:
            raise
        except (ConfigError, OSError, RuntimeError, ValueError) as error:
            raise ConfigFileError(place.shown, node.lineno, f"from {name} import: {error}") from None

    def _bases(self, names: Any, origin: Origin, place: _Place) -> ConfigDict:
        """All bases of a file in one; two may not set the same key."""
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ConfigFileError(*origin, f"_base_ is a path or a list of paths, got {_short(names)}")
        base = ConfigDict()
        for name in names:
            try:
                found = locate_base(name, place.path, place.project)
                one = self.file(found, _beside(origin[0], found), place.chain).tree
            except ConfigFileError:
                raise
            except (ConfigError, OSError, RuntimeError, ValueError) as error:
                raise ConfigFileError(*origin, f"_base_: {error}") from None
            twice = [key for key in one if key in base]
            if twice:
                first = origins_of(base).get(twice[0], ("another base", 0))[0]
                reason = f"two bases set the same key {twice[0]!r}: {first} and {name}; set it in one only"
                raise ConfigFileError(*origin, reason)
            base = merge(one, base)
        return base


def _beside(shown: str, found: Located) -> str:
    """How messages name a base: relative to what the user named, where that is possible."""
    if "::" in found.name or found.name.startswith("~") or shown == "<string>":
        return found.name
    if "::" in shown or Path(shown).is_absolute() or Path(found.name).is_absolute():
        return str(found.path)
    return os.path.normpath(Path(shown).parent / found.name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
