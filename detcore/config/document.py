"""The config that the rest of detcore works with: a dict whose keys can be read as attributes."""

import copy
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from os import PathLike
from pathlib import Path
from typing import Any

from detcore.config.values import Origin
from detcore.errors import ConfigError


class ConfigDict(dict[Any, Any]):
    """A dict with attribute access; dicts put into it (also within lists) become ``ConfigDict`` too.

    ``cfg.model.backbone.depth`` reads ``cfg['model']['backbone']['depth']``. A key that is also the name of
    a dict method (``items``) can be reached as an item only.
    """

    __slots__ = ("_origins",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.update(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(missing_key(self, name)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            raise AttributeError(f"{name!r} is a method; set the key with cfg[{name!r}] = ...")
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(missing_key(self, name)) from None

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, to_config(value))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set keys as ``dict.update`` does (a dict replaces a dict; ``Config.merge_from_dict`` merges)."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As ``dict.setdefault``."""
        if key not in self:
            self[key] = default
        return self[key]

    def __or__(self, other: Mapping[Any, Any]) -> "ConfigDict":
        merged = self.copy()
        merged.update(other)
        return merged

    def __ior__(self, other: Any) -> "ConfigDict":  # type: ignore[misc]
        self.update(other)
        return self

    def copy(self) -> "ConfigDict":
        """A shallow copy."""
        return config_dict(self, dict(origins_of(self)))

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> "ConfigDict":
        twin = config_dict({}, dict(origins_of(self)))
        memo[id(self)] = twin
        for key, value in self.items():
            dict.__setitem__(twin, key, copy.deepcopy(value, memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return config_dict, (dict(self), dict(origins_of(self)))

    def to_dict(self) -> dict[Any, Any]:
        """The same as plain dicts."""
        plain = to_plain(self)
        assert isinstance(plain, dict)
        return plain


def origins_of(mapping: ConfigDict) -> dict[Any, Origin]:
    """File and line that set each key, where they are known (the live mapping, not a copy)."""
    try:
        return object.__getattribute__(mapping, "_origins")
    except AttributeError:
        fresh: dict[Any, Origin] = {}
        object.__setattr__(mapping, "_origins", fresh)
        return fresh


def config_dict(items: Mapping[Any, Any], origins: dict[Any, Origin]) -> ConfigDict:
    """A ConfigDict from items that need no conversion and from their origins; takes over ``origins``."""
    made = ConfigDict.__new__(ConfigDict)
    dict.update(made, items)
    object.__setattr__(made, "_origins", origins)
    return made


def fill_origins(value: Any, around: Origin) -> None:
    """Give every key below a value an origin; one that has none was set by what set the dict around it."""
    if isinstance(value, ConfigDict):
        known = origins_of(value)
        for key, item in value.items():
            fill_origins(item, known.setdefault(key, around))
    elif type(value) in (list, tuple):
        for item in value:
            fill_origins(item, around)


def to_config(value: Any) -> Any:
    """Plain dicts in a value, also within lists and tuples, as ConfigDict; anything else as it is."""
    kind = type(value)
    if kind is list:
        return [to_config(item) for item in value]
    if kind is tuple:
        return tuple(to_config(item) for item in value)
    if isinstance(value, dict) and not isinstance(value, ConfigDict):
        return ConfigDict(value)
    return value


def to_plain(value: Any) -> Any:
    """The reverse of ``to_config``: a copy without ConfigDict."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([to_plain(item) for item in value])
    return value


def closest(name: object, known: Any) -> str:
    """``; did you mean 'x'?`` for a misspelt name, or what there is where nothing is close."""
    import difflib

    names = [str(item) for item in known][:2000]  # a search takes time for each, and for their length squared
    names = [item for item in names if len(item) <= 80]
    near = difflib.get_close_matches(str(name)[:80], names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if not names:
        return "; there are none"
    shown = ", ".join(sorted(names)[:12]) + (", ..." if len(names) > 12 else "")
    return f"; there are: {shown}"


def missing_key(mapping: Mapping[Any, Any], name: object) -> str:
    """The message for a key that is not there."""
    if isinstance(name, str) and name.startswith("__"):
        return f"no attribute {name!r}"  # Python's own probing; never worth a search
    return f"the config has no key {name!r} here{closest(name, mapping)}"


class Config:
    """A whole config: a ``ConfigDict`` with the file it came from, and how to read, change and write it.

    Args:
        cfg_dict: The content, or nothing for an empty config.
        filename: The file that the content came from.

    Raises:
        ConfigError: ``cfg_dict`` is not a dict.
    """

    _tree: ConfigDict
    _filename: str | None
    _env_variables: dict[str, str]

    def __init__(
        self, cfg_dict: Mapping[Any, Any] | None = None, filename: str | PathLike[str] | None = None
    ) -> None:
        if cfg_dict is not None and not isinstance(cfg_dict, Mapping):
            raise ConfigError(f"a Config holds a dict, got {type(cfg_dict).__name__}")
        tree = cfg_dict if isinstance(cfg_dict, ConfigDict) else ConfigDict(cfg_dict or {})
        self._assign(tree, None if filename is None else str(filename), {})

    def _assign(self, tree: ConfigDict, filename: str | None, env: dict[str, str]) -> None:
        object.__setattr__(self, "_tree", tree)
        object.__setattr__(self, "_filename", filename)
        object.__setattr__(self, "_env_variables", env)

    @classmethod
    def fromfile(
        cls, path: str | PathLike[str], *, trust: bool = False, cfg_options: Mapping[str, Any] | None = None
    ) -> "Config":
        """Read a config file with all its bases.

        Args:
            path: A ``.py``, ``.yaml``, ``.yml`` or ``.json`` file; ``detcore::...`` names a shipped one.
            trust: Run ``.py`` files as Python. Without it they are data; a file that needs more is refused.
            cfg_options: Overrides (``{'model.backbone.depth': 101}``), applied before ``${key}`` is replaced.

        Raises:
            ConfigError: The file or a value in it is wrong; the message starts with ``file:line:``.
        """
        from detcore.config.load import load_file

        loaded = load_file(path, trust=trust, cfg_options=cfg_options)
        config = cls()
        config._assign(loaded.tree, str(path), loaded.env_variables)
        return config

    @classmethod
    def fromstring(cls, text: str, suffix: str = ".py", *, trust: bool = False) -> "Config":
        """Read a config from text; ``suffix`` (``.py``, ``.yaml``, ``.json``) says which format it is in.

        Bases are looked for from the current folder.

        Raises:
            ConfigError: The text is wrong.
        """
        from detcore.config.load import load_text

        loaded = load_text(text, suffix, trust=trust)
        config = cls()
        config._assign(loaded.tree, None, loaded.env_variables)
        return config

    @property
    def filename(self) -> str | None:
        """The file that was read, as it was named."""
        return self._filename

    @property
    def env_variables(self) -> dict[str, str]:
        """Environment variables that the config used, with their values."""
        return self._env_variables

    @property
    def pretty_text(self) -> str:
        """The config as one readable Python file that gives the same config when it is read."""
        from detcore.config.pretty import pretty

        return pretty(self._tree)

    def to_dict(self) -> dict[Any, Any]:
        """A copy as plain dicts."""
        return self._tree.to_dict()

    def dump(self, path: str | PathLike[str] | None = None) -> str:
        """Write the config to a file, as Python, YAML or JSON after the file's suffix; gives the text.

        YAML and JSON have no tuples: these come back as lists.

        Raises:
            ConfigError: A value cannot be written in that format.
        """
        from detcore.config.pretty import to_text

        suffix = Path(path or self._filename or ".py").suffix or ".py"
        text = to_text(self._tree, suffix)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def merge_from_dict(self, options: Mapping[str, Any]) -> None:
        """Apply overrides such as ``{'model.backbone.depth': 101, 'train_pipeline.0.to_float32': True}``.

        Raises:
            ConfigError: A path leads through a value that is neither dict nor list, or past a list's end.
        """
        from detcore.config.overrides import apply_options

        object.__setattr__(self, "_tree", apply_options(self._tree, options))

    def get(self, key: Any, default: Any = None) -> Any:
        """As ``dict.get``."""
        return self._tree.get(key, default)

    def pop(self, key: Any, *default: Any) -> Any:
        """As ``dict.pop``."""
        return self._tree.pop(key, *default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As ``dict.setdefault``."""
        return self._tree.setdefault(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As ``dict.update``."""
        self._tree.update(*args, **kwargs)

    def keys(self) -> KeysView[Any]:
        """Top-level keys."""
        return self._tree.keys()

    def values(self) -> ValuesView[Any]:
        """Top-level values."""
        return self._tree.values()

    def items(self) -> ItemsView[Any, Any]:
        """Top-level keys with their values."""
        return self._tree.items()

    def copy(self) -> "Config":
        """A shallow copy."""
        twin = type(self)()
        twin._assign(self._tree.copy(), self._filename, dict(self._env_variables))
        return twin

    __copy__ = copy

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_tree" not in self.__dict__:  # probing by copy and pickle
            raise AttributeError(name)
        return getattr(self._tree, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            raise AttributeError(f"{name!r} is an attribute of Config; set the key with cfg[{name!r}] = ...")
        setattr(self._tree, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._tree, name)

    def __getitem__(self, key: Any) -> Any:
        return self._tree[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._tree[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._tree[key]

    def __contains__(self, key: object) -> bool:
        return key in self._tree

    def __iter__(self) -> Iterator[Any]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Config):
            return self._tree == other._tree
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Config (path: {self._filename}): {self._tree!r}"

    def __getstate__(self) -> tuple[ConfigDict, str | None, dict[str, str]]:
        return self._tree, self._filename, self._env_variables

    def __setstate__(self, state: tuple[ConfigDict, str | None, dict[str, str]]) -> None:
        self._assign(*state)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Config":
        twin = type(self)()
        memo[id(self)] = twin
        twin._assign(copy.deepcopy(self._tree, memo), self._filename, dict(self._env_variables))
        return twin
