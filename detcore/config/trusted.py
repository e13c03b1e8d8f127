"""Running a config as Python: the one place where that happens, reached only by the user's own ``trust``."""
import ast
import copy
import importlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detcore.config.document import ConfigDict, config_dict, origins_of, to_config
from detcore.config.evaluate import base_assignment
from detcore.config.imports import ImportedName, imported_names
from detcore.config.methods import method_of
from detcore.config.placeholders import PLACEHOLDER, Placeholders
from detcore.config.read_base import Names, is_block
from detcore.config.values import Budget, ConfigFileError, Table
from detcore.errors import ConfigError


class _Importable(ImportedName):
    """A name of a package that detcore serves itself: kept as a name, imported if the file calls it."""

    def __getattr__(self, name: str) -> "_Importable":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Importable(self.path, name, self.where)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        parts = self.path.split(".")
        found: Any = importlib.import_module(parts[0])
        for i, part in enumerate(parts[1:], 2):
            if not hasattr(found, part):
                importlib.import_module(".".join(parts[:i]))
            found = getattr(found, part)
        return found(*args, **kwargs)

    def plain(self) -> ImportedName:
        """The name as files that are data have it."""
        return ImportedName(self.owner, self.label, self.where)


class _FromBase(ConfigDict):
    """A value of a base as the file sees it, with the methods that the dialect gives such values."""

    def __setitem__(self, key: Any, value: Any) -> None:
        dict.__setitem__(self, key, _seen(to_config(value)))

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._call("update", *args, **kwargs)

    def merge(self, other: Any) -> None:
        self._call("merge", other)

    def pop(self, *args: Any) -> Any:
        return self._call("pop", *args)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        function = method_of(self, name)
        assert function is not None
        result = function(Budget(), self, *args, **kwargs)
        _seen(self)
        return result


class _Fill(ast.NodeTransformer):
    """Puts values in the place of ``{{ ... }}``: strings at once, ``_base_`` values by subscripts.

    Imports from packages that detcore serves itself become names in the same way.
    """

    def __init__(self, placeholders: Placeholders, shown: str) -> None:
        self.placeholders = placeholders
        self.shown = shown
        self.values: dict[str, Any] = {}
        self.imports: dict[str, _Importable] = {}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str) and PLACEHOLDER.search(node.value):
            return self._value(self.placeholders.fill, node.value, node)
        return node

    def visit_Set(self, node: ast.Set) -> ast.AST:
        inner = node.elts[0] if len(node.elts) == 1 else None
        if isinstance(inner, ast.Set) and len(inner.elts) == 1:
            part = inner.elts[0]
            text = part.value if isinstance(part, ast.Constant) else ast.unparse(part)
            return self._value(self.placeholders.bare, str(text), node)
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        each = [ast.copy_location(ast.Import([alias]), node) for alias in node.names]
        return [statement for one in each for statement in self.visit_ImportFrom(one)]

    def visit_ImportFrom(self, node: ast.Import | ast.ImportFrom) -> list[ast.stmt]:
        try:
            names = list(imported_names(node, self.shown))
        except ConfigFileError:
            return [node]  # Python's own library, or what only Python can tell
        if any(meant.is_users for _, meant in names):
            return [node]
        made: list[ast.stmt] = []
        for name, meant in names:
            self.imports[name] = _Importable(meant.owner, meant.label, meant.where)
            value = self._kept(self.imports[name])
            made.append(ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), node))
        return made

    def _kept(self, value: Any) -> ast.Name:
        name = f"__placeholder_{len(self.values)}"
        self.values[name] = value
        return ast.Name(name, ast.Load())

    def _value(self, look_up: Callable[[str], Any], text: str, node: ast.expr) -> ast.expr:
        try:
            value = look_up(text)
        except ConfigError as error:
            raise ConfigFileError(self.shown, node.lineno, str(error)) from None
        return ast.copy_location(self._kept(value), node)


def run_python(
    tree: ast.Module, path: Path, shown: str, placeholders: Placeholders, base: ConfigDict, given: Names
) -> tuple[Table, ConfigDict, dict[str, ImportedName]]:
    """Execute a config file that the user trusts and collect its variables.

    Args:
        tree: The parsed file.
        path: The file, for ``__file__``.
        shown: The file, as messages name it.
        placeholders: Replaces ``{{ ... }}``.
        base: Its merged bases, which it sees as ``_base_`` and may change.
        given: What its ``with read_base()`` blocks brought.

    Returns:
        Its variables, its bases as it has left them, and what its imports name.

    Raises:
        ConfigFileError: The file raised; the original exception is its cause.
    """
    lines = {
        target.id: (shown, statement.lineno)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    skipped = base_assignment(tree)
    body = [
        copy.deepcopy(statement)
        for statement in tree.body
        if statement is not skipped and not is_block(statement)
    ]
    fill = _Fill(placeholders, shown)
    tree = ast.fix_missing_locations(fill.visit(ast.Module(body, [])))
    seen = _seen(base)
    names: dict[str, Any] = {"__file__": str(path), "__name__": path.stem, "_base_": seen, **fill.values}
    fill.imports |= {key: _seen(value) for key, value in given.imports.items() if key not in fill.imports}
    names |= {**fill.imports, **{key: _seen(value) for key, value in given.tree.items()}}
    try:
        exec(compile(tree, str(path), "exec"), names)  # noqa: S102  (the user's --trust-config, and nothing else)
    except Exception as error:
        trace, line = error.__traceback__, 0
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
            trace = trace.tb_next
        raise ConfigFileError(shown, line, f"{type(error).__name__}: {error}") from error
    dropped = (types.FunctionType, types.ModuleType)
    table, imports = Table(), {}
    for key, value in names.items():
        if key.startswith("__") or key == "_base_" or isinstance(value, dropped):
            continue
        if isinstance(value, _Importable) and value is fill.imports.get(key):
            imports[key] = value.plain()
        else:
            table[key] = _left(value)
    table.lines.update({**origins_of(given.tree), **lines})
    return table, _left(seen), imports


def _seen(value: Any) -> Any:
    """A value as the running file sees it; what it sees already stays the same object."""
    if isinstance(value, dict):
        made = value if isinstance(value, _FromBase) else _FromBase()
        if made is not value:
            origins_of(made).update(origins_of(value) if isinstance(value, ConfigDict) else {})
        for key, item in value.items():
            dict.__setitem__(made, key, _seen(item))
        return made
    if type(value) in (list, tuple):
        return type(value)([_seen(item) for item in value])
    return _Importable(value.owner, value.label, value.where) if type(value) is ImportedName else value


def _left(value: Any) -> Any:
    """A value as the rest of the load knows it."""
    if isinstance(value, _FromBase):
        return config_dict({key: _left(item) for key, item in value.items()}, dict(origins_of(value)))
    if type(value) is dict:
        return {key: _left(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_left(item) for item in value])
    return value.plain() if isinstance(value, _Importable) else value
