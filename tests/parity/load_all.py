"""Loads every config of a folder with one of the two toolboxes, and writes down what comes out.

    python tests/parity/load_all.py detcore|mmengine CONFIGS RESULT [--no-custom-imports]

RESULT is a pickle: ``configs`` maps names to plain dicts or to errors (``ConfigError: ...``), ``executed``
lists files under CONFIGS and made-up files whose code was run, ``cpu_s`` is the process's time for all of it.
"""

import pickle
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

executed: list[str] = []


def watch(folder: Path) -> None:
    """Note every code object that is run, other than those of modules that this process imports itself."""
    libraries = tuple({str(Path(path).resolve()) for path in sys.path if path} | {"<frozen", "<attrs"})

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "exec":
            file = getattr(arguments[0], "co_filename", "<text>")
            if file.startswith(str(folder)) or not file.startswith(libraries):
                executed.append(file)

    sys.addaudithook(seen)


def loader(toolbox: str, custom_imports: bool) -> Callable[[Path], dict[str, Any]]:
    """A function that gives a config as plain data."""
    if toolbox == "detcore":
        from detcore.config import Config as Ours

        Ours.fromstring("warm = 'up'")  # what it imports when it is first used, runs code of dataclasses
        return lambda path: Ours.fromfile(path).to_dict()
    from mmengine.config import Config as Theirs

    return lambda path: Theirs.fromfile(str(path), import_custom_modules=custom_imports).to_dict()


def main() -> None:
    """Load them all, in the order of their names."""
    toolbox, folder, result, *options = sys.argv[1:]
    configs = Path(folder).resolve()
    warnings.simplefilter("ignore")
    load = loader(toolbox, "--no-custom-imports" not in options)
    watch(configs)
    loaded: dict[str, dict[str, Any] | str] = {}
    for path in sorted(configs.rglob("*.py")):
        try:
            found: dict[str, Any] | str = load(path)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        loaded[path.relative_to(configs).as_posix()] = found
    content = {"executed": executed, "cpu_s": time.process_time()}
    for name, found in loaded.items():
        try:
            pickle.dumps(found)
        except (pickle.PicklingError, AttributeError):
            loaded[name] = "it holds functions, which are no data"
    Path(result).write_bytes(pickle.dumps({"configs": loaded, **content}))


if __name__ == "__main__":
    main()
