"""Which calls a pickle may ask for, and with which arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detcore.weights.reader import tensors
from detcore.weights.reader.problems import RefusedError
from detcore.weights.reader.values import Budget, Made, Named, describe, require, require_key

Call = Callable[[Budget, tuple[Any, ...]], Any]
_LATIN = ("latin1", "latin-1")


def _ordered_dict(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    require(len(arguments) <= 1, "an ordered dict is made from several things")
    pairs = arguments[0] if arguments else []
    require(type(pairs) is list, "an ordered dict is not made from a list of pairs")  # as Python 2 wrote them
    budget.work(len(pairs))
    for pair in pairs:
        require(type(pair) in (list, tuple) and len(pair) == 2, "an ordered dict is made from no pairs")
        require_key(pair[0])
    return Made("collections.OrderedDict", bool(pairs))


def _counter(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    require(
        all(type(counts) is dict for counts in arguments) and len(arguments) <= 1, "a counter has no counts"
    )
    budget.work(sum(map(len, arguments)))
    return Made("collections.Counter")


def _default_dict(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    fitting = len(arguments) <= 1 and all(part is None or isinstance(part, Named) for part in arguments)
    require(fitting, "a defaultdict has no class for what is missing")
    return Made("collections.defaultdict")


def _deque(budget: Budget, arguments: tuple[Any, ...]) -> list[Any]:
    items = arguments[0] if arguments else []
    require(len(arguments) <= 2 and type(items) in (list, tuple), "a deque is made from no list")
    budget.work(len(items))
    return list(items)


def _set(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    items = arguments[0] if arguments else []
    require(len(arguments) <= 1 and type(items) is list, "a set is made from no list")
    budget.work(len(items))
    for item in items:
        require_key(item)
    return Made("builtins.set")


def _encode(budget: Budget, arguments: tuple[Any, ...]) -> bytes:
    fitting = len(arguments) == 2 and type(arguments[0]) is str and arguments[1] in _LATIN
    if not fitting:  # another codec would be looked up, and imported
        raise RefusedError("it holds bytes that are not written as latin1")
    budget.copy(len(arguments[0]))
    encoded: bytes = arguments[0].encode("latin1")
    return encoded


def _byte_array(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    if len(arguments) == 1 and type(arguments[0]) is bytes:
        budget.copy(len(arguments[0]))
    elif arguments:
        _encode(budget, arguments)
    return Made("builtins.bytearray")


def _no_bytes(budget: Budget, arguments: tuple[Any, ...]) -> bytes:
    require(arguments == (), "bytes are made from something")
    return b""


def _numbers(name: str, counts: tuple[int, ...], kinds: tuple[type, ...]) -> Call:
    """A call with so many arguments of these types."""

    def check(budget: Budget, arguments: tuple[Any, ...]) -> Made:
        fitting = len(arguments) in counts and all(type(part) in kinds for part in arguments)
        require(fitting, f"{name} is called with {', '.join(map(describe, arguments)) or 'nothing'}")
        return Made(name)

    return check


def anything(name: str) -> Call:
    """A call whose arguments are kept and not looked at."""

    def check(budget: Budget, arguments: tuple[Any, ...]) -> Made:
        return Made(name)

    return check


CALLS: dict[str, Call] = {
    "_codecs.encode": _encode,
    "builtins.bytearray": _byte_array,
    "builtins.complex": _numbers("builtins.complex", (0, 1, 2), (int, float)),
    "builtins.set": _set,
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": tensors.size,
    "torch._utils._rebuild_parameter": tensors.rebuild_parameter,
    "torch._utils._rebuild_sparse_tensor": tensors.rebuild_sparse,
    "torch._utils._rebuild_tensor": tensors.rebuild,
    "torch._utils._rebuild_tensor_v2": tensors.rebuild_v2,
    "torch._utils._rebuild_tensor_v3": tensors.rebuild_v3,
    "torch.device": _numbers("torch.device", (1, 2), (str, int)),
    "torch.serialization._get_layout": tensors.layout,
}
"""What torch itself restores, of which only this much is needed."""

CORE_CALLS: dict[str, Call] = {
    "builtins.bytes": _no_bytes,
    "builtins.frozenset": _set,
    "collections.defaultdict": _default_dict,
    "collections.deque": _deque,
}
"""Stand-ins of ours whose arguments matter; those of all others are only kept."""

BUILT = ("collections.OrderedDict", "collections.Counter")
"""What torch itself restores that may be given a state."""
