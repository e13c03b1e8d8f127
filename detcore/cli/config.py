"""``detcore config``: what a config says, where it says so, how two differ, and what editors can check."""

from typing import Any

import click

from detcore.config import Config, parse_cfg_options
from detcore.config.pretty import to_text


@click.group()
def command() -> None:
    """Show and compare configs, and describe them to editors."""


TRUST = click.option(
    "--trust-config", is_flag=True, help="Run the config as Python instead of reading it as data."
)
FULL = click.option("--full", is_flag=True, help="Do not shorten long values.")


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
@TRUST
@click.option(
    "--format", "kind", type=click.Choice(["py", "yaml", "json"]), help="Output format.  [default: py]"
)
@click.option("--origin", is_flag=True, help="Print each value with the file and line that set it last.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Only the values below this key (model.backbone, train_pipeline.1), with their origins.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the values and their origins as JSON.")
@FULL
def show(
    file: str,
    options: tuple[str, ...],
    more_options: tuple[str, ...],
    trust_config: bool,
    kind: str | None,
    origin: bool,
    keys: tuple[str, ...],
    as_json: bool,
    full: bool,
) -> None:
    """Print FILE (a path, or detcore::retinanet/... for a shipped config) with everything resolved.

    What is printed is a config of its own: saved to a file, it gives the same values. With --origin, --key or
    --json it is a list of values instead, each with the file and line that set it last. Several overrides may
    follow one --cfg-options.
    """
    listed = origin or as_json or bool(keys)
    if listed and kind is not None:
        raise click.UsageError("--format is for the config itself; a list of origins is text, or --json")
    if full and not listed:
        raise click.UsageError("--full goes with --origin: without it, nothing is shortened")
    overrides = parse_cfg_options((*options, *more_options))
    config = Config.fromfile(file, trust=trust_config, cfg_options=overrides)
    if listed:
        from detcore.cli._config_values import show_origins

        show_origins(config, keys, as_json=as_json, full=full)
    else:
        click.echo(to_text(config.to_dict(), f".{kind or 'py'}"), nl=False)


@command.command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option("--cfg-options-a", multiple=True, metavar="KEY=VALUE", help="Override a value of A.")
@click.option("--cfg-options-b", multiple=True, metavar="KEY=VALUE", help="Override a value of B.")
@click.option("--key", default="", metavar="KEY", help="Compare only what is below this key, in both.")
@click.option("--origin", is_flag=True, help="Add the file and line that set each value last.")
@click.option("--json", "as_json", is_flag=True, help="Print the changes as JSON.")
@FULL
@TRUST
@click.pass_context
def diff(ctx: click.Context, /, **options: Any) -> None:
    """Print what differs between the final values of A and B, path by path.

    A and B are config files, names such as detcore::retinanet/..., or work folders, which stand for the
    config that their run has saved. Types count: 1, 1.0 and True differ, and so do a list and a tuple. In a
    list of components one that was inserted or left out is one change; the others are not.

    Exit status: 0 when they are equal, 1 when they differ, 2 when one cannot be read.
    """
    from detcore.cli._config_values import compare

    ctx.exit(compare(**options))


@command.command("schema")
@click.option("--type", "kind", metavar="NAME", help="Only the config of this component (models.FPN).")
@click.option("--registry", metavar="NAME", help="Only the configs of this registry's components (MODELS).")
@click.option("--out", type=click.Path(dir_okay=False), metavar="FILE", help="Write it to FILE.")
@click.option(
    "--default-scope", metavar="SCOPE", help="Where plain names are looked up first, as in the config."
)
@click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE", help="A Python file or module to run first."
)
def schema(
    kind: str | None,
    registry: str | None,
    out: str | None,
    default_scope: str | None,
    plugins: tuple[str, ...],
) -> None:
    """Print a JSON Schema of the configs that what is installed can run.

    Editors complete and check YAML and JSON configs by it. In the first line of a YAML config:
    # yaml-language-server: $schema=schema.json; in a JSON config: "$schema": "schema.json". Components that
    cannot be imported are left out, and named on stderr.
    """
    if kind is not None and registry is not None:
        raise click.UsageError("give --type or --registry, not both")
    from detcore.cli._config_schema import write_schema

    write_schema(kind, registry, out, default_scope, plugins)
