"""Base classes of what is made in place of a class that a weight file names.

A pickle can make an instance with any arguments and give it any state. A stand-in keeps both and does
nothing with them; what they mean is worked out by :meth:`StandIn.plain` after the file has been read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from detcore.weights.reader.problems import RefusedError


class StandIn:
    """Keeps the arguments and the state of an object, and does nothing with them.

    Subclasses say in :meth:`plain` what the data mean. They define no constructor and nothing else that a
    pickle calls.

    Attributes:
        arguments: What the class was called with.
        state: What its state was set to; None if it was not.
    """

    __slots__ = ("arguments", "state")
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> StandIn:
        """Keep the arguments."""
        made = object.__new__(cls)
        made.arguments = arguments
        made.state = None
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state; without this, a pickle could set any attribute."""
        self.state = state

    def plain(self) -> Any:
        """The object as tensors and plain data, among which other stand-ins may be.

        Raises:
            RefusedError: It has no such form.
        """
        raise RefusedError(f"a {type(self).__name__} is neither a tensor nor plain data")

    def named_state(self) -> dict[str, Any]:
        """The state of an object that has attributes.

        Raises:
            RefusedError: It is no dict.
        """
        if not isinstance(self.state, dict):
            raise RefusedError(f"the state of a {type(self).__name__} is a {type(self.state).__name__}")
        return self.state


class MappingStandIn:
    """Stands in for a subclass of ``dict``: calling it gives a dict, which the pickle then fills.

    torch fills no dict but its own kinds, so this class has no instances.
    """

    def __new__(cls, *arguments: Any) -> Any:
        """The dict that was given, or a new one: pairs among the arguments are set once more afterwards."""
        if len(arguments) == 1 and type(arguments[0]) in (dict, OrderedDict):
            return arguments[0]
        return OrderedDict()
