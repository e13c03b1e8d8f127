"""``detcore config``: what a config says once its bases and overrides are in."""
import click

from detcore.config import Config, parse_cfg_options
from detcore.config.pretty import to_text


@click.group()
def command() -> None:
    """Show configs."""


@command.command("show")
@click.argument("file", type=click.Path())
@click.option(
    "--cfg-options",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override values, as in model.backbone.depth=101 train_pipeline.1.prob=0.3.",
)
@click.argument("more_options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--trust-config", is_flag=True, help="Run the config as Python instead of reading it as data.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["py", "yaml", "json"]),
    default="py",
    show_default=True,
    help="Output format.",
)
def show(
    file: str, options: tuple[str, ...], more_options: tuple[str, ...], trust_config: bool, kind: str
) -> None:
    """Print FILE (a path, or detcore::retinanet/... for a shipped config) with everything resolved.

    What is printed is a config of its own: saved to a file, it gives the same values. Several overrides
    may follow one --cfg-options.
    """
    overrides = parse_cfg_options((*options, *more_options))
    config = Config.fromfile(file, trust=trust_config, cfg_options=overrides)
    click.echo(to_text(config.to_dict(), f".{kind}"), nl=False)
