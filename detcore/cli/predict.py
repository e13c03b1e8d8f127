"""``detcore predict INPUT``: detect objects in images."""

from typing import Any

import click


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--config", metavar="CONFIG", help="Config, or name of a shipped one [the checkpoint's own].")
@click.option("--checkpoint", required=True, metavar="FILE", help="Weights.")
@click.option("--out-dir", default="outputs", show_default=True, help="Gets vis/<name> with what was found.")
@click.option("--score-thr", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Least score.")
@click.option("--device", help="cpu, cuda, cuda:1 [the first GPU, else the CPU].")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "json_file", metavar="FILE", help="Write a line of JSON an image; - is the terminal.")
@click.option("--polygons", is_flag=True, help="Write masks into the JSON as polygons, too.")
@click.option("--no-images", is_flag=True, help="Write no pictures.")
@click.option("--skip-bad", is_flag=True, help="Name images that cannot be read, and go on.")
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE", help="Change a setting of the config.")
@click.option("--trust-config", is_flag=True, help="Run the config, and modules that it names, as Python.")
def command(inputs: tuple[str, ...], **options: Any) -> None:
    """Detect objects in images: files, folders, or patterns such as 'shots/**/*.png'.

    Boxes in the JSON are x1, y1, x2, y2 in pixels of the image. Pictures of small images are enlarged.
    """
    import logging

    from detcore.cli._predict import predict

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    predict(list(inputs), **options)
