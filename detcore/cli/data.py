"""``detcore data``: make data sets."""

import click

from detcore.cli._several import CommandWithSeveral, SeveralNumbers, numbers

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


@command.command("split", cls=CommandWithSeveral)
@click.argument("annotations", type=click.Path(dir_okay=False))
@click.option(
    "--percent",
    "percentages",
    cls=SeveralNumbers,
    multiple=True,
    metavar="P...",
    default=("1", "2", "5", "10"),
    callback=numbers,
    help="Parts of the images that are labelled, of 100.  [1 2 5 10]",
)
@click.option("--folds", type=int, default=5, show_default=True, help="How many times to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other images.")
@click.option(
    "--out-dir",
    type=click.Path(file_okay=False),
    help="Folder of the files.  [semi_anns beside the folder of ANNOTATIONS]",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def split(
    annotations: str, percentages: tuple[float, ...], folds: int, seed: int, out_dir: str | None, force: bool
) -> None:
    """Split the COCO file ANNOTATIONS into a labelled and an unlabelled part, for semi-supervised training.

    Writes NAME.FOLD@PERCENT.json and NAME.FOLD@PERCENT-unlabeled.json for every fold and percentage. The same
    seed gives the same files; within a fold, a smaller percentage is contained in a larger one.
    """
    from detcore.cli._split import split as split_and_print

    split_and_print(annotations, percentages, folds, seed, out_dir, force)


@command.command("add-categories")
@click.argument("image_info", type=click.Path(dir_okay=False))
@click.option(
    "--from",
    "instances",
    required=True,
    type=click.Path(dir_okay=False),
    help="COCO file that has the categories.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="File to write.")
@click.option("--force", is_flag=True, help="Replace other categories, and the file where it is there.")
def add_categories(image_info: str, instances: str, out: str, force: bool) -> None:
    """Write the unlabelled images of IMAGE_INFO with the categories of another COCO file.

    COCO's image_info_unlabeled2017.json has none, so no data set can be made of it as it is.
    """
    from detcore.data.categories import add_categories as add

    done = add(image_info, instances, out, force=force)
    counts = f"{done.images} images, {done.annotations} annotations, {len(done.categories)} categories"
    click.echo(f"{counts} in {out}")
    if done.uncategorised:
        click.echo(f"warning: {done.uncategorised} annotations are of other categories", err=True)
