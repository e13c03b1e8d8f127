"""``detcore migrate``: shows, or makes, the changes of import lines that users' modules need."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from detcore.errors import DataError

_LEFT_OUT = {"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"}


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--write", is_flag=True, help="Change the files, instead of showing what would change.")
@click.pass_context
def command(ctx: click.Context, paths: tuple[Path, ...], write: bool) -> None:
    """Change the import lines of MMDetection's users' modules: Python files, or folders of them.

    Nothing but import statements is changed. Names that have no new place are listed; while there are some,
    or files that are no Python, the exit status is 1.
    """
    from det_mmdet.migrate import migrate_file, write_file

    changed = left = 0
    for path in _python_files(paths):
        try:
            old, done = migrate_file(path)
            if write and done.text != old:
                write_file(path, done.text)
        except DataError as error:
            click.echo(str(error), err=True)
            left += 1
            continue
        for remark in done.remarks:
            click.echo(f"{path}:{remark.line}: {remark.text}", err=True)
        left += len(done.remarks)
        if done.text == old:
            continue
        changed += 1
        click.echo(f"changed {path}\n" if write else _diff(path, old, done.text), nl=False)
    verb = "changed" if write else "to be changed (--write does it)"
    click.echo(f"{changed} files {verb}, {left} things left to do by hand", err=True)
    ctx.exit(1 if left else 0)


def _python_files(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The files themselves, and those below the folders, without hidden folders and installed packages."""
    for path in paths:
        if path.is_file():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(
                name
                for name in folders
                if name not in _LEFT_OUT
                and not name.startswith(".")
                and not (Path(folder) / name / "pyvenv.cfg").exists()
            )
            yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def _diff(path: Path, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(path), f"{path} (migrated)", n=1, lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)
