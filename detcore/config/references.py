"""``${data_root}`` in the strings of a config: the final value of another key."""
import re
from collections.abc import Callable, Mapping
from typing import Any

from detcore.config.placeholders import copied, follow
from detcore.config.values import SCALARS, Budget, ConfigFileError, LimitError, Origin, a_kind, measure
from detcore.errors import ConfigError

REFERENCE = re.compile(r"(?<!\$)(\$+)\{([A-Za-z_]\w*(?:\.\w+)*)\}")
MAX_CHAIN = 50
_PLAIN = SCALARS - {str}


class References:
    """Replaces ``${model.neck.num_outs}`` in the strings of a whole config by the value of that key.

    A reference that is the whole string keeps the value's type. ``$${key}`` is the text ``${key}``.

    Args:
        root: The config that keys are looked up in.
        budget: Pays for what is copied in, so that references to references stay bounded.
    """

    def __init__(self, root: Mapping[str, Any], budget: Budget) -> None:
        self.root = root
        self.budget = budget
        self.chain: list[str] = []

    def resolve(self, value: Any, where: Callable[[Any, Any], Origin] | None = None) -> Any:
        """A copy of the value with all references replaced; a value without any is given back as it is.

        Args:
            value: Any plain data.
            where: Gives the origin of a key of a dict, for messages.

        Raises:
            ConfigError: Unknown key, a circle of references, or a dict or list within a longer text.
        """
        kind = type(value)
        if kind is str:
            return self._text(value) if "${" in value else value
        if kind is list or kind is tuple:
            parts = [self.resolve(item, where) for item in value]
            return value if all(new is old for new, old in zip(parts, value, strict=True)) else kind(parts)
        if isinstance(value, dict):
            return self._mapping(value, where)
        return value

    def _mapping(self, value: dict[Any, Any], where: Callable[[Any, Any], Origin] | None) -> Any:
        changed = {}
        for key, item in value.items():
            kind = type(item)
            if kind in _PLAIN or (kind is str and "${" not in item):
                continue
            try:
                new = self.resolve(item, where)
            except (ConfigError, LimitError) as error:
                if where is None or isinstance(error, ConfigFileError):
                    raise
                raise ConfigFileError(*where(value, key), str(error)) from None
            if new is not item:
                changed[key] = new
        if not changed:
            return value
        twin = value.copy()
        twin.update(changed)
        return twin

    def _text(self, text: str) -> Any:
        self.budget.charge(len(text))
        whole = REFERENCE.fullmatch(text)
        if whole and len(whole[1]) == 1:
            return copied(self._lookup(whole[2]))
        return REFERENCE.sub(self._inline, text)

    def _inline(self, match: re.Match[str]) -> str:
        if len(match[1]) > 1:
            return match[0][1:]
        value = self._lookup(match[2])
        if isinstance(value, (dict, list, tuple, set)):
            raise ConfigError(
                f"{match[0]} is {a_kind(value)} and cannot stand within a longer string"
            )
        return str(value)

    def _lookup(self, dotted: str) -> Any:
        if dotted in self.chain:
            circle = " -> ".join([*self.chain[self.chain.index(dotted) :], dotted])
            raise ConfigError(f"${{...}} references go in a circle: {circle}")
        if len(self.chain) > MAX_CHAIN:
            raise ConfigError(f"more than {MAX_CHAIN} ${{...}} references lead to one another")
        self.chain.append(dotted)
        try:
            try:
                found = follow(self.root, dotted, "")
            except ConfigError as error:
                raise ConfigError(
                    f"${{{dotted}}}: {error} (write $${{{dotted}}} for the text itself)"
                ) from None
            value = self.resolve(found)
        finally:
            self.chain.pop()
        measure(value, self.budget)
        return value
