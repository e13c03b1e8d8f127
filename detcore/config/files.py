"""Which files a config may name as its bases, and reading them without surprises.

The rule: a base is named by a path relative to the file that names it, and lies within the *project* of the
file that the user named. The project is the widest of

- the folder of that file,
- the nearest folder above it that holds ``.git``, ``.hg`` or ``pyproject.toml``,
- the outermost folder above it that holds a folder ``_base_``,
- the current folder, where the file lies below it,

but never the file system's root, the user's home or a folder above that. Folders whose names start with a dot
are closed, links may not lead out, and only regular files of a bounded size are read.
``detcore::retinanet/x.py`` names a shipped config, ``package::x.py`` one of another installed package, or the
shipped one that stands in for it.
"""

import importlib.util
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import takewhile
from pathlib import Path

from detcore.config.document import closest
from detcore.errors import ConfigError

SUFFIXES = (".py", ".yaml", ".yml", ".json")
MAX_BYTES = 384 * 1024
"""The largest config of MMDetection has 29 kB."""
CORE = "detcore"
ENTRY_POINTS = "detcore.configs"
"""Group of entry points ``scope = "package.folder"`` that say where a package keeps its configs.

``scope = "detcore"`` lets detcore's own stand in for those of a package that is not installed, and
``scope = "other.folder"`` those of another package.
"""
SCOPES = "detcore.plugins"
_VERSIONED = (".git", ".hg", "pyproject.toml")


@dataclass(frozen=True)
class Located:
    """A config file that was found.

    Attributes:
        path: Absolute path.
        name: What it was found by.
        project: Folder that its own bases must lie in; None for no bounds.
        scope: The package whose names it uses, where it is another package's.
        stands_in: Whether it is detcore's own, in the place of that package's.
        real: The path without links, where it is known.
    """

    path: Path
    name: str
    project: Path | None
    scope: str | None = None
    stands_in: bool = False
    real: str | None = None


def shipped_configs() -> Path:
    """The folder of detcore's own configs: ``_configs`` in a wheel, ``configs`` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def read_text(path: Path, shown: str) -> str:
    """The text of a config file.

    Raises:
        ConfigError: It is not there, no regular file, too large, or not UTF-8.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot read {shown}: {reason}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ConfigError(f"cannot read {shown}: not a regular file")
    with os.fdopen(handle, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{shown} is larger than {MAX_BYTES // 1024} kB, too large for a config")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{shown} is not UTF-8 text (line {line}, byte {error.start})") from None


def check_suffix(path: Path, shown: str) -> None:
    """Refuse what is no config by its name.

    Raises:
        ConfigError: The suffix is none of ``SUFFIXES``.
    """
    if path.suffix not in SUFFIXES:
        there = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
        hint = next((f"; did you mean {found.name!r}?" for found in there if found.is_file()), "")
        raise ConfigError(f"{shown!r} is no config: the file's name must end in {', '.join(SUFFIXES)}{hint}")


def missing(path: Path, shown: str) -> ConfigError:
    """The error for a file that is not there, with the closest name in its folder."""
    folder = path.parent
    if not folder.is_dir():
        above = f"; did you mean {path.name!r}?" if (folder.parent / path.name).is_file() else ""
        return ConfigError(f"{shown} is not there: no folder {folder}{above}")
    names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIXES)]
    hint = closest(path.name, names) if names else ""
    return ConfigError(f"{shown} is not there (looked at {path}){hint}")


def project_of(path: Path) -> Path:
    """The folder that the bases of a config must lie in (see the module's docstring).

    Args:
        path: Absolute path of the file that the user named.
    """
    home, current = _folder(Path.home), _folder(Path.cwd)
    folder = path.parent.resolve()
    closed = {Path(folder.anchor), *((home, *home.parents) if home else ())}
    # As texts: these are many short look-ups, and paths take more time than the look-ups do.
    inside = [str(each) for each in takewhile(lambda each: each not in closed, (folder, *folder.parents))]
    exists, is_dir = os.path.exists, os.path.isdir
    widest = [str(folder)]
    widest += [each for each in inside if any(exists(f"{each}/{mark}") for mark in _VERSIONED)][:1]
    widest += [each for each in inside if each == str(current) or is_dir(f"{each}/_base_")]
    return Path(min(widest, key=len))


def _folder(which: Callable[[], Path]) -> Path | None:
    """A folder of the process, which may have none or may have lost it."""
    try:
        return which().resolve()
    except (OSError, RuntimeError):
        return None


def locate_named(name: str) -> Located:
    """Find the file that a user names: a path, or ``package::folder/file.py``.

    Raises:
        ConfigError: It is not there, or no config by its name.
    """
    if "::" in name:
        found = locate_shipped(name)
        return found if found.stands_in else replace(found, scope=None)
    path = Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100  (resolve would follow links)
    check_suffix(path, name)
    if not path.exists():
        raise missing(path, name)
    return Located(path, name, project_of(path))


def locate_base(name: str, path: Path, project: Path | None) -> Located:
    """Find the file that ``_base_ = name`` means.

    Args:
        name: What the config says.
        path: The file that says it, absolute.
        project: Folder that the base must lie in; None where the user trusts the config.

    Raises:
        ConfigError: It is not there, or lies where a config may not reach.
    """
    if "\0" in name:
        raise ConfigError("a path may not hold a null byte")
    if "::" in name:
        return locate_shipped(name)
    if "://" in name:
        raise ConfigError(f"{name!r} is an address; a base is a file beside the config")
    wanted = Path(name).expanduser() if name.startswith("~") else Path(name)
    if project is not None and wanted.is_absolute() and not name.startswith("~"):
        raise ConfigError(
            f"{name!r} is an absolute path; name a base relative to the file (--trust-config allows it)"
        )
    found = Path(os.path.normpath(path.parent / wanted))
    check_suffix(found, name)
    real = None if project is None else _check_within(found, path.parent, project, name)
    if not found.exists():
        raise missing(found, name)
    return Located(found, name, project, real=real)


def locate_module(name: str, path: Path, project: Path | None) -> Located:
    """Find the config that an import within ``with read_base()`` names, without importing anything.

    ``..a.b`` lies relative to the file. ``package.a.b`` lies in a folder ``package`` of its project, or below
    ``configs`` in an installed package; where neither has it, among the configs of ``package::``.

    Args:
        name: The module, with its leading dots.
        path: The file that imports it, absolute.
        project: Folder that it must lie in, where it is no package's; None where the user trusts the config.

    Raises:
        ConfigError: It is not there, or lies where a config may not reach.
    """
    level = len(name) - len(name.lstrip("."))
    package, *parts = name[level:].split(".")
    if level:
        up = "../" * (level - 1) or "./"
        return locate_base(f"{up}{'/'.join([package, *parts])}.py", path, project)
    if not parts:
        raise ConfigError(f"{package} is a package, not a config file")
    beside = (project or project_of(path)) / package
    own = beside.joinpath(*parts).with_suffix(".py")
    if own.is_file():
        _check_within(own, path.parent, beside.parent, name)
        return Located(own, str(own), project)
    if "configs" in parts[:-1]:
        last = parts.index("configs") + 1
        folder = _package_folder(package, "/".join(parts[:last]))
        if folder is not None and (found := folder.joinpath(*parts[last:]).with_suffix(".py")).is_file():
            _check_within(found, folder, folder.resolve(), name)
            return Located(found, str(found), folder.resolve())
        if last == 1:
            return _alike(package, parts[1:])
    raise ConfigError(f"no folder {package} in the project {beside.parent}, and no installed package, has it")


def _check_within(found: Path, folder: Path, project: Path, name: str) -> str:
    """The path of a base without links, which must lie in the project and not be hidden."""
    real = os.path.realpath(found)
    if not real.startswith(os.path.join(project, "")):  # noqa: PTH118  (with the separator at its end)
        raise ConfigError(f"{name!r} leads out of the config's project {project} (--trust-config allows it)")
    inside = Path(real).relative_to(project).parts
    for i, part in enumerate(inside):
        if not part.startswith(".") or part.startswith(".."):
            continue
        if not folder.resolve().is_relative_to(project.joinpath(*inside[: i + 1])):
            raise ConfigError(f"{name!r} leads into a hidden folder or file (--trust-config allows it)")
    return real


def locate_shipped(name: str) -> Located:
    """The file that ``package::folder/file.py`` means.

    Raises:
        ConfigError: No such package or file.
    """
    scope, _, rest = name.partition("::")
    root, stands_in = _config_folder(scope)
    path = Path(os.path.normpath(root / rest))
    check_suffix(path, name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{name!r} leads out of the configs of {scope}")
    if not path.exists():
        raise _not_shipped(scope, rest, root) if stands_in else missing(path, name)
    return Located(path, name, root.resolve(), None if scope == CORE else scope, stands_in)


def _not_shipped(scope: str, rest: str, root: Path) -> ConfigError:
    """The error for a config of a package that is not installed and whose place ours take."""
    ours = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    return ConfigError(
        f"{scope}::{rest} is not among the configs that stand in here for those of {scope}; "
        f"'pip install --no-deps {scope}' brings all of theirs{closest(rest, ours)}"
    )


def _alike(package: str, parts: list[str]) -> Located:
    """The config of ``package::`` whose name is that of a module, in which hyphens become underscores."""
    root, _ = _config_folder(package)
    folder = root.joinpath(*parts[:-1])
    files = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    known = {file.replace("-", "_"): file for file in files}
    file = known.get(f"{parts[-1].replace('-', '_')}.py", f"{parts[-1]}.py")
    return locate_shipped(f"{package}::{'/'.join([*parts[:-1], file])}")


def _config_folder(scope: str) -> tuple[Path, bool]:
    """Where a package keeps its configs, and whether these only stand in for it.

    Reads metadata and finds folders, imports nothing.
    """
    if scope == CORE:
        return shipped_configs(), False
    values = [entry.value for entry in metadata.entry_points(group=ENTRY_POINTS) if entry.name == scope]
    places = [value.replace(".", "/") for value in values if value != CORE]
    if scope.isidentifier():
        places.append(f"{scope}/.mim/configs")  # where OpenMMLab's wheels keep them
    for place in sorted(places, key=lambda each: not each.startswith(f"{scope}/")):  # the package's own first
        package, _, inner = place.partition("/")
        folder = _package_folder(package, inner)
        if folder is not None:
            return folder, package != scope
    if CORE in values:
        return shipped_configs(), True
    raise ConfigError(f"no installed package brings configs for {scope}::{_hint(scope)}")


def _hint(scope: str) -> str:
    if any(entry.name == scope for entry in metadata.entry_points(group=SCOPES)):
        return f" ('pip install --no-deps {scope}' brings those of {scope} itself)"
    return f" ({CORE}:: names the shipped ones)"


def _package_folder(package: str, inner: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / inner).is_dir():
            return Path(place) / inner
    return None
