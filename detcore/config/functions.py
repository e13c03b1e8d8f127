"""The functions that a config may call; each pays for its work before it does it."""

from collections.abc import Callable
from typing import Any

from detcore.config.document import ConfigDict, origins_of
from detcore.config.formats import to_str
from detcore.config.values import MAX_BITS, Budget, LimitError, Origin, Table, check_key, measure
from detcore.errors import ConfigError

Function = Callable[..., Any]
MAX_ROUND = 400


def check_int(value: Any) -> Any:
    """Give a number back, unless it is an integer of more bits than a config can need.

    Raises:
        LimitError: The integer is too large.
    """
    if type(value) is int and value.bit_length() > MAX_BITS:
        raise LimitError(f"an integer of more than {MAX_BITS} bits")
    return value


def items_of(value: Any, budget: Budget) -> list[Any]:
    """The items of anything that a config can loop over, as a list of their own.

    Raises:
        ConfigError: The value cannot be looped over.
        LimitError: It is too long.
    """
    if not isinstance(value, (list, tuple, str, dict, set, range)):
        raise ConfigError(f"cannot loop over {type(value).__name__}")
    budget.charge(length_of(value))
    return list(value)


def length_of(value: Any) -> int:
    """``len(value)``; a range may be longer than Python counts."""
    try:
        return len(value)
    except OverflowError:
        raise LimitError("a range that long") from None


def hashable(value: Any, budget: Budget) -> Any:
    """Give a value back that is safe and allowed as a set's member or a dict's key."""
    measure(value, budget)
    check_key(value, budget)
    return value


def _dict(budget: Budget, /, *args: Any, **kwargs: Any) -> Table:
    if len(args) > 1:
        raise ConfigError(f"dict takes at most one value without a name, got {len(args)}")
    made = Table()
    for source in (*args, kwargs):
        update(made, source, budget)
    return made


def update(target: dict[Any, Any], source: Any, budget: Budget) -> None:
    """Set the pairs of a dict or of a list of pairs in ``target``; the lines they came from go along."""
    if isinstance(source, dict):
        budget.charge(len(source))
        pairs = list(source.items())
        for key, _ in pairs:
            if type(key) is not str:
                check_key(key, budget)
    else:
        pairs = []
        for pair in items_of(source, budget):
            key, value = items_of(pair, budget)
            pairs.append((hashable(key, budget), value))
    for key, value in pairs:
        dict.__setitem__(target, key, value)
    if isinstance(target, Table):
        target.lines.update(lines_of(source))


def lines_of(source: Any) -> dict[Any, Origin]:
    """Where the keys of a dict were written, as far as it is known."""
    if isinstance(source, Table):
        return source.lines
    return origins_of(source) if isinstance(source, ConfigDict) else {}


def _list(budget: Budget, value: Any = ()) -> list[Any]:
    return items_of(value, budget)


def _tuple(budget: Budget, value: Any = ()) -> tuple[Any, ...]:
    return tuple(items_of(value, budget))


def _set(budget: Budget, value: Any = ()) -> set[Any]:
    return {hashable(item, budget) for item in items_of(value, budget)}


def _range(budget: Budget, *args: int) -> range:
    return range(*args)


def _len(budget: Budget, value: Any) -> int:
    return length_of(value)


def _enumerate(budget: Budget, value: Any, start: int = 0) -> list[tuple[int, Any]]:
    return list(enumerate(items_of(value, budget), start))


def _zip(budget: Budget, /, *values: Any, strict: bool = False) -> list[tuple[Any, ...]]:
    return list(zip(*(items_of(value, budget) for value in values), strict=bool(strict)))


def _sorted(budget: Budget, value: Any, *, reverse: bool = False) -> list[Any]:
    for _ in range(4):  # a sort compares each item several times
        measure(value, budget)
    return sorted(items_of(value, budget), reverse=bool(reverse))


def _reversed(budget: Budget, value: Any) -> list[Any]:
    return items_of(value, budget)[::-1]


def _min(budget: Budget, /, *values: Any, **default: Any) -> Any:
    return _extreme(min, budget, values, default)


def _max(budget: Budget, /, *values: Any, **default: Any) -> Any:
    return _extreme(max, budget, values, default)


def _extreme(function: Function, budget: Budget, values: tuple[Any, ...], default: dict[str, Any]) -> Any:
    if default.keys() - {"default"}:
        raise ConfigError("min and max take no key= in a config")
    items = items_of(values[0], budget) if len(values) == 1 else list(values)
    measure(items, budget)
    measure(items, budget)
    return function(items, **default)


def _sum(budget: Budget, values: Any, start: Any = 0) -> Any:
    total = start
    for value in items_of(values, budget):
        total = add(total, value, budget)
    return total


def add(left: Any, right: Any, budget: Budget) -> Any:
    """``left + right``, paid for."""
    if isinstance(left, (str, list, tuple)):
        budget.charge(len(left) + (len(right) if isinstance(right, (str, list, tuple)) else 0))
        return left + right
    return check_int(left + right)


def _any(budget: Budget, values: Any) -> bool:
    return any(items_of(values, budget))


def _all(budget: Budget, values: Any) -> bool:
    return all(items_of(values, budget))


def _abs(budget: Budget, value: float) -> float:
    return abs(value)


def _round(budget: Budget, value: float, ndigits: int | None = None) -> float:
    if ndigits is not None and abs(ndigits) > MAX_ROUND:
        raise LimitError(f"rounding to {ndigits} digits")
    return round(value, ndigits)


def _divmod(budget: Budget, left: float, right: float) -> tuple[float, float]:
    return divmod(left, right)


def _int(budget: Budget, value: Any = 0, base: int | None = None) -> int:
    measure(value, budget)
    return int(check_int(int(value) if base is None else int(value, base)))


def _float(budget: Budget, value: Any = 0.0) -> float:
    measure(value, budget)
    return float(value)


def _bool(budget: Budget, value: Any = False) -> bool:
    return bool(value)


def _str(budget: Budget, value: Any = "") -> str:
    return to_str(value, budget)


FUNCTIONS: dict[str, Function] = {
    "abs": _abs, "all": _all, "any": _any, "bool": _bool, "dict": _dict, "divmod": _divmod,
    "enumerate": _enumerate, "float": _float, "int": _int, "len": _len, "list": _list, "max": _max,
    "min": _min, "range": _range, "reversed": _reversed, "round": _round, "set": _set, "sorted": _sorted,
    "str": _str, "sum": _sum, "tuple": _tuple, "zip": _zip,
}  # fmt: skip
MAPPABLE = frozenset(
    {"abs", "bool", "dict", "float", "int", "len", "list", "round", "set", "str", "sum", "tuple"}
)
