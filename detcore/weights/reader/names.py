"""Which classes and functions a file may name, and what plugins know of them."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any

from detcore.plugins import host
from detcore.plugins.discovery import KNOWN_PACKAGES
from detcore.weights.reader.calls import CALLS
from detcore.weights.reader.core_stand_ins import CORE_STAND_INS
from detcore.weights.reader.problems import RefusedError
from detcore.weights.reader.tensors import DTYPES, STORAGES


class Names:
    """The names in one file.

    Attributes:
        used: Those for which torch needs a stand-in -> the stand-in.
    """

    def __init__(self) -> None:
        self.used: dict[str, Any] = {}

    def require(self, module: str, name: str) -> str:
        """The full name.

        Raises:
            RefusedError: Neither torch, nor detcore, nor a plugin knows how to restore it as data.
        """
        # Protocol 2 has the names of Python 2; torch translates them so, too.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full in CALLS or full in DTYPES or full in STORAGES:
            return full
        if full not in self.used:
            stand_in = CORE_STAND_INS.get(full) or _from_plugins(full)
            if stand_in is None:
                raise RefusedError(
                    f"it holds {full}, which is neither a tensor nor plain data, and which only running code"
                    f" from the file could restore{_who_may_know(full)}"
                )
            self.used[full] = stand_in
        return full


def _from_plugins(name: str) -> Any:
    for table in host().checkpoints():
        reference = table.stand_ins.get(name)
        if reference is not None:
            return reference.load()
    return None


def _who_may_know(name: str) -> str:
    package = name.partition(".")[0]
    scope = KNOWN_PACKAGES.get(package)
    if scope is None or scope in host().requirements():
        return ""
    return f"; the plugin for files of {package} is {host().describe(scope)}"
