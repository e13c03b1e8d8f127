"""A user's own modules, which are no plugins: files, and modules that a config asks to import.

Importing them runs their code, so both need the user's trust. What an installed plugin's package holds does
not: installing it was the trust.
"""
import hashlib
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detcore.errors import ConfigError, PluginError
from detcore.plugins.discovery import ENVIRONMENT
from detcore.plugins.host import PluginHost, host, replace_host
from detcore.registry.core import REGISTRIES, USER

logger = logging.getLogger(__name__)

_imports: list[str] = []  # what this process has loaded, in order, for its workers
_files: dict[Path, str] = {}  # file -> digest of the source that was run


def load_user_modules(
    imports: str | Iterable[str] = (),
    files: str | Iterable[str | Path] = (),
    *,
    trusted: bool,
    allow_failed: bool = False,
) -> None:
    """Import modules and run files that register components with the decorator.

    Loading again is free of effect, except that a file that has changed since is run anew.

    Args:
        imports: Names of modules, as in ``custom_imports``. Names that end in ``.py`` count as files.
        files: Paths of Python files; relative ones from the working directory.
        trusted: Whether the user trusts whoever wrote the config.
        allow_failed: Only warn about what cannot be imported.

    Raises:
        ConfigError: A module needs trust that was not given.
        PluginError: A module cannot be imported; chains the original exception.
    """
    wanted = [str(each) for each in (*_listed(imports), *_listed(files))]
    foreign = [each for each in wanted if _is_file(each) or not _is_plugins(each)]
    if foreign and not trusted:
        raise ConfigError(
            f"the config asks to import {', '.join(foreign)}, which runs code that it brings along; "
            "if you trust whoever wrote it, pass --trust-config (in Python: trust=True)"
        )
    for each in wanted:
        try:
            _load_file(Path(each)) if _is_file(each) else _import(each)
        except Exception as error:
            _forget_vanished()
            if not (allow_failed and isinstance(error, ImportError)):
                raise PluginError(f"cannot import {each!r}: {type(error).__name__}: {error}") from error
            logger.warning("cannot import %r, which may fail here: %s", each, error)


@dataclass(frozen=True)
class PluginState:
    """What a worker process needs in order to see the same components; unpickling it restores them.

    Attributes:
        environment: Those of the host's environment variables that are set.
        imports: Names of the user's modules.
        files: Absolute paths of the user's files.
    """

    environment: Mapping[str, str]
    imports: tuple[str, ...]
    files: tuple[str, ...]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restored, (dict(self.environment), self.imports, self.files)


def plugin_state() -> PluginState:
    """The state of this process, to be sent to a worker before the objects whose classes it needs."""
    return PluginState(host().environment, tuple(_imports), tuple(map(str, _files)))


def _restored(environment: dict[str, str], imports: tuple[str, ...], files: tuple[str, ...]) -> PluginState:
    if host().environment != environment:
        for name in ENVIRONMENT:
            os.environ.pop(name, None)
        os.environ.update(environment)
        replace_host(PluginHost(environment))
    load_user_modules(imports, files, trusted=True)
    return PluginState(environment, imports, files)


def _listed(names: str | Iterable[str | Path]) -> list[str | Path]:
    return [names] if isinstance(names, str) else list(names)


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _is_plugins(module: str) -> bool:
    """Whether an installed, allowed plugin (or detcore itself) holds the module, or stands in for it."""
    usable = host().scopes()
    return any(scope in usable for scope in host().scopes_of(module)) or _is_replaced(module)


def _is_replaced(module: str) -> bool:
    """Whether a scope stands in for a package that is not there: ``mmcls.models`` with scope ``mmcls``."""
    package = module.partition(".")[0]
    return package in host().scopes() and importlib.util.find_spec(package) is None


def _import(name: str) -> None:
    if _is_replaced(name):
        host().table(name.partition(".")[0])
        return
    importlib.import_module(name)
    if name not in _imports:
        _imports.append(name)


def _load_file(path: Path) -> None:
    path = path.expanduser().resolve()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # The same name in every process, so that what the module defines can be pickled.
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"detcore_user_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{place}"
    if name in sys.modules and _files.get(path) == digest:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _files[path] = digest


def _forget_vanished() -> None:
    """Take back what half-run modules registered; modules that were imported whole stay, with their names."""
    for registry in REGISTRIES.values():
        registry.forget(lambda scope, made: scope == USER and made.where.partition(":")[0] not in sys.modules)
