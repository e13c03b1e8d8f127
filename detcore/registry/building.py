"""Building what a plan says: constructors run here, nested parts first."""
from collections.abc import Callable, Iterable
from typing import Any

from detcore.registry import core
from detcore.registry.core import Registry
from detcore.registry.planning import Call, Fresh, Planner, Several, copied
from detcore.registry.problems import InvalidConfigError, Problem, argument_problems, name_of


def build(
    registry: Registry,
    cfg: dict[str, Any],
    *,
    scope: str | None,
    path: str,
    default_args: dict[str, Any],
) -> Any:
    """Plan ``cfg``, refuse it if there are problems, build it; see ``Registry.build``."""
    planner = Planner()
    # The config's own containers are copied, because constructors may take their arguments apart.
    plan = planner.part(registry, {**default_args, **copied(cfg)}, path, scope)
    if planner.problems:
        raise InvalidConfigError(planner.problems)
    return _built(plan)


def check(
    registry: Registry, cfg: dict[str, Any], *, scope: str | None, path: str, supplied: Iterable[str]
) -> list[Problem]:
    """The problems of ``cfg``; see ``Registry.check``."""
    planner = Planner()
    planner.part(registry, copied(cfg), path, scope, supplied=frozenset(supplied))
    return planner.problems


class PartFactory:
    """Builds a fresh part at each call: what arguments marked :class:`~detcore.registry.Factory` receive.

    It can be pickled and deep-copied if the component and its arguments can.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def component(self) -> Callable[..., Any]:
        """The class or function that is called."""
        return self._call.component

    def __call__(self, **arguments: Any) -> Any:
        """Build one; ``arguments`` complete or replace those of the config.

        Raises:
            ConfigError: Unknown or missing arguments.
        """
        call = self._call
        given = {**copied(call.arguments), **arguments}
        problems = list(argument_problems(call.component, given, call.path))
        if problems:
            raise InvalidConfigError(problems)
        return _built(Call(call.component, given, call.path, call.scope))

    def __repr__(self) -> str:
        return f"PartFactory({name_of(self.component)}, path={self._call.path!r})"


def _built(plan: Any) -> Any:
    if isinstance(plan, Call):
        arguments = {name: _built(value) for name, value in plan.arguments.items()}
        return _called(plan, arguments)
    if isinstance(plan, Several):
        if isinstance(plan.plans, dict):
            return {key: _built(value) for key, value in plan.plans.items()}
        return type(plan.plans)(map(_built, plan.plans))
    return PartFactory(plan.call) if isinstance(plan, Fresh) else plan


def _called(plan: Call, arguments: dict[str, Any]) -> Any:
    # A constructor that builds from dicts itself, as users' modules do, finds the default scope of its place.
    with core.default_scope(plan.scope):
        try:
            return plan.component(**arguments)
        except Exception as error:
            error.add_note(f"while building {plan.path or 'the top level'}: {name_of(plan.component)}")
            raise
