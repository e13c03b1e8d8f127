"""What ``detcore data split`` prints."""
from collections.abc import Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detcore.data.split import Split, SplitFile, percent_text, split_annotations

_NAMES = 8  # how many classes one warning names
_WIDTH = 120  # characters of a line where the output is no terminal


def split(
    annotations: str, percentages: tuple[float, ...], folds: int, seed: int, out_dir: str | None, force: bool
) -> None:
    """Split, show the files, warn of classes that a labelled part lacks."""
    with Console(stderr=True).status("") as status:
        done = split_annotations(
            annotations, percentages, folds, seed, out_dir, force=force,
            progress=lambda step: status.update(Text(step)),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(_files(done))
    console.print(_categories(done))
    click.echo(f"{len(done.files)} files in {done.files[0].path.parent}")
    for warning in _warnings(done):
        click.echo(f"warning: {warning}", err=True)


def _files(done: Split) -> Table:
    """One row a file."""
    table = Table("file", box=box.SIMPLE_HEAD)
    table.columns[0].overflow = "fold"
    for name in ("images", "annotations"):
        table.add_column(name, justify="right", no_wrap=True)
    for file in done.files:
        table.add_row(Text(file.path.name), str(file.images), str(file.annotations))
    return table


def _categories(done: Split) -> Table:
    """One row a category: annotations in all, and in the labelled part of each percentage."""
    title = "annotations of each category in the labelled parts (least-most of the folds)"
    table = Table("category", box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.columns[0].overflow = "fold"
    table.add_column("in all", justify="right", no_wrap=True)
    labelled: dict[float, list[SplitFile]] = {}
    for file in done.files:
        if file.labelled:
            labelled.setdefault(file.percent, []).append(file)
    for percent in labelled:
        table.add_column(f"{percent_text(percent)}%", justify="right", no_wrap=True)
    for row, name in enumerate(done.categories):
        counts = [_range([file.of_category[row] for file in files]) for files in labelled.values()]
        table.add_row(Text(name), str(done.totals[row]), *counts)
    return table


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least}-{most}"


def _warnings(done: Split) -> list[str]:
    found = []
    if done.uncategorised:
        found.append(f"{done.uncategorised} annotations are of categories that the file does not list")
    if done.unused():
        found.append(f"the source has no annotation of {_named(done.unused())}")
    for file in done.files:
        absent = done.absent(file) if file.labelled else []
        if absent:
            found.append(f"{file.path.name} has no labelled instance of {_named(absent)}")
    return found


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
