"""``with read_base(): from .base import *``: which statements name a file's bases, and what they bring."""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from detcore.config.document import ConfigDict, closest, origins_of
from detcore.config.functions import FUNCTIONS
from detcore.config.imports import ImportedName
from detcore.config.placeholders import copied
from detcore.config.refusals import HINT, error_at
from detcore.config.values import Budget, measure

READ_BASE = "read_base"


@dataclass
class Names:
    """The names of a config file.

    Attributes:
        tree: Its values.
        imports: What it names by imports; not part of the config, but files that import this one see it.
    """

    tree: ConfigDict = field(default_factory=ConfigDict)
    imports: dict[str, ImportedName] = field(default_factory=dict)

    def copy(self, budget: Budget) -> "Names":
        """Names that can be changed without changing these."""
        measure(self.tree, budget)
        return Names(copied(self.tree), dict(self.imports))

    def pick(self, name: str, bound: str, source: "Names") -> bool:
        """Take one name of another file over, as ``bound``; whether it is there."""
        if name in source.tree:
            self.imports.pop(bound, None)
            dict.__setitem__(self.tree, bound, source.tree[name])
            if name in (origins := origins_of(source.tree)):
                origins_of(self.tree)[bound] = origins[name]
        elif name in source.imports:
            self.tree.pop(bound, None)
            self.imports[bound] = source.imports[name]
        return name in source.tree or name in source.imports


def is_block(statement: ast.stmt) -> bool:
    """Whether a statement says ``with read_base():``, or ``if '_base_':``, as early files of the style do."""
    if isinstance(statement, ast.With):
        return any(
            isinstance(node, ast.Name) and node.id == READ_BASE
            for item in statement.items
            for node in ast.walk(item.context_expr)
        )
    if isinstance(statement, ast.If) and isinstance(statement.test, ast.Constant):
        return statement.test.value == "_base_"
    return False


def read_bases(tree: ast.Module, file: str, open_module: Callable[[ast.ImportFrom], Names]) -> Names:
    """The names that the ``with read_base()`` blocks of a file bring, a later one in place of an earlier one.

    They are there before the first statement of the file, wherever the block stands. What a file takes twice
    from one config, under two names, is one object, as in Python.

    Args:
        tree: The file.
        file: The file, as messages name it.
        open_module: Reads the config that an import names; each call gives values of their own.

    Raises:
        ConfigFileError: A block holds something else than imports of names from other configs.
    """
    names = Names()
    opened: dict[tuple[int, str | None], Names] = {}
    for node in _imports(tree, file):
        key = (node.level, node.module)
        if key not in opened:
            opened[key] = open_module(node)
        source = opened[key]
        for alias in node.names:
            if alias.name == "*":
                for name in (*source.tree, *source.imports):
                    names.pick(name, name, source)
                continue
            bound = alias.asname or alias.name
            if bound in FUNCTIONS or bound in ("map", "_base_") or bound.startswith("__"):
                raise error_at(file, node, f"an import may not take the name {bound}")
            if not names.pick(alias.name, bound, source):
                known = (*source.tree, *source.imports)
                reason = f"{node.module} sets no {alias.name!r}{closest(alias.name, known)}"
                raise error_at(file, node, reason)
    return names


def _imports(tree: ast.Module, file: str) -> Iterator[ast.ImportFrom]:
    for block in tree.body:
        if not is_block(block):
            continue
        assert isinstance(block, (ast.With, ast.If))
        if isinstance(block, ast.With) and not _is_plain(block):
            raise error_at(file, block, "write 'with read_base():' and nothing more on that line")
        if isinstance(block, ast.If) and block.orelse:
            raise error_at(file, block, "the bases of a config cannot depend on a condition")
        for node in block.body:
            if not isinstance(node, ast.ImportFrom):
                reason = f"'with read_base()' holds only 'from config import names': {HINT}"
                raise error_at(file, node, reason)
            if node.module is None:
                raise error_at(file, node, "name the config to import from: 'from .config import *'")
            if not node.level and node.module.partition(".")[0] in sys.stdlib_module_names:
                reason = f"{node.module} is part of Python's own library and no config"
                raise error_at(file, node, reason)
            yield node


def _is_plain(block: ast.With) -> bool:
    call = block.items[0].context_expr
    if len(block.items) > 1 or block.items[0].optional_vars or not isinstance(call, ast.Call):
        return False
    return isinstance(call.func, ast.Name) and not call.args and not call.keywords
