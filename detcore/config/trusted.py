"""Running a config as Python: the one place where that happens, reached only by the user's own ``trust``."""
import ast
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detcore.config.document import ConfigDict
from detcore.config.evaluate import base_assignment
from detcore.config.placeholders import PLACEHOLDER, Placeholders
from detcore.config.values import ConfigFileError, Table
from detcore.errors import ConfigError


class _Fill(ast.NodeTransformer):
    """Puts values in the place of ``{{ ... }}``: strings at once, ``_base_`` values by subscripts."""

    def __init__(self, placeholders: Placeholders, shown: str) -> None:
        self.placeholders = placeholders
        self.shown = shown
        self.values: dict[str, Any] = {}

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

    def _value(self, look_up: Callable[[str], Any], text: str, node: ast.expr) -> ast.expr:
        name = f"__placeholder_{len(self.values)}"
        try:
            self.values[name] = look_up(text)
        except ConfigError as error:
            raise ConfigFileError(self.shown, node.lineno, str(error)) from None
        return ast.copy_location(ast.Name(name, ast.Load()), node)


def run_python(
    tree: ast.Module, path: Path, shown: str, placeholders: Placeholders, base: ConfigDict
) -> Table:
    """Execute a config file that the user trusts and collect its variables.

    Args:
        tree: The parsed file.
        path: The file, for ``__file__``.
        shown: The file, as messages name it.
        placeholders: Replaces ``{{ ... }}``.
        base: Its merged bases, which it sees as ``_base_`` and may change.

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
    tree.body = [statement for statement in tree.body if statement is not skipped]
    fill = _Fill(placeholders, shown)
    tree = ast.fix_missing_locations(fill.visit(tree))
    names: dict[str, Any] = {"__file__": str(path), "__name__": path.stem, "_base_": base, **fill.values}
    try:
        exec(compile(tree, str(path), "exec"), names)  # noqa: S102  (the user's --trust-config, and nothing else)
    except Exception as error:
        trace, line = error.__traceback__, 0
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
            trace = trace.tb_next
        raise ConfigFileError(shown, line, f"{type(error).__name__}: {error}") from error
    dropped = (types.FunctionType, types.ModuleType)
    table = Table(
        {
            key: value
            for key, value in names.items()
            if not key.startswith("__") and key != "_base_" and not isinstance(value, dropped)
        }
    )
    table.lines.update(lines)
    return table
