"""Which files a config may name as its bases, and reading them without surprises.

The rule: a base is named by a path relative to the file that names it, and lies within the *project* of the
file that the user named. The project is the widest of

- the folder of that file,
- the nearest folder above it that holds ``.git``, ``.hg`` or ``pyproject.toml``,
- the outermost folder above it that holds a folder ``_base_``,
- the current folder, where the file lies below it,

but never the file system's root, the user's home or a folder above that. Folders whose names start with a dot
are closed, links may not lead out, and only regular files of a bounded size are read.
``detcore::retinanet/x.py`` names a shipped config, ``package::x.py`` one of another installed package.
"""

import importlib.util
import os
import stat
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from detcore.config.document import closest
from detcore.errors import ConfigError

SUFFIXES = (".py", ".yaml", ".yml", ".json")
MAX_BYTES = 384 * 1024
"""The largest config of MMDetection has 29 kB."""
ENTRY_POINTS = "detcore.configs"
"""Group of entry points ``scope = "package.folder"`` that say where a package keeps its configs."""


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
        return ConfigError(f"{shown} is not there: no folder {folder}")
    names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIXES)]
    hint = closest(path.name, names) if names else ""
    return ConfigError(f"{shown} is not there (looked at {path}){hint}")


def project_of(path: Path) -> Path:
    """The folder that the bases of a config must lie in (see the module's docstring).

    Args:
        path: Absolute path of the file that the user named.
    """
    home, current = _folder(Path.home), _folder(Path.cwd)
    best = folder = path.parent.resolve()
    for mark_vcs in (True, False):
        for above in (folder, *folder.parents):
            if above == above.parent or (home and (above == home or above in home.parents)):
                break
            if mark_vcs and any((above / mark).exists() for mark in (".git", ".hg", "pyproject.toml")):
                best = min(best, above, key=lambda p: len(p.parts))
                break
            if not mark_vcs and ((above / "_base_").is_dir() or above == current):
                best = min(best, above, key=lambda p: len(p.parts))
    return best


def _folder(which: Callable[[], Path]) -> Path | None:
    """A folder of the process, which may have none or may have lost it."""
    try:
        return which().resolve()
    except (OSError, RuntimeError):
        return None


def locate_base(name: str, path: Path, project: Path | None) -> tuple[Path, Path | None, str | None]:
    """Find the file that ``_base_ = name`` means.

    Args:
        name: What the config says.
        path: The file that says it, absolute.
        project: Folder that the base must lie in; None where the user trusts the config.

    Returns:
        The file, the project that its own bases must lie in, and the scope where it is another package's.

    Raises:
        ConfigError: It is not there, or lies where a config may not reach.
    """
    if "\0" in name:
        raise ConfigError("a path may not hold a null byte")
    if "::" in name:
        return (*locate_shipped(name), None if name.startswith("detcore::") else name.partition("::")[0])
    if "://" in name:
        raise ConfigError(f"{name!r} is an address; a base is a file beside the config")
    wanted = Path(name).expanduser() if name.startswith("~") else Path(name)
    if project is not None and wanted.is_absolute() and not name.startswith("~"):
        raise ConfigError(
            f"{name!r} is an absolute path; name a base relative to the file (--trust-config allows it)"
        )
    found = Path(os.path.normpath(path.parent / wanted))
    check_suffix(found, name)
    if project is not None:
        _check_within(found, path.parent, project, name)
    if not found.exists():
        raise missing(found, name)
    return found, project, None


def _check_within(found: Path, folder: Path, project: Path, name: str) -> None:
    real, folder = found.resolve(), folder.resolve()
    if not real.is_relative_to(project):
        raise ConfigError(f"{name!r} leads out of the config's project {project} (--trust-config allows it)")
    inside = real.relative_to(project).parts
    for i, part in enumerate(inside):
        hidden = part.startswith(".") and not part.startswith("..")
        if hidden and not folder.is_relative_to(project.joinpath(*inside[: i + 1])):
            raise ConfigError(f"{name!r} leads into a hidden folder or file (--trust-config allows it)")


def locate_shipped(name: str) -> tuple[Path, Path]:
    """The file that ``package::folder/file.py`` means, and the folder of that package's configs.

    Raises:
        ConfigError: No such package or file.
    """
    scope, _, rest = name.partition("::")
    root = _config_folder(scope)
    path = Path(os.path.normpath(root / rest))
    check_suffix(path, name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{name!r} leads out of the configs of {scope}")
    if not path.exists():
        raise missing(path, name)
    return path, root.resolve()


def _config_folder(scope: str) -> Path:
    """Where a package keeps its configs; reads metadata and finds folders, imports nothing."""
    if scope == "detcore":
        return shipped_configs()
    if scope.isidentifier():
        for entry in metadata.entry_points(group=ENTRY_POINTS, name=scope):
            package, _, inner = entry.value.partition(".")
            folder = _package_folder(package, inner.replace(".", "/"))
            if folder is not None:
                return folder
        folder = _package_folder(scope, ".mim/configs")  # where OpenMMLab's wheels keep them
        if folder is not None:
            return folder
    raise ConfigError(f"no installed package brings configs for {scope}:: (detcore:: names the shipped ones)")


def _package_folder(package: str, inner: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / inner).is_dir():
            return Path(place) / inner
    return None
