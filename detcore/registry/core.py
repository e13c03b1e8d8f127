"""The registry: from a name in a config to the class that it means, and from a config to the built object."""
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from detcore.errors import RegistryError
from detcore.registry.scopes import REGISTRY_NAMES, source

if TYPE_CHECKING:
    from detcore.registry.problems import Problem

Component = TypeVar("Component", bound=Callable[..., Any])

USER = ""  # the scope of what users' own modules register; it has no name that a config could write
REGISTRIES: dict[str, "Registry"] = {}
_default_scope: ContextVar[str | None] = ContextVar("detcore_default_scope", default=None)


@dataclass(frozen=True, slots=True)
class Registration:
    """A component that registered itself with the decorator."""

    component: Callable[..., Any]
    forced: bool

    @property
    def where(self) -> str:
        """``module:name`` of the component."""
        component = self.component
        name = getattr(component, "__qualname__", type(component).__qualname__)
        return f"{getattr(component, '__module__', '?')}:{name}"


class Registry:
    """Names of one kind of component.

    A config's ``type`` is a class, ``'scope.Name'`` or ``'Name'``. A plain name is looked up in the default
    scope, then among what the user's own modules registered, then in the standard scopes ``detcore``,
    ``models``, ``backbones``, ``datasets``; what a user registered with ``force=True`` comes before all.
    Only registered names build; a dotted string is never an import path.

    Args:
        name: How plugins' tables name this registry, for example ``"models"``.
    """

    def __init__(self, name: str) -> None:
        if name in REGISTRIES:
            raise RegistryError(f"there is already a registry {name!r}")
        self.name = name
        self._registered: dict[tuple[str, str], Registration] = {}
        REGISTRIES[name] = self
        REGISTRY_NAMES.add(name)

    def build(
        self,
        cfg: Any,
        *,
        default_scope: str | None = None,
        path: str = "",
        default_args: Mapping[str, Any] | None = None,
        **more_defaults: Any,
    ) -> Any:
        """Build what a config describes, nested parts first.

        The whole tree is validated before anything is built. What is not a dict is returned as it is.

        Args:
            cfg: ``dict(type=..., **arguments)``; not modified.
            default_scope: Where plain names are looked up first; by default that of the build under way.
            path: Where ``cfg`` stands in its config, for messages: ``"model"``.
            default_args: Arguments for the outermost component where ``cfg`` does not give them.
            **more_defaults: The same, as keywords.

        Raises:
            ConfigError: Unknown types, unknown or missing arguments: all of them in one message.
        """
        if not isinstance(cfg, dict):
            return cfg
        # Here, not above: reading signatures needs the registries, and whoever only registers needs neither.
        from detcore.registry.building import build

        scope = default_scope or current_scope()
        defaults = {**(default_args or {}), **more_defaults}
        return build(self, cfg, scope=scope, path=path, default_args=defaults)

    def check(
        self,
        cfg: Any,
        *,
        default_scope: str | None = None,
        path: str = "",
        supplied: Iterable[str] = (),
    ) -> list["Problem"]:
        """Everything that :meth:`build` would refuse, without building anything.

        Args:
            cfg: As for :meth:`build`.
            default_scope: As for :meth:`build`.
            path: As for :meth:`build`.
            supplied: Names of the default arguments that :meth:`build` will get.
        """
        if not isinstance(cfg, dict):
            return []
        from detcore.registry.building import check

        scope = default_scope or current_scope()
        return check(self, cfg, scope=scope, path=path, supplied=supplied)

    def get(self, name: str | Callable[..., Any], *, default_scope: str | None = None) -> Callable[..., Any]:
        """The class or function behind a ``type``.

        Raises:
            RegistryError: Not found; names the scopes that were searched, their state, and close names.
            PluginError: The scope that was named, or the component's module, cannot be imported.
        """
        if callable(name):
            return name
        from detcore.registry.lookup import find

        return find(self, name, default_scope or current_scope())

    def __contains__(self, name: str) -> bool:
        try:
            self.get(name)
        except RegistryError:
            return False
        return True

    def __repr__(self) -> str:
        return f"Registry({self.name!r})"

    def __reduce__(self) -> tuple[Callable[[str], "Registry"], tuple[str]]:
        return _registry_named, (self.name,)  # the one of that name, in copies and in other processes

    @overload
    def register_module(
        self, name: str | list[str] | None = None, force: bool = False, module: None = None
    ) -> Callable[[Component], Component]: ...

    @overload
    def register_module(
        self, name: str | list[str] | None = None, force: bool = False, *, module: Component
    ) -> Component: ...

    @overload
    def register_module(self, name: Component) -> Component: ...

    def register_module(
        self,
        name: "str | list[str] | Callable[..., Any] | None" = None,
        force: bool = False,
        module: Callable[..., Any] | None = None,
    ) -> Any:
        """Register a class or function of a user's module: ``@MODELS.register_module()``.

        Args:
            name: Name, or names, in configs; by default the component's own.
            force: Replace another component of that name; also needed to shadow a standard one.
            module: The component, for use without decorator: ``MODELS.register_module(module=MyHead)``.

        Returns:
            The decorator, or ``module`` where it was given.

        Raises:
            RegistryError: The name is taken.
        """
        if callable(name):  # @MODELS.register_module without parentheses
            return self._register(name, None, force)
        if module is not None:
            return self._register(module, name, force)

        def decorate(component: Component) -> Component:
            return self._register(component, name, force)

        return decorate

    def _register(self, component: Component, name: "str | list[str] | None", force: bool) -> Component:
        if not callable(component):
            raise RegistryError(f"{self.name}: only classes and functions register, got {component!r}")
        names = [name] if isinstance(name, str) else list(name or [component.__name__])
        for each in names:
            if not isinstance(each, str) or not each or "." in each:
                raise RegistryError(f"{self.name}: a name must be a string without a dot, got {each!r}")
            self._add(each, Registration(component, force))
        return component

    def _add(self, name: str, new: Registration) -> None:
        scope = self._scope_for(name, new)
        if scope is None:
            return
        old = self._registered.get((scope, name))
        # The same place in the same module is the same component defined anew (a notebook's cell, a reload).
        if old is not None and old.where != new.where and not new.forced:
            raise RegistryError(
                f"{self.name}: {name!r} is registered twice: by {old.where} and by {new.where}; "
                "give one of them another name=, or force=True to replace"
            )
        if scope == USER and old is None and not new.forced:
            self._refuse_shadowing(name, new)
        self._registered[scope, name] = new

    def _scope_for(self, name: str, new: Registration) -> str | None:
        """Scope that a decorated component goes to; None where the scope's table names it already."""
        scopes = source().scopes_of(new.where.partition(":")[0])
        if not scopes:
            return USER
        # A module of the only scope may be imported while its table is made; the look-up compares the two.
        table_of = source().loaded_table if len(scopes) == 1 else source().try_table
        tables = [table for table in map(table_of, scopes) if table is not None]
        references = [reference for table in tables if (reference := table.get(self.name, name))]
        if any(reference.target == new.where for reference in references):
            return None
        if len(scopes) > 1:
            raise RegistryError(
                f"{self.name}: {new.where} cannot register itself as {name!r}, because its package serves "
                f"the scopes {', '.join(scopes)}; name it in the package's detcore_components hook"
            )
        return scopes[0]

    def _refuse_shadowing(self, name: str, new: Registration) -> None:
        from detcore.registry.lookup import standard_reference

        taken = standard_reference(self, name)
        if taken is not None and taken.target != new.where:
            raise RegistryError(
                f"{self.name}: {new.where} registers {name!r}, which scope {taken.scope!r} has already "
                f"({taken.target}); choose another name, or force=True if configs shall mean yours"
            )

    def registered(self, scope: str, name: str) -> Registration | None:
        """What was registered by decorator under a name of a scope (``USER`` for users' own modules)."""
        return self._registered.get((scope, name))

    def registered_names(self, scope: str) -> list[str]:
        """Names registered by decorator in a scope, sorted."""
        return sorted(name for where, name in self._registered if where == scope)

    def forget(self, unwanted: Callable[[str, Registration], bool]) -> None:
        """Take back registrations: those for which ``unwanted(scope, registration)`` is true."""
        kept = {key: made for key, made in self._registered.items() if not unwanted(key[0], made)}
        self._registered = kept


@dataclass(frozen=True)
class Deferred:
    """``Annotated[dict, Deferred(MODELS)]``: checked with the config, passed on unbuilt.

    For settings that a builder completes with its own arguments (``norm_cfg``); required ones may be missing.

    Attributes:
        registry: Where ``type`` is looked up.
        allow: Keys that the builder takes itself, for example ``("requires_grad",)`` of ``norm_cfg``.
    """

    registry: Registry
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Factory:
    """``Annotated[Callable[..., T], Factory(MODELS)]``: checked with the config, passed as a callable.

    Each call builds a fresh component; keyword arguments of the call complete or replace those of the config.

    Attributes:
        registry: Where ``type`` is looked up.
    """

    registry: Registry


@dataclass(frozen=True)
class Open:
    """``Annotated[SomeTypedDict, Open()]``: other keys are fine, unless one looks like a slip of these."""


def current_scope() -> str | None:
    """The default scope of the build under way, None outside of one."""
    return _default_scope.get()


@contextlib.contextmanager
def default_scope(scope: str | None) -> Iterator[None]:
    """Make ``scope`` the default scope of every look-up in the block (of this thread or task only)."""
    token = _default_scope.set(scope)
    try:
        yield
    finally:
        _default_scope.reset(token)


def _registry_named(name: str) -> Registry:
    return REGISTRIES[name]
