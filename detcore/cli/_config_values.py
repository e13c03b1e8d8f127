"""What ``detcore config show --origin`` and ``detcore config diff`` print."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from detcore.config import Config, parse_cfg_options
from detcore.config.diff import Change, differences
from detcore.config.display import one_line, to_json
from detcore.config.origins import Entry, entry_of, origin_text, shown_file
from detcore.errors import ConfigError

_SHORT = {"origin": 60, "diff": 100}
"""Characters of a value that are shown."""
_COLUMN = 100
"""Origins stand at most so far to the right; longer lines push theirs further."""


def show_origins(config: Config, keys: Sequence[str], *, as_json: bool, full: bool) -> None:
    """Print every value below the keys (of the whole config without any) with its origin."""
    leaves = [leaf for key in keys or [""] for leaf in entry_of(config, key).leaves()]
    if as_json:
        _print_json([_record(leaf) for leaf in leaves])
        return
    rows = [_assignment(leaf, None if full else _SHORT["origin"]) for leaf in leaves]
    width = min(max(map(len, rows), default=0), _COLUMN)
    lines = [
        f"{row:<{width}}  # {origin_text(leaf.origin)}\n" for row, leaf in zip(rows, leaves, strict=True)
    ]
    click.echo("".join(lines), nl=False)


def compare(
    *,
    old: str,
    new: str,
    cfg_options_a: Sequence[str],
    cfg_options_b: Sequence[str],
    key: str,
    origin: bool,
    as_json: bool,
    full: bool,
    trust_config: bool,
) -> int:
    """Print the differences of two configs.

    Returns:
        The exit status: 1 where there are any, else 0.
    """
    sides = [
        entry_of(_read(name, options, trust=trust_config), key)
        for name, options in ((old, cfg_options_a), (new, cfg_options_b))
    ]
    changes = list(differences(*sides))
    if as_json:
        _print_json([_change_record(change) for change in changes])
    elif changes:
        head = [click.style(f"--- {old}\n", bold=True), click.style(f"+++ {new}\n", bold=True)]
        lines = [_change_text(change, origin=origin, full=full) for change in changes]
        click.echo("".join([*head, *lines]), nl=False, color=False if os.environ.get("NO_COLOR") else None)
    return 1 if changes else 0


def _read(name: str, options: Sequence[str], *, trust: bool) -> Config:
    path = Path(name)
    found = name if "::" in name or not path.is_dir() else str(_saved_config(path))
    return Config.fromfile(found, trust=trust, cfg_options=parse_cfg_options(options))


def _saved_config(folder: Path) -> Path:
    """The config that a run has left in its work folder."""
    found = sorted(path for path in folder.glob("*.py") if path.is_file())
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{folder} is a folder without a saved config (*.py); name a config file")
    raise ConfigError(f"{folder} holds several configs, name one of them: {', '.join(map(str, found))}")


def _assignment(entry: Entry, limit: int | None) -> str:
    text = one_line(entry.value, limit)
    return f"{entry.path} = {text}" if entry.path else text


def _change_text(change: Change, *, origin: bool, full: bool) -> str:
    lines = []
    for sign, entry, colour in (("-", change.old, "red"), ("+", change.new, "green")):
        if entry is not None:
            note = f"  # {origin_text(entry.origin)}" if origin else ""
            text = f"{sign} {_assignment(entry, None if full else _SHORT['diff'])}{note}"
            lines.append(click.style(text, fg=colour) + "\n")
    return "".join(lines)


def _record(entry: Entry) -> dict[str, Any]:
    """A value as JSON; ``line`` is null where it is not known, ``file`` may be ``--cfg-options``."""
    file, line = entry.origin
    value = to_json(entry.value)
    return {"path": entry.path, "value": value, "file": shown_file(file), "line": line or None}


def _change_record(change: Change) -> dict[str, Any]:
    sides = {"a": change.old, "b": change.new}
    return {
        "change": change.kind,
        **{
            side: None if entry is None else {**_record(entry), "type": type_name(entry.value)}
            for side, entry in sides.items()
        },
    }


def type_name(value: Any) -> str:
    """The Python type of a value, which JSON may not show."""
    return "dict" if isinstance(value, dict) else type(value).__name__


def _print_json(rows: list[dict[str, Any]]) -> None:
    click.echo(json.dumps(rows, indent=2, allow_nan=False))
