"""The methods that a config may call on its values; each pays for its work before it does it."""

from typing import Any

from detcore.config.document import ConfigDict, closest, config_dict
from detcore.config.formats import str_format
from detcore.config.functions import FUNCTIONS, Function, hashable, items_of, length_of, lines_of, update
from detcore.config.merge import DELETE, adopt
from detcore.config.placeholders import copied
from detcore.config.values import Budget, measure
from detcore.errors import ConfigError

_dict, _set, _sorted = FUNCTIONS["dict"], FUNCTIONS["set"], FUNCTIONS["sorted"]


def _plain(name: str) -> Function:
    """A method whose result is no longer than what it reads."""

    def call(budget: Budget, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget.charge(length_of(target))
        for arg in args:
            measure(arg, budget)
        return getattr(target, name)(*args, **kwargs)

    return call


def _slow(name: str) -> Function:
    """A method of strings that takes the product of two lengths at worst."""

    def call(budget: Budget, target: str, *args: Any, **kwargs: Any) -> Any:
        longest = max([len(arg) for arg in (*args, *kwargs.values()) if isinstance(arg, str)], default=1)
        budget.charge(len(target) * (1 + longest // 16))
        return getattr(target, name)(*args, **kwargs)

    return call


def _cheap(name: str) -> Function:
    """A method that takes a few steps however long the list is."""

    def call(budget: Budget, target: Any, *args: Any) -> Any:
        budget.charge(1)
        return getattr(target, name)(*args)

    return call


def _searching(name: str) -> Function:
    """A method that compares the whole container with its argument."""

    def call(budget: Budget, target: Any, *args: Any) -> Any:
        measure(target, budget)
        for arg in args:
            measure(arg, budget)
        return getattr(target, name)(*args)

    return call


def _dict_get(budget: Budget, target: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return target.get(hashable(key, budget), default)


def _dict_pop(budget: Budget, target: dict[Any, Any], key: Any, *default: Any) -> Any:
    key = hashable(key, budget)
    if key not in target and not default:
        if isinstance(target, ConfigDict):
            return None  # the dialect's own rule for values of a base
        raise ConfigError(f"pop: no key {key!r}{closest(key, target)}")
    return target.pop(key, *default)


def _dict_setdefault(budget: Budget, target: dict[Any, Any], key: Any, default: Any = None) -> Any:
    key = hashable(key, budget)
    if key not in target:
        new = adopt(default, budget) if isinstance(target, ConfigDict) else default
        dict.__setitem__(target, key, new)
    return target[key]


def _dict_update(budget: Budget, target: dict[Any, Any], /, *args: Any, **kwargs: Any) -> None:
    new = _dict(budget, *args, **kwargs)
    if isinstance(target, ConfigDict):
        _merge_update(target, new, budget)
    else:
        update(target, new, budget)


def _merge_update(target: dict[Any, Any], source: dict[Any, Any], budget: Budget) -> None:
    """The dialect's ``update`` of a base's value: a dict updates a dict that is there, at every level."""
    measure(source, budget)
    for key, value in list(source.items()):
        old = target.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and old is not value:
            _merge_update(old, value, budget)
            continue
        dict.__setitem__(target, key, adopt(value, budget))
        if key in lines_of(source):
            lines_of(target)[key] = lines_of(source)[key]


def _dict_merge(budget: Budget, target: dict[Any, Any], other: Any) -> None:
    """``merge`` of a base's value: dicts merge at every level, and one with ``_delete_`` replaces."""
    if not isinstance(target, ConfigDict):
        raise ConfigError("merge is a method of values that come from a base; use update")
    if not isinstance(other, dict):
        raise ConfigError(f"merge takes a dict, got {type(other).__name__}")
    measure(other, budget)
    measure(target, budget)
    merged = _laid_over(copied(other), copied(target), budget)
    target.clear()
    dict.update(target, merged)
    lines_of(target).update(lines_of(merged))


def _laid_over(new: dict[Any, Any], old: ConfigDict, budget: Budget) -> ConfigDict:
    kept = old if not new.get(DELETE) else ConfigDict()
    lines = dict(lines_of(kept))
    items: dict[Any, Any] = dict(kept)
    for key, value in new.items():
        if key == DELETE:
            continue
        there = items.get(key)
        if isinstance(value, dict) and isinstance(there, ConfigDict):
            items[key] = _laid_over(value, there, budget)
        else:
            items[key] = adopt(value, budget)
            if isinstance(value, dict):
                items[key].pop(DELETE, None)
        if key in lines_of(new):
            lines[key] = lines_of(new)[key]
    items.pop(DELETE, None)
    return config_dict(items, lines)


def _dict_copy(budget: Budget, target: dict[Any, Any]) -> dict[Any, Any]:
    budget.charge(len(target))
    return target.copy() if isinstance(target, ConfigDict) else _dict(budget, target)


def _dict_deepcopy(budget: Budget, target: dict[Any, Any]) -> dict[Any, Any]:
    measure(target, budget)
    return copied(target)


def _pairs(name: str) -> Function:
    def call(budget: Budget, target: dict[Any, Any]) -> list[Any]:
        budget.charge(len(target))
        return list(getattr(target, name)())

    return call


def _dict_clear(budget: Budget, target: dict[Any, Any]) -> None:
    target.clear()


def _list_extend(budget: Budget, target: list[Any], values: Any) -> None:
    target.extend(items_of(values, budget))


def _list_sort(budget: Budget, target: list[Any], *, reverse: bool = False) -> None:
    target[:] = _sorted(budget, target, reverse=reverse)


def _set_add(budget: Budget, target: set[Any], value: Any) -> None:
    target.add(hashable(value, budget))


def _set_with(name: str) -> Function:
    def call(budget: Budget, target: set[Any], *others: Any) -> Any:
        _set(budget, target)
        return getattr(target, name)(*(_set(budget, other) for other in others))

    return call


def _str_join(budget: Budget, target: str, values: Any) -> str:
    parts = items_of(values, budget)
    for part in parts:
        budget.charge(len(target) + (len(part) if isinstance(part, str) else 0))
    return target.join(parts)


def _str_replace(budget: Budget, target: str, old: str, new: str, count: int = -1) -> str:
    found = len(target) + 1 if old == "" else target.count(old)
    budget.charge(len(target) + found * len(new))
    return target.replace(old, new, count)


def _str_pad(name: str) -> Function:
    def call(budget: Budget, target: str, width: int, *fill: str) -> str:
        budget.charge(max(width, len(target)))
        return str(getattr(target, name)(width, *fill))

    return call


_STR_PLAIN = (
    "capitalize casefold count endswith find index isalnum isalpha isdigit isidentifier islower isnumeric "
    "isspace istitle isupper lower partition removeprefix removesuffix split splitlines startswith swapcase "
    "title upper"
)
METHODS: dict[type, dict[str, Function]] = {
    str: {name: _plain(name) for name in _STR_PLAIN.split()}
    | {name: _slow(name) for name in ("lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip")}
    | {"join": _str_join, "replace": _str_replace, "format": str_format}
    | {name: _str_pad(name) for name in ("center", "ljust", "rjust", "zfill")},
    list: {name: _cheap(name) for name in ("insert", "pop", "append")}
    | {name: _plain(name) for name in ("copy", "reverse")}
    | {name: _searching(name) for name in ("count", "index", "remove")}
    | {"extend": _list_extend, "sort": _list_sort, "clear": _plain("clear")},
    tuple: {name: _searching(name) for name in ("count", "index")},
    dict: {name: _pairs(name) for name in ("keys", "values", "items")}
    | {"get": _dict_get, "pop": _dict_pop, "setdefault": _dict_setdefault, "update": _dict_update}
    | {"copy": _dict_copy, "deepcopy": _dict_deepcopy, "clear": _dict_clear, "merge": _dict_merge},
    set: {
        name: _set_with(name)
        for name in ("union", "intersection", "difference", "symmetric_difference", "update")
    }
    | {name: _set_with(name) for name in ("issubset", "issuperset", "isdisjoint")}
    | {
        "add": _set_add,
        "discard": _searching("discard"),
        "remove": _searching("remove"),
        "copy": _plain("copy"),
    },
    float: {"is_integer": lambda budget, value: value.is_integer()},
}


def method_of(value: Any, name: str) -> Function | None:
    """The allowed method of that name for a value, or nothing."""
    kind = dict if isinstance(value, dict) else type(value)
    return METHODS.get(kind, {}).get(name)
