"""Arithmetic and comparisons of a config, with the size of every result known before it is made."""

import ast
import operator
from collections.abc import Callable
from typing import Any

from detcore.config.formats import percent
from detcore.config.functions import add, check_int, hashable
from detcore.config.values import MAX_BITS, SCALARS, Budget, LimitError, check_key, measure
from detcore.errors import ConfigError

Binary = Callable[[Any, Any, Budget], Any]


def _numbers(name: str, function: Callable[[Any, Any], Any]) -> Binary:
    def apply(left: Any, right: Any, budget: Budget) -> Any:
        if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
            raise _unsupported(name, left, right)
        return check_int(function(left, right))

    return apply


def _unsupported(name: str, left: Any, right: Any) -> ConfigError:
    return ConfigError(f"{name} does not work with {type(left).__name__} and {type(right).__name__}")


def _pay_sets(left: set[Any], right: set[Any], budget: Budget) -> None:
    budget.charge(len(left) + len(right))
    for item in (*left, *right):
        check_key(item, budget)


def _subtract(left: Any, right: Any, budget: Budget) -> Any:
    if isinstance(left, set) and isinstance(right, set):
        _pay_sets(left, right, budget)
        return left - right
    return _numbers("-", operator.sub)(left, right, budget)


def _multiply(left: Any, right: Any, budget: Budget) -> Any:
    if isinstance(right, (str, list, tuple)):
        left, right = right, left
    if isinstance(left, (str, list, tuple)) and isinstance(right, int):
        budget.charge(len(left) * max(right, 0))
        return left * right
    return _numbers("*", operator.mul)(left, right, budget)


def _modulo(left: Any, right: Any, budget: Budget) -> Any:
    if isinstance(left, str):
        return percent(left, right, budget)
    return _numbers("%", operator.mod)(left, right, budget)


def _power(left: Any, right: Any, budget: Budget) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_BITS:
        raise LimitError(f"a power of more than {MAX_BITS} bits")
    result = _numbers("**", operator.pow)(left, right, budget)
    if isinstance(result, complex):
        raise ConfigError("a root of a negative number is not a config value")
    return result


def _shift_left(left: Any, right: Any, budget: Budget) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right > MAX_BITS:
        raise LimitError(f"a shift to more than {MAX_BITS} bits")
    return _numbers("<<", operator.lshift)(left, right, budget)


def _bits_or_sets(name: str, function: Callable[[Any, Any], Any]) -> Binary:
    def apply(left: Any, right: Any, budget: Budget) -> Any:
        if isinstance(left, set) and isinstance(right, set):
            _pay_sets(left, right, budget)
            return function(left, right)
        if isinstance(left, int) and isinstance(right, int):
            return function(left, right)
        raise _unsupported(name, left, right)

    return apply


BINARY: dict[type[ast.operator], Binary] = {
    ast.Add: add,
    ast.Sub: _subtract,
    ast.Mult: _multiply,
    ast.Div: _numbers("/", operator.truediv),
    ast.FloorDiv: _numbers("//", operator.floordiv),
    ast.Mod: _modulo,
    ast.Pow: _power,
    ast.LShift: _shift_left,
    ast.RShift: _numbers(">>", operator.rshift),
    ast.BitOr: _bits_or_sets("|", operator.or_),
    ast.BitAnd: _bits_or_sets("&", operator.and_),
    ast.BitXor: _bits_or_sets("^", operator.xor),
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def compare(kind: type[ast.cmpop], left: Any, right: Any, budget: Budget) -> Any:
    """One comparison, paid for by the size of both sides."""
    if kind in (ast.In, ast.NotIn):
        if isinstance(right, (dict, set)):
            found = hashable(left, budget) in right
        elif isinstance(right, (str, list, tuple, range)):
            measure(left, budget)
            measure(right, budget)
            found = left in right
        else:
            raise ConfigError(f"'in' needs a container on its right, got {type(right).__name__}")
        return found is (kind is ast.In)
    if type(left) not in SCALARS or type(right) not in SCALARS:
        measure(left, budget)
        measure(right, budget)
    return _COMPARE[kind](left, right)
