"""The package that ``detcore plugins new`` writes: files below this folder, with names filled in."""

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from detcore import __version__
from detcore.errors import PluginError
from detcore.hookspecs import API_VERSION
from detcore.plugins.discovery import KNOWN_DISTRIBUTIONS

# Kind -> the registry that its components belong to.
KINDS = {
    "backbone": "models",
    "neck": "models",
    "head": "models",
    "dataset": "datasets",
    "transform": "transforms",
    "metric": "metrics",
    "hook": "hooks",
}


def write_plugin(name: str, kind: str, parent: Path) -> Path:
    """Write a package that installs, passes its own tests, and trains.

    Args:
        name: Of the distribution: ``'my-plugin'``; its package and scope are ``my_plugin`` then.
        kind: One of :data:`KINDS`.
        parent: Folder in which the package's folder is made.

    Returns:
        The package's folder.

    Raises:
        PluginError: The name is no name, or taken; or the folder is there.
    """
    package = _package(name)
    if kind not in KINDS:
        raise PluginError(f"there is no kind {kind!r} of component; there are {', '.join(KINDS)}")
    folder = parent / package
    if folder.exists():
        raise PluginError(f"{folder} is there already; nothing was written")
    title = "".join(part.capitalize() for part in package.split("_"))
    component = title if title.lower().endswith(kind) else f"{title}{kind.capitalize()}"
    values = {
        "distribution": name,
        "package": package,
        "kind": kind,
        "component": component,
        "registry": KINDS[kind],
        "version": __version__,
        "api": str(API_VERSION),
    }
    for target, source in _files(kind).items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(source).substitute(values), encoding="utf-8")
    (folder / "py.typed").touch()
    return folder


def _package(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*", name):
        raise PluginError(
            f"{name!r} is no name of a distribution: letters, digits, dashes: 'my-plugin'"
        )
    package = name.lower().replace("-", "_")
    if keyword.iskeyword(package) or package in ("detcore", "test", "tests"):
        raise PluginError(f"a package cannot be called {package!r}")
    if package in KNOWN_DISTRIBUTIONS:
        raise PluginError(f"scope {package!r} is {KNOWN_DISTRIBUTIONS[package]}'s; choose another name")
    return package


def _files(kind: str) -> dict[str, str]:
    """Where each file goes, and what is in it before names are filled in."""
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "__init__.py": "__init__.py",
        "plugin.py": "plugin.py",
        f"{kind}.py": f"{kind}.py",
        f"tests/test_{kind}.py": f"{kind}_test.py",
        "configs/shapes.py": f"{kind}_config.py",
    }
    templates = files(__package__)
    return {
        target: templates.joinpath(f"{source}.tmpl").read_text(encoding="utf-8")
        for target, source in sources.items()
    }
