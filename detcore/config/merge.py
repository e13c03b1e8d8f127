"""A config over its bases, and what a file evaluated to turned into a ``ConfigDict``."""

from typing import Any

from detcore.config.document import ConfigDict, config_dict, origins_of
from detcore.config.imports import ImportedName
from detcore.config.values import (
    MAX_DEPTH,
    SCALARS,
    Budget,
    ConfigFileError,
    LimitError,
    Origin,
    Table,
    a_kind,
    check_key,
)
from detcore.errors import ConfigError

DELETE = "_delete_"


def freeze(value: Any, budget: Budget, *, keep_objects: bool = False) -> Any:
    """A copy of what a file evaluated to, with ConfigDict for dict, and no part shared with another.

    ``test_dataloader = val_dataloader`` names one dict twice; after this, changing one leaves the other.

    Args:
        value: Plain data, dicts as ``Table``, ``dict`` or ``ConfigDict``.
        budget: Pays a unit a node, so that shared lists of shared lists stay bounded.
        keep_objects: Take over what is no data as it is (files that were run as Python, values set by code).

    Raises:
        ConfigError: A value is no plain data.
        LimitError: Too large or too deep.
    """
    if type(value) in SCALARS:
        return value
    return _freeze(value, budget, keep_objects, 0)


def _freeze(value: Any, budget: Budget, keep_objects: bool, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise LimitError(f"a value is nested more than {MAX_DEPTH} levels deep, or holds itself")
    kind = type(value)
    if kind is list or kind is tuple:
        budget.charge(len(value) + 1)
        return kind(
            [
                item if type(item) in SCALARS else _freeze(item, budget, keep_objects, depth + 1)
                for item in value
            ]
        )
    if isinstance(value, dict):
        budget.charge(len(value) + 1)
        items = {}
        for key, item in value.items():
            if type(key) is not str:
                check_key(key, budget)
            items[key] = item if type(item) in SCALARS else _freeze(item, budget, keep_objects, depth + 1)
        return config_dict(items, dict(_lines(value)))
    if kind is set:
        budget.charge(len(value) + 1)
        for item in value:
            check_key(item, budget)
        return set(value)
    if kind is range or kind is ImportedName or keep_objects:
        return value
    raise ConfigError(f"a {kind.__name__} is not plain data")


def adopt(value: Any, budget: Budget) -> Any:
    """A value as a base's dict takes it in: own dicts become ConfigDict, own lists become other lists.

    What is a ConfigDict already stays the same object, as in the dialect's reference.

    Raises:
        LimitError: Too large or too deep.
    """
    return value if type(value) in SCALARS else _adopt(value, budget, 0)


def _adopt(value: Any, budget: Budget, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise LimitError(f"a value is nested more than {MAX_DEPTH} levels deep, or holds itself")
    kind = type(value)
    if kind is list or kind is tuple:
        budget.charge(len(value) + 1)
        return kind([_adopt(item, budget, depth + 1) for item in value])
    if isinstance(value, dict) and not isinstance(value, ConfigDict):
        budget.charge(len(value) + 1)
        items = {key: _adopt(item, budget, depth + 1) for key, item in value.items()}
        return config_dict(items, dict(_lines(value)))
    return value


def _lines(value: dict[Any, Any]) -> dict[Any, Origin]:
    if isinstance(value, Table):
        return value.lines
    return origins_of(value) if isinstance(value, ConfigDict) else {}


def merge(child: ConfigDict, base: ConfigDict, *, list_keys: bool = False, path: str = "") -> ConfigDict:
    """Lay a config over its base: dicts merge key by key, anything else replaces what was there.

    A dict with ``_delete_=True`` replaces the base's. Where there is nothing to delete, the key stays, as
    in the dialect's reference.

    Args:
        child: What is laid over; parts of it become parts of the result.
        base: Stays unchanged, as do the dicts and lists in it.
        list_keys: Whether the keys of a dict may be indices into a list of the base (``{'0': {...}}``).
        path: Where in the config this is, for messages.

    Returns:
        A new ConfigDict that shares its unchanged parts with ``base``.

    Raises:
        ConfigError: A dict meets something that is not a dict.
    """
    result = base.copy()
    new_origins = origins_of(child)
    origins = origins_of(result)
    for key, value in child.items():
        merged = value
        if isinstance(value, ConfigDict):
            where = f"{path}.{key}" if path else str(key)
            merged = _merged_dict(value, base, key, list_keys, where, new_origins)
        dict.__setitem__(result, key, merged)
        if key in new_origins:
            origins[key] = new_origins[key]
        else:
            origins.pop(key, None)
    return result


def _merged_dict(
    value: ConfigDict, base: Any, key: Any, list_keys: bool, path: str, origins: dict[Any, Origin]
) -> Any:
    if key not in base:
        return value
    if value.get(DELETE):
        kept = {name: item for name, item in value.items() if name != DELETE}
        return config_dict(kept, {name: at for name, at in origins_of(value).items() if name != DELETE})
    if DELETE in value:
        value = value.copy()
        del value[DELETE]
    old = base[key]
    if isinstance(old, ConfigDict):
        return merge(value, old, list_keys=list_keys, path=path)
    if list_keys and isinstance(old, (list, tuple)):
        return merge_into_list(value, old, path)
    reason = (
        f"{path} is a dict here but {a_kind(old)} in the base; "
        f"write {DELETE}=True into the dict to replace the base's value"
    )
    if key in origins:
        raise ConfigFileError(*origins[key], reason)
    raise ConfigError(reason)


def merge_into_list(value: ConfigDict, old: list[Any] | tuple[Any, ...], path: str) -> Any:
    """A copy of a list (or tuple) with the items replaced whose indices are keys of the dict.

    Raises:
        ConfigError: A key is no index, or one past the end.
    """
    items = list(old)
    for key, item in value.items():
        index = _index(key, len(items), path)
        if isinstance(item, ConfigDict):
            target = {index: items[index]}
            items[index] = _merged_dict(item, target, index, True, f"{path}.{key}", {})
        else:
            items[index] = item
    return type(old)(items)


def _index(key: Any, length: int, path: str) -> int:
    if not (isinstance(key, str) and key.removeprefix("-").isdecimal() and key.isascii()):
        raise ConfigError(f"{path} is a list of {length} items; {key!r} is no index into it")
    index = int(key)
    if not -length <= index < length:
        raise ConfigError(f"{path} has {length} items, so there is no {path}.{key} (0 to {length - 1} are)")
    return index % length


def set_scope(config: Any, scope: str) -> None:
    """Mark the outermost components of another package's base with the scope that their names belong to."""
    if isinstance(config, ConfigDict):
        if "type" in config:
            if config.get("_scope_") is None:
                config["_scope_"] = scope
                known = origins_of(config)
                if "type" in known:
                    known["_scope_"] = known["type"]
            return
        for value in config.values():
            set_scope(value, scope)
    elif isinstance(config, (list, tuple)):
        for value in config:
            set_scope(value, scope)
