"""Reading a config: the file, its bases, the overrides and the references between keys."""
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from detcore.config.document import ConfigDict, config_dict, origins_of
from detcore.config.evaluate import Evaluator, base_assignment, parse
from detcore.config.files import check_suffix, locate_base, locate_shipped, missing, project_of, read_text
from detcore.config.markup import fill_placeholders, read_markup
from detcore.config.merge import freeze, merge, set_scope
from detcore.config.overrides import apply_options
from detcore.config.placeholders import Placeholders
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
    project: Path | None
    if "::" in name:
        absolute, project = locate_shipped(name)
    else:
        absolute = Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100  (resolve would follow links)
        check_suffix(absolute, name)
        if not absolute.exists():
            raise missing(absolute, name)
        project = project_of(absolute)
    load = _Load(trust=trust)
    tree = load.file(absolute, name, None if trust else project, ())
    return load.finish(tree, name, cfg_options)


def load_text(text: str, suffix: str, *, trust: bool = False) -> Loaded:
    """Read a config from text; see ``Config.fromstring``."""
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    path = Path.cwd() / f"<string>{suffix}"
    check_suffix(path, suffix)
    load = _Load(trust=trust)
    tree = load.text(text, path, "<string>", None if trust else project_of(path), ())
    return load.finish(tree, "<string>", None)


class _Load:
    """One load: what its files share (budget, trust, environment variables)."""

    def __init__(self, trust: bool) -> None:
        self.trust = trust
        self.budget = Budget()
        self.env: dict[str, str] = {}
        self.files = 0

    def finish(self, tree: ConfigDict, shown: str, cfg_options: Mapping[str, Any] | None) -> Loaded:
        """Overrides first, then ``${key}``, so that references see the values that will be used."""
        if cfg_options:
            tree = apply_options(tree, cfg_options, resolve=False)

        def origin(mapping: Any, key: Any) -> Origin:
            return (origins_of(mapping) if isinstance(mapping, ConfigDict) else {}).get(key, (shown, 0))

        return Loaded(References(tree, self.budget).resolve(tree, origin), self.env)

    def file(self, path: Path, shown: str, project: Path | None, chain: tuple[Path, ...]) -> ConfigDict:
        """Read a file and its bases.

        Args:
            path: Absolute path.
            shown: The path as messages name it.
            project: Folder that its bases must lie in; None for no bounds.
            chain: The files that led here, outermost first.
        """
        real = path.resolve()
        if real in chain:
            circle = " -> ".join(step.name for step in (*chain[chain.index(real) :], real))
            raise ConfigError(f"_base_ goes in a circle: {circle}")
        self.files += 1
        if self.files > MAX_FILES or len(chain) > MAX_CHAIN:
            raise ConfigError(f"a config may have at most {MAX_FILES} bases, {MAX_CHAIN} behind one another")
        return self.text(read_text(path, shown), path, shown, project, (*chain, real))

    def text(
        self, source: str, path: Path, shown: str, project: Path | None, chain: tuple[Path, ...]
    ) -> ConfigDict:
        """Evaluate the text of a file and lay it over its bases."""
        self.budget.charge(len(source) // 8)
        try:
            if path.suffix == ".py":
                return self._python(source, path, shown, project, chain)
            return self._markup(source, path, shown, project, chain)
        except LimitError as error:
            raise ConfigFileError(shown, 0, str(error)) from None

    def _placeholders(self, path: Path, base: Mapping[str, Any]) -> Placeholders:
        return Placeholders(path, base, self.budget, self.env, secrets=self.trust)

    def _python(
        self, source: str, path: Path, shown: str, project: Path | None, chain: tuple[Path, ...]
    ) -> ConfigDict:
        tree = parse(source, shown)
        statement = base_assignment(tree)
        base = ConfigDict()
        if statement is not None:
            beside = self._placeholders(path, {})
            beside.file["fileDirname"] = "."  # bases are named relative to the file
            names = Evaluator(shown, beside, self.budget).expression(statement.value)
            base = self._bases(names, (shown, statement.lineno), path, project, chain)
        placeholders = self._placeholders(path, base)
        if self.trust:
            from detcore.config.trusted import run_python

            table = run_python(tree, path, shown, placeholders, base)
            changed = True
        else:
            evaluator = Evaluator(shown, placeholders, self.budget, base)
            table = evaluator.module(tree)
            changed = evaluator.changed
        if changed:
            base = self._frozen(base, shown)
        return merge(self._frozen(table, shown), base)

    def _markup(
        self, source: str, path: Path, shown: str, project: Path | None, chain: tuple[Path, ...]
    ) -> ConfigDict:
        table = read_markup(source, shown, path.suffix, self.budget)
        base = ConfigDict()
        if "_base_" in table:
            origin = table.lines.get("_base_", (shown, 0))
            base = self._bases(table.pop("_base_"), origin, path, project, chain)
        placeholders = self._placeholders(path, base)
        return merge(self._frozen(fill_placeholders(table, placeholders, shown), shown), base)

    def _frozen(self, value: Table | ConfigDict, shown: str) -> ConfigDict:
        """Severed from everything else; a value that is no data is reported at the key that holds it."""
        items = {}
        lines = value.lines if isinstance(value, Table) else origins_of(value)
        for key, item in value.items():
            try:
                items[key] = freeze(item, self.budget, keep_objects=self.trust)
            except (ConfigError, LimitError) as error:
                raise ConfigFileError(*lines.get(key, (shown, 0)), f"{key}: {error}") from None
        return config_dict(items, dict(lines))

    def _bases(
        self, names: Any, origin: Origin, path: Path, project: Path | None, chain: tuple[Path, ...]
    ) -> ConfigDict:
        """All bases of a file in one; two may not set the same key."""
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ConfigFileError(*origin, f"_base_ is a path or a list of paths, got {_short(names)}")
        base = ConfigDict()
        for name in names:
            try:
                found, inner, scope = locate_base(name, path, project)
                one = self.file(found, _beside(origin[0], name, found), inner, chain)
            except ConfigFileError:
                raise
            except (ConfigError, OSError, RuntimeError, ValueError) as error:
                raise ConfigFileError(*origin, f"_base_: {error}") from None
            twice = [key for key in one if key in base]
            if twice:
                first = origins_of(base).get(twice[0], ("another base", 0))[0]
                reason = f"two bases set the same key {twice[0]!r}: {first} and {name}; set it in one only"
                raise ConfigFileError(*origin, reason)
            if scope is not None:
                set_scope(one, scope)
            base = merge(one, base)
        return base


def _beside(shown: str, name: str, found: Path) -> str:
    """How messages name a base: relative to what the user named, where that is possible."""
    if "::" in name or name.startswith("~") or shown == "<string>":
        return name
    if "::" in shown or Path(shown).is_absolute():
        return str(found)
    return os.path.normpath(os.path.join(os.path.dirname(shown), name))  # noqa: PTH118, PTH120


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

