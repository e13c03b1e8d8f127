"""A pickle machine that makes nothing: it follows a pickle and refuses what is not data.

It runs before torch's own restricted machine, knows the same instructions, and checks what torch does not:
sizes against the file, arguments of every call, keys of dicts, the total of the work. Nothing that the
pickle names is imported or called here.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from detcore.weights.reader.calls import BUILT, CALLS, CORE_CALLS, Call, anything
from detcore.weights.reader.core_stand_ins import NameOnly
from detcore.weights.reader.names import Names
from detcore.weights.reader.problems import DamagedError, RefusedError
from detcore.weights.reader.values import ARRAYS, Budget, Made, Named, Storage, describe, require, require_key

_MAX_LINE = 500
_INSTRUCTIONS = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_HELD: dict[int, Callable[[], Any]] = {  # opcode -> what it puts onto the stack
    pickle.NONE[0]: lambda: None,
    pickle.NEWTRUE[0]: lambda: True,
    pickle.NEWFALSE[0]: lambda: False,
    pickle.EMPTY_TUPLE[0]: tuple,
    pickle.EMPTY_LIST[0]: list,
    pickle.EMPTY_DICT[0]: dict,
}
_NUMBERS = {  # opcode -> how the number behind it is packed
    pickle.BININT[0]: struct.Struct("<i"),
    pickle.BININT1[0]: struct.Struct("<B"),
    pickle.BININT2[0]: struct.Struct("<H"),
    pickle.BINFLOAT[0]: struct.Struct(">d"),
}
_MEMO = {
    pickle.BINGET[0]: struct.Struct("<B"),
    pickle.LONG_BINGET[0]: struct.Struct("<I"),
    pickle.BINPUT[0]: struct.Struct("<B"),
    pickle.LONG_BINPUT[0]: struct.Struct("<I"),
}
_TUPLES = {pickle.TUPLE1[0]: 1, pickle.TUPLE2[0]: 2, pickle.TUPLE3[0]: 3}


class Machine:
    """Follows one pickle.

    Args:
        file: Stands at its beginning; afterwards, behind its end.
        size: Where the file ends, in bytes from its start.
        names: What may be named.
        budget: What it may cost.
        storage: Gives the storage that a persistent id means; None where no ids may be.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        names: Names,
        budget: Budget,
        storage: Callable[[Any], Storage] | None = None,
    ) -> None:
        self._file = file
        self._left = size - file.tell()
        self._names = names
        self._budget = budget
        self._storage = storage
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._risky = {
            pickle.GLOBAL[0]: self._name,
            pickle.REDUCE[0]: self._call,
            pickle.NEWOBJ[0]: self._call,
            pickle.BUILD[0]: self._build,
            pickle.BINPERSID[0]: self._persistent,
            pickle.APPEND[0]: lambda: self._append([self._stack.pop()]),
            pickle.APPENDS[0]: lambda: self._append(self._since_mark()),
            pickle.SETITEM[0]: lambda: self._set([self._stack.pop(-2), self._stack.pop()]),
            pickle.SETITEMS[0]: lambda: self._set(self._since_mark()),
            pickle.PROTO[0]: self._protocol,
            pickle.BINUNICODE[0]: lambda: self._text(struct.unpack("<I", self._read(4))[0]),
            pickle.SHORT_BINSTRING[0]: lambda: self._text(self._read(1)[0]),
            pickle.LONG1[0]: self._long,
            pickle.MARK[0]: self._mark,
            pickle.TUPLE[0]: self._tuple,
        }

    def follow(self) -> Any:
        """What the pickle holds, as far as it matters.

        Raises:
            DamagedError: It is no whole pickle.
            RefusedError: It asks for more than data.
        """
        try:
            while self._step(self._read(1)[0]):
                pass
            return self._stack.pop()
        except (IndexError, KeyError, UnicodeError) as error:
            raise DamagedError(f"its pickle is broken ({type(error).__name__})") from error

    def _step(self, code: int) -> bool:
        self._budget.work(1)
        if code in _MEMO:
            index = _MEMO[code].unpack(self._read(_MEMO[code].size))[0]
            if code in (pickle.BINGET[0], pickle.LONG_BINGET[0]):
                self._stack.append(self._memo[index])
            else:
                self._memo[index] = self._stack[-1]
        elif code in _HELD:
            self._stack.append(_HELD[code]())
        elif code in _NUMBERS:
            self._stack.append(_NUMBERS[code].unpack(self._read(_NUMBERS[code].size))[0])
        elif code in _TUPLES:
            count = _TUPLES[code]
            require(len(self._stack) >= count, "its pickle is broken (a tuple of nothing)")
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif code in self._risky:
            self._risky[code]()
        elif code != pickle.STOP[0]:
            known = _INSTRUCTIONS.get(code)
            require(known is not None, f"its pickle is broken ({code:#04x} is no instruction)")
            raise RefusedError(f"it uses the pickle instruction {known}, which files of torch do not")
        return code != pickle.STOP[0]

    def _read(self, count: int) -> bytes:
        self._left -= count
        require(self._left >= 0, "its pickle is cut off")
        data = self._file.read(count)
        require(len(data) == count, "its pickle is cut off")
        return data

    def _line(self) -> str:
        line = self._file.readline(min(_MAX_LINE, max(self._left, 0)))
        self._left -= len(line)
        require(line.endswith(b"\n"), "its pickle is broken (a name without an end)")
        return line[:-1].decode()

    def _protocol(self) -> None:
        protocol = self._read(1)[0]
        if protocol != 2:
            raise RefusedError(
                f"it is written in protocol {protocol} of pickle, of which torch reads only 2 safely:"
                " let torch.save write it with its own default"
            )

    def _text(self, length: int) -> None:
        self._stack.append(self._read(length).decode("utf-8", "surrogatepass"))

    def _long(self) -> None:
        self._stack.append(int.from_bytes(self._read(self._read(1)[0]), "little", signed=True))

    def _mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _tuple(self) -> None:
        items = tuple(self._since_mark())
        self._stack.append(items)

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _name(self) -> None:
        module, name = self._line(), self._line()
        self._stack.append(Named(self._names.require(module, name)))

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named):
            raise RefusedError(f"it calls {describe(function)}")
        require(type(arguments) is tuple, f"{function.name} is called with {describe(arguments)}")
        self._stack.append(self._call_of(function.name)(self._budget, arguments))

    def _call_of(self, name: str) -> Call:
        if name in CALLS:
            return CALLS[name]
        if name in CORE_CALLS:
            return CORE_CALLS[name]
        if self._names.used.get(name, NameOnly) is not NameOnly:
            return anything(name)
        raise RefusedError(f"it calls {name}")

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if not isinstance(made, Made) or not (made.name in BUILT or made.name in self._names.used):
            raise RefusedError(f"it sets the state of {describe(made)}")
        if made.name in ARRAYS and type(state) is tuple and len(state) == 5:  # its values come last
            if isinstance(state[4], list):
                raise RefusedError("it holds a numpy array of objects")
            self._budget.copy(len(state[4]) if isinstance(state[4], bytes) else 0)

    def _persistent(self) -> None:
        identity = self._stack.pop()
        if self._storage is None:
            raise RefusedError("it refers to a storage where none can be")
        self._stack.append(self._storage(identity))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        require(type(target) is list, f"something is appended to {describe(target)}")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        require(isinstance(target, dict | Made), f"items are set in {describe(target)}")
        require(len(items) % 2 == 0, "a dict has a key without a value")
        for key in items[::2]:
            require_key(key)
        if isinstance(target, Made):
            target.filled = True
        else:
            target.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True))
