"""The plugin host: finds plugins, loads each when one of its names is asked for, isolates failures."""
import importlib
import itertools
import logging
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from detcore import __version__, hookspecs
from detcore.errors import PluginError
from detcore.plugins.checkpoints import CheckpointTable
from detcore.plugins.commands import CommandTable
from detcore.plugins.discovery import (
    ENVIRONMENT,
    KNOWN_DISTRIBUTIONS,
    KNOWN_NAMES,
    Claim,
    Installed,
    Permissions,
    find_installed,
    pip_line,
)
from detcore.plugins.observers import Observers
from detcore.registry.core import REGISTRIES
from detcore.registry.scopes import ComponentTable, Reference

logger = logging.getLogger(__name__)

CORE = "detcore"
INSTALLED, LOADING, LOADED, FAILED, BLOCKED = "installed", "loading", "loaded", "failed", "blocked"


@dataclass
class PluginRecord:
    """What the host knows of one scope.

    Attributes:
        claims: The distributions that claim it: one, or a conflict.
        status: ``installed`` (not loaded), ``loading``, ``loaded``, ``failed``, or ``blocked`` by settings.
        reason: Why it failed or is blocked, in one line.
        error: The exception behind a failure, with its traceback.
        table: Its components, once loaded.
        commands: Its commands, once loaded.
        checkpoints: What it knows of foreign weight files, once loaded.
        observers: ``(hook, function, argument names)``.
        api: The plugin API version that it states.
        milliseconds: How long loading took.
        imports_torch: Whether its module imported torch, for which every look-up in its scope has to wait.
    """

    claims: list[Claim]
    status: str = INSTALLED
    reason: str = ""
    error: BaseException | None = None
    table: ComponentTable | None = None
    commands: CommandTable | None = None
    checkpoints: CheckpointTable | None = None
    observers: list[tuple[str, Callable[..., Any], tuple[str, ...]]] = field(default_factory=list)
    api: int | None = None
    milliseconds: float = 0.0
    imports_torch: bool = False
    warned: bool = False

    def may_name(self, *words: str) -> bool:
        """Whether the source of its module names a hook or method, or does not tell."""
        return any(claim.named is None or not claim.named.isdisjoint(words) for claim in self.claims)

    @property
    def scope(self) -> str:
        """The scope's name."""
        return self.claims[0].scope

    @property
    def owner(self) -> str:
        """The distribution, or all that claim the scope."""
        return " and ".join(claim.owner for claim in self.claims)


class PluginHost:
    """All plugins of one process.

    Creating it reads nothing. The first question reads the metadata of the installed distributions; a
    plugin's module is imported when a name of its scope is asked for, a component's when it is built.

    Args:
        environment: Holds ``DETCORE_PLUGINS``, ``DETCORE_DISABLE_PLUGINS``, ``DETCORE_STRICT_PLUGINS``.
        find: Reads what is installed.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        find: Callable[[], Installed] = find_installed,
    ) -> None:
        self.environment = {name: environment[name] for name in ENVIRONMENT if name in environment}
        self.permissions = Permissions.from_environment(self.environment)
        self._find = find
        self._installed: Installed | None = None
        self._records: dict[str, PluginRecord] = {}
        self._scopes: dict[str, None] = {}
        self._telling: dict[str, list[str]] = {}
        self._core: ComponentTable | None = None
        self._lock = threading.RLock()

    def records(self) -> dict[str, PluginRecord]:
        """Scope -> record of every installed plugin, sorted by scope; loads none."""
        self.installed()
        return self._records

    def installed(self) -> Installed:
        """What the metadata says; read once."""
        with self._lock:
            if self._installed is None:
                self._installed = self._find()
                claims = self._installed.claims
                self._records = {scope: self._record(claims[scope]) for scope in claims}
                usable = {scope for scope, record in self._records.items() if record.status != BLOCKED}
                self._scopes = dict.fromkeys(sorted(usable | {CORE}))
                unknown = self.permissions.unknown(claims, disabled=False)
                for line in (*self._installed.unreadable, *unknown):
                    logger.warning("%s", line)
            return self._installed

    def _record(self, claims: list[Claim]) -> PluginRecord:
        refusal = self.permissions.refusal(claims[0].scope)
        return PluginRecord(claims, status=BLOCKED if refusal else INSTALLED, reason=refusal)

    def scopes(self) -> Collection[str]:
        """Scopes that are installed and allowed, sorted; ``detcore`` included."""
        self.installed()
        return self._scopes.keys()

    def describe(self, scope: str) -> str:
        """The state of a scope in a few words."""
        record = self.records().get(scope)
        if scope == CORE:
            return LOADED
        if record is None:
            line = pip_line(scope)
            return f"not installed: {line}" if line else "not installed"
        return f"{record.status}: {record.reason}" if record.reason else record.status

    def provider(self, name: str) -> str:
        """Which known package that is not installed provides a plain name; may be empty."""
        scope = KNOWN_NAMES.get(name)
        if scope is None or scope in self.records():
            return ""
        return f"{KNOWN_DISTRIBUTIONS[scope]} provides {name!r}: {pip_line(scope)}"

    def scopes_of(self, module: str) -> list[str]:
        """Scopes whose own package holds ``module``; several if one package serves several scopes."""
        if module.partition(".")[0] == CORE:
            return [CORE]
        shared = {
            scope: max(_shared_parents(module, claim.module) for claim in record.claims)
            for scope, record in self.records().items()
        }
        most = max(shared.values(), default=0)
        return [scope for scope, parents in shared.items() if parents and parents == most]

    def table(self, scope: str) -> ComponentTable:
        """The scope's components, loaded if need be.

        Raises:
            PluginError: The scope is not installed, not allowed, or broken; then it chains the exception.
        """
        if scope == CORE:
            return self._core_table()
        record = self.records().get(scope)
        if record is None or record.status == BLOCKED:
            raise PluginError(f"scope {scope!r} is {self.describe(scope)}")
        self._load(record)
        if record.table is None:
            raise PluginError(self._failure(record)) from record.error
        return record.table

    def try_table(self, scope: str) -> ComponentTable | None:
        """The same where nobody named the scope: None and one warning if it cannot be used."""
        if scope == CORE:
            return self._core_table()
        record = self.records().get(scope)
        if record is None or record.status == BLOCKED:
            return None
        self._load_isolated(record)
        return record.table

    def loaded_table(self, scope: str) -> ComponentTable | None:
        """The scope's table if it is loaded already."""
        record = self.records().get(scope)
        return self._core if scope == CORE else None if record is None else record.table

    def tables_telling(self, what: str) -> list[ComponentTable]:
        """Tables, in the order of scopes, of which a plugin's source says that they may tell it.

        Args:
            what: ``"absent"`` or ``"words"``: the method of the table that tells.
        """
        if what not in self._telling:
            records = self.records()
            self._telling[what] = [
                scope for scope in self.scopes() if scope == CORE or records[scope].may_name(what)
            ]
        return [table for table in map(self.try_table, self._telling[what]) if table is not None]

    def load_all(self, *, quiet: bool = False) -> list[PluginRecord]:
        """Load every allowed plugin, each failure isolated; all records, sorted by scope.

        Args:
            quiet: Neither warn nor raise: the caller reports what the records say.
        """
        for record in self.records().values():
            if record.status != BLOCKED:
                self._load(record) if quiet else self._load_isolated(record)
        return list(self.records().values())

    def _load_with(self, *hooks: str) -> list[PluginRecord]:
        """Load every allowed plugin that may implement one of ``hooks``; all records, sorted by scope."""
        if self.permissions.strict:  # strict finds what is broken, be it needed or not
            return self.load_all()
        for record in self.records().values():
            if record.status == INSTALLED and record.may_name(*hooks):
                self._load_isolated(record)
        return list(self.records().values())

    def requirements(self) -> dict[str, str]:
        """Scope -> ``"det-timm==0.3.0"`` of every loaded plugin, for logs and checkpoints."""
        return {
            scope: f"{record.claims[0].distribution}=={record.claims[0].version}"
            for scope, record in self.records().items()
            if record.status == LOADED
        }

    def observers(self) -> Observers:
        """The observers of every installed and allowed plugin; loads the plugins that may have some."""
        # One module may serve several scopes; its observers are called once all the same.
        found = {
            (hook, function): (record.scope, hook, function, names)
            for record in self._load_with(*hookspecs.OBSERVER_HOOKS)
            for hook, function, names in record.observers
        }
        return Observers(found.values(), strict=self.permissions.strict)

    def commands(self) -> dict[str, list[tuple[Reference, str]]]:
        """Name -> ``(reference, help)`` of the commands that plugins add; more than one is a conflict."""
        found: dict[str, list[tuple[Reference, str]]] = {}
        for record in self._load_with("detcore_commands"):
            table = record.commands
            for name, reference in table.commands.items() if table else ():
                found.setdefault(name, []).append((reference, table.helps[name] if table else ""))
        return found

    def checkpoints(self) -> list[CheckpointTable]:
        """What every installed and allowed plugin knows of foreign weight files; loads those that may."""
        records = self._load_with("detcore_checkpoints")
        return [record.checkpoints for record in records if record.checkpoints is not None]

    def _core_table(self) -> ComponentTable:
        with self._lock:
            if self._core is None:
                from detcore.components import detcore_components

                table = ComponentTable(CORE, f"detcore {__version__}")
                detcore_components(table)
                self._core = table
            return self._core

    def _load_isolated(self, record: PluginRecord) -> None:
        self._load(record)
        if record.status == FAILED and self.permissions.strict:
            raise PluginError(self._failure(record)) from record.error
        if record.status == FAILED and not record.warned:
            record.warned = True
            logger.warning("%s (see `detcore plugins doctor`)", self._failure(record))

    def _failure(self, record: PluginRecord) -> str:
        return f"plugin {record.scope!r} ({record.owner}) cannot be used: {record.reason or record.status}"

    def _load(self, record: PluginRecord) -> None:
        with self._lock:
            if record.status != INSTALLED:  # loaded, failed, or asks for itself while it is loading
                return
            record.status = LOADING
            start = time.perf_counter()
            try:
                _Loader(record).load()
                record.status = LOADED
            except (Exception, SystemExit) as error:  # a module that exits at import must not take us along
                _roll_back(record, error)
            record.milliseconds = (time.perf_counter() - start) * 1000


class _Loader:
    """Loads one plugin; whatever is wrong with it is raised, and nothing is kept of it then."""

    def __init__(self, record: PluginRecord) -> None:
        self.record = record

    def load(self) -> None:
        """Import the module, check it, and ask it for its components, commands and observers."""
        record = self.record
        claim = self._claim()
        had_torch = "torch" in sys.modules
        module = importlib.import_module(claim.module)
        record.imports_torch = not had_torch and "torch" in sys.modules
        record.api = self._checked_api(module, claim)
        _refuse_unmarked(module)
        manager = pluggy.PluginManager("detcore")
        manager.add_hookspecs(hookspecs)
        manager.register(module, name=claim.scope)
        manager.check_pending()  # hooks that do not exist
        table, commands = ComponentTable(claim.scope, claim.owner), CommandTable(claim.scope, claim.owner)
        checkpoints = CheckpointTable(claim.scope, claim.owner)
        observers = _observers(manager)
        manager.hook.detcore_components(components=table)
        manager.hook.detcore_commands(commands=commands)
        manager.hook.detcore_checkpoints(checkpoints=checkpoints)
        record.table, record.commands, record.observers = table, commands, observers
        record.checkpoints = checkpoints

    def _claim(self) -> Claim:
        claims = self.record.claims
        scope = self.record.scope
        if scope == CORE:
            raise PluginError(f"scope {CORE!r} is reserved, but {self.record.owner} claims it")
        if not scope.isidentifier():
            raise PluginError(f"{scope!r} of {self.record.owner} is no scope: it must be a Python identifier")
        if len(claims) > 1:
            raise PluginError(f"it is claimed by {self.record.owner}; uninstall all but one of them")
        return claims[0]

    def _checked_api(self, module: types.ModuleType, claim: Claim) -> int:
        stated = getattr(module, "DETCORE_API", None)
        newest, oldest = hookspecs.API_VERSION, hookspecs.OLDEST_API_VERSION
        if not isinstance(stated, int):
            raise PluginError(
                f"{claim.module} must state its plugin API version, DETCORE_API = {newest}; got {stated!r}"
            )
        if stated > newest:
            remedy = "pip install --upgrade detcore"
        elif stated < oldest:
            remedy = f"pip install --upgrade {claim.distribution}"
        else:
            return stated
        raise PluginError(
            f"{claim.owner} is written for plugin API {stated}, detcore {__version__} has {newest}: {remedy}"
        )


def _shared_parents(module: str, plugin: str) -> int:
    """How many leading parts of the dotted names agree."""
    pairs = zip(module.split("."), plugin.split("."), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _refuse_unmarked(module: types.ModuleType) -> None:
    """A hook without ``@hookimpl`` would be passed over in silence."""
    for name in ("detcore_components", "detcore_commands", "detcore_checkpoints"):
        function = getattr(module, name, None)
        if function is not None and not hasattr(function, "detcore_impl"):
            raise PluginError(f"{module.__name__}.{name} lacks @hookimpl")


def _observers(manager: pluggy.PluginManager) -> list[tuple[str, Callable[..., Any], tuple[str, ...]]]:
    found = []
    for hook in hookspecs.OBSERVER_HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.hookwrapper or implementation.wrapper:
                raise PluginError(f"{hook} cannot be a wrapper: observers only observe")
            found.append((hook, implementation.function, tuple(implementation.argnames)))
    return found


def _roll_back(record: PluginRecord, error: BaseException) -> None:
    record.status, record.error = FAILED, error
    first = (str(error).strip() or "no message").splitlines()[0]
    record.reason = first if isinstance(error, PluginError) else f"{type(error).__name__}: {first}"
    for registry in REGISTRIES.values():
        registry.forget(lambda scope, _: scope == record.scope)


_host: PluginHost | None = None  # the one of this process: plugins and registrations are the process's, too


def host() -> PluginHost:
    """The process's plugin host, created with the environment as it is when first asked for."""
    global _host
    if _host is None:
        _host = PluginHost()
    return _host


def replace_host(new: PluginHost | None) -> PluginHost | None:
    """Put another host in place (None: a fresh one when next asked for) and return the one before."""
    global _host
    before, _host = _host, new
    return before
