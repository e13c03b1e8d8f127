"""Expressions of a config, evaluated from the syntax tree: data goes in, data comes out, nothing is run."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from detcore.config.document import closest
from detcore.config.formats import converted, format_value
from detcore.config.functions import (
    FUNCTIONS,
    MAPPABLE,
    Function,
    check_int,
    hashable,
    items_of,
    lines_of,
    update,
)
from detcore.config.imports import ImportedName
from detcore.config.methods import method_of
from detcore.config.operators import BINARY, UNARY, compare
from detcore.config.placeholders import Placeholders
from detcore.config.refusals import HINT, MISTAKES, describe, error_at, refused
from detcore.config.values import Budget, ConfigFileError, Table, a_kind
from detcore.errors import ConfigError


class Expressions:
    """Evaluates expressions against one table of names.

    Args:
        file: The file, as messages name it.
        names: Variables of the file; assignments go there.
        placeholders: Replaces ``{{ ... }}`` within strings.
        budget: Pays for every step and every value.
    """

    def __init__(self, file: str, names: dict[str, Any], placeholders: Placeholders, budget: Budget) -> None:
        self.file = file
        self.names = names
        self.placeholders = placeholders
        self.budget = budget

    def value_of(self, node: ast.expr) -> Any:
        """The value of an expression.

        Raises:
            ConfigFileError: It is wrong, too large, or more than data; names file and line.
        """
        budget = self.budget
        budget.left -= 1
        handler = _HANDLERS.get(type(node))
        if budget.left < 0:
            raise error_at(self.file, node, f"the config does too much work (limit {budget.units:,} steps)")
        if handler is None:
            raise refused(self.file, node)
        try:
            return handler(self, node)
        except ConfigFileError:
            raise
        except MISTAKES as error:
            raise self.error(node, describe(error)) from error

    def error(self, node: ast.AST, reason: str) -> ConfigFileError:
        """An error at a node."""
        return error_at(self.file, node, reason)

    # ---- leaves

    def _constant(self, node: ast.Constant) -> Any:
        value: Any = node.value
        kind = type(value)
        if kind is str:
            return self.placeholders.fill(value) if "{{" in value else value
        if kind in (bytes, complex) or value is ...:
            raise ConfigError(f"{kind.__name__} is not a config value")
        return check_int(value)

    def _name(self, node: ast.Name) -> Any:
        try:
            return self.names[node.id]
        except KeyError:
            pass
        if node.id in FUNCTIONS:
            raise ConfigError(f"{node.id} is a function; a config may call it, but not keep it")
        if node.id.startswith("__"):
            raise ConfigError(
                f"the name {node.id} is not allowed: {HINT}"
            )
        raise ConfigError(f"the name {node.id!r} is not defined above{closest(node.id, self.names)}")

    def _attribute(self, node: ast.Attribute) -> Any:
        name = node.attr
        value = self.value_of(node.value)
        if name.startswith("_"):
            raise ConfigError(f"attributes that start with an underscore are not allowed (.{name})")
        if isinstance(value, ImportedName):
            return value.attribute(name)
        if not isinstance(value, dict):
            raise ConfigError(f"{a_kind(value)} has no attribute {name!r} in a config")
        if name not in value:
            raise ConfigError(f"no key {name!r}{closest(name, value)}")
        return value[name]

    def _subscript(self, node: ast.Subscript) -> Any:
        value = self.value_of(node.value)
        if isinstance(node.slice, ast.Slice):
            if not isinstance(value, (str, list, tuple, range)):
                raise ConfigError(f"{a_kind(value)} cannot be sliced")
            self.budget.charge(len(value))
            return value[self.slice(node.slice)]
        key = self.value_of(node.slice)
        if isinstance(value, dict):
            if hashable(key, self.budget) not in value:
                raise ConfigError(f"no key {key!r}{closest(key, value)}")
        elif not isinstance(value, (str, list, tuple, range)):
            raise ConfigError(f"{a_kind(value)} has no items")
        return value[key]

    def slice(self, node: ast.Slice) -> "slice[Any, Any, Any]":
        """The slice object of ``[a:b:c]``."""
        parts = (node.lower, node.upper, node.step)
        return slice(*(None if part is None else self.value_of(part) for part in parts))

    # ---- containers

    def elements(self, nodes: list[ast.expr]) -> list[Any]:
        """Values of the elements of a list or of a call, stars unpacked."""
        self.budget.charge(len(nodes))
        values: list[Any] = []
        for node in nodes:
            if type(node) is ast.Starred:
                values.extend(items_of(self.value_of(node.value), self.budget))
            else:
                values.append(self.value_of(node))
        return values

    def _list(self, node: ast.List) -> list[Any]:
        return self.elements(node.elts)

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.elements(node.elts))

    def _set(self, node: ast.Set) -> Any:
        if len(node.elts) == 1 and type(node.elts[0]) is ast.Set and len(node.elts[0].elts) == 1:
            return self._placeholder(node.elts[0].elts[0])  # {{...}} is a set within a set to Python
        return {hashable(value, self.budget) for value in self.elements(node.elts)}

    def _placeholder(self, node: ast.expr) -> Any:
        inner = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
        return self.placeholders.bare(str(inner))

    def _dict(self, node: ast.Dict) -> Table:
        table = Table()
        self.budget.charge(len(node.keys))
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self.value_of(value_node)
            if key_node is None:
                update(table, self.mapping(value), self.budget)
                continue
            key = hashable(self.value_of(key_node), self.budget)
            table[key] = value
            table.lines[key] = (self.file, key_node.lineno)
        return table

    def mapping(self, value: Any) -> Mapping[Any, Any]:
        """The operand of ``**``."""
        if not isinstance(value, dict):
            raise ConfigError(f"** needs a dict, got {type(value).__name__}")
        return value

    # ---- comprehensions

    def _list_comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> list[Any]:
        values: list[Any] = []
        self.loop(node.generators, lambda: values.append(self.value_of(node.elt)))
        return values

    def _set_comprehension(self, node: ast.SetComp) -> set[Any]:
        values: set[Any] = set()
        self.loop(node.generators, lambda: values.add(hashable(self.value_of(node.elt), self.budget)))
        return values

    def _dict_comprehension(self, node: ast.DictComp) -> Table:
        table = Table()

        def add() -> None:
            key = hashable(self.value_of(node.key), self.budget)
            table[key] = self.value_of(node.value)
            table.lines[key] = (self.file, node.key.lineno)

        self.loop(node.generators, add)
        return table

    def loop(self, generators: list[ast.comprehension], body: Callable[[], None]) -> None:
        """Run ``body`` for each round of nested ``for ... if ...`` clauses; their variables stay within."""
        outer = self.names
        self.names = dict(outer)
        self.budget.charge(len(outer))
        try:
            self._round(generators, 0, body)
        finally:
            self.names = outer

    def _round(self, generators: list[ast.comprehension], level: int, body: Callable[[], None]) -> None:
        if level == len(generators):
            body()
            return
        clause = generators[level]
        if clause.is_async:
            raise ConfigError("async is not allowed in a config")
        for item in items_of(self.value_of(clause.iter), self.budget):
            self.bind(clause.target, item)
            if all(self.value_of(condition) for condition in clause.ifs):
                self._round(generators, level + 1, body)

    def bind(self, target: ast.expr, value: Any) -> None:
        """Give a value to a loop variable or to several by unpacking."""
        self.budget.charge(1)
        if type(target) is ast.Name:
            self.names[self.checked_name(target.id)] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            self.unpack(target.elts, items_of(value, self.budget))
        else:
            raise refused(self.file, target)

    def unpack(self, targets: list[ast.expr], values: list[Any]) -> None:
        """Give values to the targets of ``a, *b, (c, d) = ...``."""
        stars = [i for i, target in enumerate(targets) if type(target) is ast.Starred]
        if len(stars) > 1:
            raise ConfigError("only one star may stand on the left of an assignment")
        fixed = len(targets) - len(stars)
        if len(values) < fixed or (not stars and len(values) > fixed):
            raise ConfigError(f"{len(values)} values do not fit {'at least ' if stars else ''}{fixed} names")
        if stars:
            end = stars[0] + len(values) - fixed
            values = [*values[: stars[0]], values[stars[0] : end], *values[end:]]
        for target, value in zip(targets, values, strict=True):
            self.bind(target.value if type(target) is ast.Starred else target, value)

    def checked_name(self, name: str) -> str:
        """A name that a config may give a value to."""
        if name.startswith("__") and name.endswith("__"):
            raise ConfigError(f"the name {name} is Python's own and cannot be set in a config")
        if name == "_base_":
            raise ConfigError("_base_ is set once, at the top level of the file")
        return name

    # ---- operations

    def _binary(self, node: ast.BinOp) -> Any:
        operate = BINARY.get(type(node.op))
        if operate is None:
            raise refused(self.file, node.op, node)
        return operate(self.value_of(node.left), self.value_of(node.right), self.budget)

    def _unary(self, node: ast.UnaryOp) -> Any:
        return UNARY[type(node.op)](self.value_of(node.operand))

    def _boolean(self, node: ast.BoolOp) -> Any:
        stop = isinstance(node.op, ast.Or)
        value = None
        for part in node.values:
            value = self.value_of(part)
            if bool(value) is stop:
                break
        return value

    def _compare(self, node: ast.Compare) -> Any:
        left = self.value_of(node.left)
        result: Any = True
        for kind, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.value_of(comparator)
            result = compare(type(kind), left, right, self.budget)
            if not result:
                break
            left = right
        return result

    def _conditional(self, node: ast.IfExp) -> Any:
        return self.value_of(node.body if self.value_of(node.test) else node.orelse)

    def _joined(self, node: ast.JoinedStr) -> str:
        parts: list[str] = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif isinstance(part, ast.FormattedValue):
                parts.append(self._formatted(part))
            self.budget.charge(len(parts[-1]))
        return "".join(parts)

    def _formatted(self, node: ast.FormattedValue) -> str:
        spec = "" if node.format_spec is None else str(self.value_of(node.format_spec))
        conversion = None if node.conversion == -1 else chr(node.conversion)
        value = converted(self.value_of(node.value), conversion, self.budget)
        return format_value(value, spec, self.budget)

    # ---- calls

    def _call(self, node: ast.Call) -> Any:
        called = node.func
        if type(called) is ast.Name:
            if called.id == "dict" and not node.args:
                return self.keywords(node.keywords)
            if called.id == "map":
                return self._map(node)
            function = FUNCTIONS.get(called.id)
            if function is None:
                raise ConfigError(
                    f"calling {called.id} is not allowed: {HINT}"
                )
            return function(self.budget, *self._arguments(node), **self.keywords(node.keywords))
        if type(called) is ast.Attribute:
            return self._method(node, called)
        raise ConfigError(f"only functions and methods with a name can be called: {HINT}")

    def _method(self, node: ast.Call, called: ast.Attribute) -> Any:
        if called.attr.startswith("_"):
            raise ConfigError(f"attributes that start with an underscore are not allowed (.{called.attr})")
        target = self.value_of(called.value)
        function: Function | None = method_of(target, called.attr)
        if isinstance(target, ImportedName):
            raise ConfigError(f"calling {target.path}.{called.attr} is not allowed: {HINT}")
        if function is None:
            kind = "dict" if isinstance(target, dict) else type(target).__name__
            raise ConfigError(f"calling {called.attr} of a {kind} is not allowed in a config")
        return function(self.budget, target, *self._arguments(node), **self.keywords(node.keywords))

    def _arguments(self, node: ast.Call) -> list[Any]:
        args = node.args
        if len(args) == 1 and type(args[0]) is ast.GeneratorExp:
            return [self._list_comprehension(args[0])]
        return self.elements(args)

    def keywords(self, nodes: list[ast.keyword]) -> Table:
        """Values of ``name=value`` and ``**mapping`` arguments, with the lines that they stand on."""
        table = Table()
        self.budget.charge(len(nodes))
        for node in nodes:
            value = self.value_of(node.value)
            if node.arg is not None and node.arg not in table:
                table[node.arg] = value
                table.lines[node.arg] = (self.file, node.lineno)
                continue
            new: Mapping[Any, Any] = {node.arg: value} if node.arg is not None else self.mapping(value)
            for key in new:
                if key in table:
                    raise self.error(node.value, f"the argument {key!r} stands twice in this call")
                if not isinstance(key, str):
                    raise self.error(node.value, f"** in a call needs keys that are strings, got {key!r}")
            self.budget.charge(len(new))
            table.update(new)
            table.lines.update(lines_of(new))
        return table

    def _map(self, node: ast.Call) -> list[Any]:
        first = node.args[0] if node.args else None
        if type(first) is not ast.Name or first.id not in MAPPABLE or len(node.args) != 2 or node.keywords:
            raise ConfigError(f"map takes one of {', '.join(sorted(MAPPABLE))} and one value to loop over")
        function = FUNCTIONS[first.id]
        values = items_of(self.value_of(node.args[1]), self.budget)
        self.budget.charge(len(values))
        return [function(self.budget, value) for value in values]


_HANDLERS: dict[type[ast.expr], Callable[[Any, Any], Any]] = {
    ast.Constant: Expressions._constant,
    ast.Name: Expressions._name,
    ast.Attribute: Expressions._attribute,
    ast.Subscript: Expressions._subscript,
    ast.List: Expressions._list,
    ast.Tuple: Expressions._tuple,
    ast.Set: Expressions._set,
    ast.Dict: Expressions._dict,
    ast.ListComp: Expressions._list_comprehension,
    ast.SetComp: Expressions._set_comprehension,
    ast.DictComp: Expressions._dict_comprehension,
    ast.BinOp: Expressions._binary,
    ast.UnaryOp: Expressions._unary,
    ast.BoolOp: Expressions._boolean,
    ast.Compare: Expressions._compare,
    ast.IfExp: Expressions._conditional,
    ast.JoinedStr: Expressions._joined,
    ast.Call: Expressions._call,
}
