"""What a plugin's module may have to say beyond its own scope, read from its source without importing it.

A hook is a name in the plugin's module, so it stands in the module's source, unless the module makes names
while it runs. Where that is so, or where there is no source, nothing is known, and only importing tells.
"""
import importlib.util
import re
from importlib.machinery import PathFinder
from pathlib import Path

from detcore.hookspecs import OBSERVER_HOOKS

# All hooks but the one for components, which is asked for by the name of a scope.
HOOKS = (*OBSERVER_HOOKS, "detcore_commands", "detcore_checkpoints")
# Methods of a table of components by which a plugin tells of names that are not its own.
TOLD = ("absent", "words")

_NAMED = re.compile(
    rf"\b(?:{'|'.join(HOOKS)})\b|(?<=\.)(?:{'|'.join(TOLD)})(?=\s*\()".encode()
)
_MAKES_NAMES = re.compile(
    rb"import\s*\*|sys\.modules|\b(?:globals|locals|vars|setattr|exec|eval|__dict__|__getattr__|__import__|"
    rb"import_module|specname)\b"
)


def named_in(source: Path) -> frozenset[str] | None:
    """Those of `HOOKS` and `TOLD` that stand in a module's source; None where that does not tell.

    Raises:
        OSError: The file cannot be read.
    """
    text = source.read_bytes()
    if _MAKES_NAMES.search(text):
        return None
    return frozenset(name.decode() for name in _NAMED.findall(text))


def source_of(module: str) -> Path | None:
    """The file of a module, found without importing the packages that it lies in; None where that fails."""
    first, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
        name = first
        for part in inner:
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = f"{name}.{part}"
            spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    except Exception:  # a finder of somebody's own: importing will tell
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None
