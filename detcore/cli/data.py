"""``detcore data``: make data sets."""

import click

NUMBER = click.IntRange(min=0)


@click.group()
def command() -> None:
    """Make and inspect data sets."""


@command.command("make-shapes")
@click.argument("out", type=click.Path(file_okay=False))
@click.option("--num-train", type=NUMBER, default=400, show_default=True, help="Pictures to train on.")
@click.option("--num-val", type=NUMBER, default=80, show_default=True, help="Pictures to validate on.")
@click.option("--seed", type=NUMBER, default=0, show_default=True, help="Another seed gives other pictures.")
@click.option(
    "--size", nargs=2, type=click.IntRange(min=32), default=(192, 144), help="(width, height) [192 144]"
)
def make_shapes(out: str, num_train: int, num_val: int, seed: int, size: tuple[int, int]) -> None:
    """Draw shapes on textured ground, with COCO annotations, into the folder OUT.

    Five classes that differ in outline only, partly hidden by one another. The same seed gives the same
    files.
    """
    from detcore.data.drawn import ShapesStyle
    from detcore.data.drawn import make_shapes as draw

    files = draw(out, num_train, num_val, seed, ShapesStyle(image_size=size))
    for part, count in (("train", num_train), ("val", num_val)):
        click.echo(f"{count} pictures in {out}/{part}, annotations in {files[part]}")
