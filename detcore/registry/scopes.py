"""What the registry and the plugin host share: tables of lazy references, and the wire between the two.

The registry asks for scopes, the host supplies them. Neither imports the other: ``detcore/__init__.py``
connects them here, so that the registry stays usable without a host (in tests, say) and cheap to import.
"""
import importlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from detcore.errors import PluginError

STANDARD_SCOPES = ("detcore", "models", "backbones", "datasets")
REGISTRY_NAMES: set[str] = set()  # filled by the registries themselves
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True)
class Reference:
    """A component that is imported when it is first asked for.

    Attributes:
        target: ``"module:attribute"``.
        scope: The scope whose table holds it.
        owner: The distribution it comes from, for example ``"det-timm 0.3.0"``.
    """

    target: str
    scope: str
    owner: str

    def load(self) -> Any:
        """Import the module and return the attribute.

        Raises:
            PluginError: The module cannot be imported or lacks the attribute; chains the original.
        """
        module, _, attribute = self.target.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise PluginError(
                f"{self.target!r} of scope {self.scope!r} ({self.owner}) cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        return found


@dataclass(frozen=True, slots=True)
class Resolver:
    """Makes components on demand: ``resolve(name)`` returns the component, or None if it has none.

    Attributes:
        resolve: Reference to that function.
        names: Reference to a function that lists some names, for suggestions; may be None.
    """

    resolve: Reference
    names: Reference | None = None


@dataclass(frozen=True, slots=True)
class Absence:
    """A name that a user may expect and that nobody has.

    Attributes:
        reason: Why, as a sentence without full stop.
        takes: The arguments that it is known to take, so that a config can be checked all the same; None
            where they are not known, ``"*"`` among them where it takes others, too.
    """

    reason: str
    takes: tuple[str, ...] | None = None


@dataclass(slots=True)
class ComponentTable:
    """The names of one scope; this is what a plugin's ``detcore_components`` hook fills.

    Attributes:
        scope: The scope being filled. One module may serve several scopes and can tell them apart by it.
        owner: The distribution, for example ``"det-timm 0.3.0"``.
        overrides: ``(registry, name, old target, new target)`` of every explicit override.
    """

    scope: str
    owner: str
    overrides: list[tuple[str, str, str, str]] = field(default_factory=list)
    _references: dict[str, dict[str, Reference]] = field(default_factory=dict)
    _resolvers: dict[str, list[Resolver]] = field(default_factory=dict)
    _aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    _absent: dict[str, dict[str, Absence]] = field(default_factory=dict)
    _words: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, registry: str, name: str, target: str, *, override: bool = False) -> None:
        """Name one component.

        Args:
            registry: Name of the registry, for example ``"models"``.
            name: What a config writes as ``type``; without the scope.
            target: ``"module:attribute"``; imported when first built.
            override: Replace a name that this scope already has. Listed by ``detcore plugins list``.

        Raises:
            PluginError: Unknown registry, malformed name or target, or a name given twice.
        """
        self._check(registry, target)
        if not isinstance(name, str) or not name or "." in name:
            raise PluginError(f"{self._label()}: component name {name!r} must be a string without a dot")
        names = self._references.setdefault(registry, {})
        known = names.get(name)
        if known is not None and not override:
            raise PluginError(
                f"{self._label()} names {registry} {name!r} twice: {known.target!r} and {target!r}; "
                "an intended override says components.add(..., override=True)"
            )
        if known is None and override:
            raise PluginError(f"{self._label()}: {registry} {name!r} overrides nothing; drop override=True")
        if known is not None:
            self.overrides.append((registry, name, known.target, target))
        names[name] = Reference(target, self.scope, self.owner)

    def add_many(self, registry: str, names: Mapping[str, str], *, override: bool = False) -> None:
        """Name several components: ``{name: "module:attribute"}``; see :meth:`add`."""
        for name, target in names.items():
            self.add(registry, name, target, override=override)

    def resolver(self, registry: str, target: str, *, names: str | None = None) -> None:
        """Have names made on demand.

        Args:
            registry: Name of the registry.
            target: ``"module:function"``; ``function(name)`` returns the component, or None.
            names: ``"module:function"`` that returns names it can make, for suggestions in error messages.
        """
        self._check(registry, target)
        if names is not None:
            self._check(registry, names)
        listing = None if names is None else Reference(names, self.scope, self.owner)
        made = Resolver(Reference(target, self.scope, self.owner), listing)
        self._resolvers.setdefault(registry, []).append(made)

    def alias(self, registry: str, name: str, meant: str | None = None) -> None:
        """Have a name of this scope mean what another scope holds: for packages that we stand in for.

        It needs no import and no list of what is installed. While nobody has the other name, this one is
        unknown, and the error says why: see :meth:`absent`.

        Args:
            registry: Name of the registry.
            name: What a config writes, without the scope.
            meant: ``'scope.Name'``, or a plain name of the standard scopes; by default ``name`` itself.
        """
        self._check_registry(registry)
        self._aliases.setdefault(registry, {})[name] = meant or name

    def absent(self, registry: str, name: str, reason: str, *, takes: Iterable[str] | None = None) -> None:
        """Say why a name is unknown that a user may expect here; it counts only while nobody has the name.

        Args:
            registry: Name of the registry.
            name: What a config writes, without the scope.
            reason: A sentence without full stop: ``"trackers are not part of detcore"``.
            takes: The arguments that it is known to take.
        """
        self._check_registry(registry)
        self._absent.setdefault(registry, {})[name] = Absence(reason, None if takes is None else tuple(takes))

    def words(self, key: str, known: Iterable[str]) -> None:
        """Say what configs write in places that no component's signature describes.

        They help to recognise misspellings; any other word stays allowed there.

        Args:
            key: Where: ``"rcnn"`` for the keys of dicts without ``type`` under that key, ``"nms.type"`` for
                types that are no component's name, ``""`` for free variables at the top level.
            known: The words.
        """
        self._words[key] = (*self._words.get(key, ()), *known)

    @property
    def stands_in(self) -> bool:
        """Whether this scope names what others hold, as scopes of packages that we stand in for do."""
        return bool(self._aliases)

    def alias_of(self, registry: str, name: str) -> str | None:
        """What a name of this scope means elsewhere."""
        return self._aliases.get(registry, {}).get(name)

    def alias_names(self, registry: str) -> list[str]:
        """The names of :meth:`alias`, in their order."""
        return list(self._aliases.get(registry, {}))

    def absence(self, registry: str, name: str) -> Absence | None:
        """What is known of a name that is not there."""
        return self._absent.get(registry, {}).get(name)

    def absent_names(self, registry: str) -> list[str]:
        """The names of :meth:`absent`, in their order."""
        return list(self._absent.get(registry, {}))

    def words_of(self, key: str) -> tuple[str, ...]:
        """What was told by :meth:`words`."""
        return self._words.get(key, ())

    def get(self, registry: str, name: str) -> Reference | None:
        """The reference of a name, without importing it."""
        return self._references.get(registry, {}).get(name)

    def resolvers(self, registry: str) -> list[Resolver]:
        """The resolvers for one registry, in the order they were added."""
        return self._resolvers.get(registry, [])

    def names(self, registry: str) -> list[str]:
        """The listed names of one registry, sorted."""
        return sorted(self._references.get(registry, {}))

    def __iter__(self) -> Iterator[tuple[str, str, Reference]]:
        """All ``(registry, name, reference)``, sorted."""
        for registry in sorted(self._references):
            for name in self.names(registry):
                yield registry, name, self._references[registry][name]

    def __len__(self) -> int:
        return sum(len(names) for names in self._references.values())

    def _label(self) -> str:
        return f"scope {self.scope!r} ({self.owner})"

    def _check(self, registry: str, target: str) -> None:
        self._check_registry(registry)
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise PluginError(f"{self._label()}: {target!r} is not of the form 'package.module:attribute'")

    def _check_registry(self, registry: str) -> None:
        if registry not in REGISTRY_NAMES:
            known = ", ".join(sorted(REGISTRY_NAMES))
            raise PluginError(f"{self._label()}: there is no registry {registry!r}; known: {known}")


class ScopeSource(Protocol):
    """What the registry asks of the plugin host."""

    def table(self, scope: str) -> ComponentTable:
        """The scope's table, loaded if need be; PluginError if the scope cannot be used."""

    def try_table(self, scope: str) -> ComponentTable | None:
        """The same where nobody named the scope: None (and one warning) if it cannot be used."""

    def loaded_table(self, scope: str) -> ComponentTable | None:
        """The scope's table if it is loaded already; loads nothing."""

    def tables_telling(self, what: str) -> list[ComponentTable]:
        """Tables that may tell of names that are not their own, by their method ``absent`` or ``words``."""

    def scopes(self) -> Collection[str]:
        """Scopes that are installed and allowed, sorted; ``detcore`` included."""

    def describe(self, scope: str) -> str:
        """The state of a scope in a few words, with the pip line if a known package would bring it."""

    def provider(self, name: str) -> str:
        """Which known package that is not installed provides a name, with its pip line; may be empty."""

    def scopes_of(self, module: str) -> list[str]:
        """Scopes whose own package holds the module."""


_factory: Callable[[], ScopeSource] | None = None


def connect(factory: Callable[[], ScopeSource] | None) -> Callable[[], ScopeSource] | None:
    """Say where scopes come from; called by ``detcore/__init__.py``. Returns what was connected before."""
    global _factory
    before, _factory = _factory, factory
    return before


def source() -> ScopeSource:
    """The connected source of scopes."""
    if _factory is None:
        raise PluginError("no plugin host is connected: import detcore before its registry is used")
    return _factory()
