"""The interpreter of config files: assignments, loops, conditions and calls for effect, all on plain data.

A config in Python's syntax is parsed, never compiled and never run. What it may hold is listed here
(statements), in ``expressions``, ``operators``, ``functions`` and ``methods``; anything else is refused
with file and line. Time, memory and depth are bounded by one ``Budget`` for a config and all its bases.
"""

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from detcore.config.document import ConfigDict, origins_of
from detcore.config.expressions import Expressions
from detcore.config.functions import hashable, items_of, update
from detcore.config.imports import ImportedName, imported_names
from detcore.config.merge import adopt
from detcore.config.operators import BINARY
from detcore.config.placeholders import Placeholders, quote_bare_variables
from detcore.config.read_base import READ_BASE, Names, is_block
from detcore.config.refusals import MISTAKES, describe, refused
from detcore.config.values import Budget, ConfigFileError, Table, a_kind
from detcore.errors import ConfigError


class _LoopExit(Exception):
    """``break`` or ``continue`` on its way to the loop."""

    def __init__(self, again: bool) -> None:
        self.again = again


def parse(source: str, file: str) -> ast.Module:
    """The syntax tree of a config; not to be changed, since the next reading may get the same one.

    Raises:
        ConfigFileError: It is no Python, or nested too deeply for the parser.
    """
    try:
        return _parse(source, file)
    except ConfigFileError:
        if "$" in source and "{{" in source:
            quoted = quote_bare_variables(source)
            if quoted != source:
                return _parse(quoted, file)
        raise


@lru_cache(maxsize=64)  # whoever reads many configs reads their common bases each time
def _tree(source: str, file: str) -> ast.Module:
    return ast.parse(source, file)


def _parse(source: str, file: str) -> ast.Module:
    try:
        return _tree(source, file)
    except SyntaxError as error:
        raise ConfigFileError(file, error.lineno or 0, f"not valid Python: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ConfigFileError(file, 0, "nested too deeply to be a config") from None
    except ValueError as error:  # null bytes, over-long integers
        raise ConfigFileError(file, 0, f"not valid Python: {error}") from None


def base_assignment(tree: ast.Module) -> ast.Assign | None:
    """The one statement ``_base_ = ...`` at the top level of a file."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and _is_base(statement.targets[0]):
            return statement
    return None


def _is_base(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "_base_"


class Evaluator(Expressions):
    """Evaluates one file.

    Args:
        file: The file, as messages name it.
        placeholders: Replaces ``{{ ... }}`` within strings.
        budget: Pays for every step and every value, also those of other files of the same load.
        base: The merged bases; the file sees and may change them as ``_base_``.
        given: What its ``with read_base()`` blocks brought; its own from now on.

    Attributes:
        changed: Whether the file changed values in place, and so perhaps its bases.
        imports: What its names mean that an import has bound.
        has_imports: Whether it had any, so that its values may hold some.
    """

    def __init__(
        self,
        file: str,
        placeholders: Placeholders,
        budget: Budget,
        base: ConfigDict | None = None,
        given: Names | None = None,
    ) -> None:
        given = given or Names()
        names = {**given.tree, **given.imports}
        super().__init__(file, names if base is None else {"_base_": base, **names}, placeholders, budget)
        self.changed = False
        self.imports: dict[str, ImportedName] = given.imports
        self.has_imports = bool(given.imports)
        self.origins: dict[str, tuple[str, int]] = dict(origins_of(given.tree))

    def expression(self, node: ast.expr) -> Any:
        """The value of one expression, every failure as a ``ConfigFileError``."""
        return self._guarded(node, lambda: self.value_of(node))

    def module(self, tree: ast.Module) -> Table:
        """Evaluate a whole file: its variables, without Python's own names, imports and ``_base_``.

        Raises:
            ConfigFileError: The file is wrong or more than data; names file and line.
        """
        skipped = base_assignment(tree)
        for statement in tree.body:
            if statement is not skipped and not is_block(statement):
                self._guarded(statement, lambda: self.statement(statement))  # noqa: B023  (called at once)
        self.imports = {key: name for key, name in self.imports.items() if self.names.get(key) is name}
        table = Table(
            {
                key: value
                for key, value in self.names.items()
                if not key.startswith("__") and key != "_base_" and key not in self.imports
            }
        )
        table.lines.update(self.origins)
        return table

    def _guarded(self, node: ast.AST, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except ConfigFileError:
            raise
        except (RecursionError, MemoryError):
            reason = "nested too deeply to be a config"
        except _LoopExit:
            reason = "break and continue belong into a loop"
        except MISTAKES as error:
            reason = describe(error)
        raise self.error(node, reason)

    def statement(self, node: ast.stmt) -> None:
        """Evaluate one statement."""
        self.budget.charge(4)
        handler = _STATEMENTS.get(type(node))
        if handler is None:
            raise refused(self.file, node)
        try:
            handler(self, node)
        except ConfigFileError:
            raise
        except MISTAKES as error:
            raise self.error(node, describe(error)) from error

    def _assign(self, node: ast.Assign) -> None:
        value = self.value_of(node.value)
        for target in node.targets:
            self.bind(target, value)

    def _annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.bind(node.target, self.value_of(node.value))

    def bind(self, target: ast.expr, value: Any) -> None:
        """Give a value to a name, to several by unpacking, to an item or to a key written as attribute."""
        if type(target) is ast.Name:
            self.names[self.checked_name(target.id)] = value
            self.origins[target.id] = (self.file, target.lineno)
        elif isinstance(target, (ast.Subscript, ast.Attribute)):
            self._set_item(*self._place(target), value, target.lineno)
        else:
            super().bind(target, value)

    def loop(self, generators: list[ast.comprehension], body: Callable[[], None]) -> None:
        """As for expressions; variables of a comprehension leave no trace in the origins either."""
        outer = dict(self.origins)
        super().loop(generators, body)
        self.origins = outer

    def _set_item(self, owner: Any, key: Any, value: Any, line: int) -> None:
        self.changed = True
        if isinstance(owner, list):
            if isinstance(key, slice):
                value = items_of(value, self.budget)
            self.budget.charge(len(owner))
            owner[key] = value
            return
        dict.__setitem__(owner, key, adopt(value, self.budget) if isinstance(owner, ConfigDict) else value)
        lines = owner.lines if isinstance(owner, Table) else origins_of(owner)
        lines[key] = (self.file, line)

    def _place(self, target: ast.Subscript | ast.Attribute) -> tuple[Any, Any]:
        """The dict or list that a target writes to, and the key in it."""
        owner = self.value_of(target.value)
        if isinstance(target, ast.Attribute):
            if target.attr.startswith("_"):
                raise ConfigError(
                    f"attributes that start with an underscore are not allowed (.{target.attr})"
                )
            if not isinstance(owner, dict):
                raise ConfigError(f"attributes of {a_kind(owner)} cannot be changed")
            return owner, target.attr
        if not isinstance(owner, (dict, list)):
            raise ConfigError(f"items of {a_kind(owner)} cannot be changed")
        if isinstance(target.slice, ast.Slice):
            if isinstance(owner, dict):
                raise ConfigError("a dict has no slices")
            return owner, self.slice(target.slice)
        key = self.value_of(target.slice)
        return owner, hashable(key, self.budget) if isinstance(owner, dict) else key

    def _augmented(self, node: ast.AugAssign) -> None:
        target = node.target
        owner: Any = None
        key: Any = None
        if isinstance(target, ast.Name):
            old = self.value_of(ast.copy_location(ast.Name(target.id, ast.Load()), target))
        else:
            owner, key = self._place(target)
            old = owner[key]
        value = self.value_of(node.value)
        if isinstance(node.op, ast.Add) and isinstance(old, list):
            self.changed = True
            old.extend(items_of(value, self.budget))
        elif isinstance(node.op, ast.BitOr) and isinstance(old, dict):
            self.changed = True
            update(old, value, self.budget)
        else:
            operate = BINARY.get(type(node.op))
            if operate is None:
                raise refused(self.file, node.op, node)
            result = operate(old, value, self.budget)
            if isinstance(target, ast.Name):
                self.bind(target, result)
            else:
                self._set_item(owner, key, result, target.lineno)

    def _delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                if target.id == "_base_" or target.id not in self.names:
                    raise ConfigError(f"cannot delete {target.id}")
                del self.names[target.id]
            elif isinstance(target, (ast.Subscript, ast.Attribute)):
                self.changed = True
                owner, key = self._place(target)
                del owner[key]
            else:
                raise refused(self.file, target)

    def _expression(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.changed = True  # update, append, pop, ...
        if not isinstance(node.value, ast.Constant):  # a docstring is nothing
            self.value_of(node.value)

    def _if(self, node: ast.If) -> None:
        for statement in node.body if self.value_of(node.test) else node.orelse:
            self.statement(statement)

    def _for(self, node: ast.For) -> None:
        for item in items_of(self.value_of(node.iter), self.budget):
            self.bind(node.target, item)
            try:
                for statement in node.body:
                    self.statement(statement)
            except _LoopExit as leave:
                if not leave.again:
                    return
        for statement in node.orelse:
            self.statement(statement)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name, meant in imported_names(node, self.file):
            self.names[name] = self.imports[name] = meant
            self.has_imports = True
            self.origins.pop(name, None)

    def _with(self, node: ast.With) -> None:
        if is_block(node):
            raise ConfigError(f"'with {READ_BASE}()' stands at the top level of a file, without conditions")
        raise refused(self.file, node)

    def _pass(self, node: ast.Pass) -> None:
        pass

    def _break(self, node: ast.Break) -> None:
        raise _LoopExit(again=False)

    def _continue(self, node: ast.Continue) -> None:
        raise _LoopExit(again=True)


_STATEMENTS: Mapping[type[ast.stmt], Callable[[Any, Any], None]] = {
    ast.Assign: Evaluator._assign,
    ast.AnnAssign: Evaluator._annotated,
    ast.AugAssign: Evaluator._augmented,
    ast.Delete: Evaluator._delete,
    ast.Expr: Evaluator._expression,
    ast.If: Evaluator._if,
    ast.For: Evaluator._for,
    ast.Import: Evaluator._import,
    ast.ImportFrom: Evaluator._import,
    ast.With: Evaluator._with,
    ast.Pass: Evaluator._pass,
    ast.Break: Evaluator._break,
    ast.Continue: Evaluator._continue,
}
