"""``detcore check CONFIG``: everything that is wrong with a config, before anything is built."""
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from detcore.config import Config
    from detcore.registry.problems import Problem

STATUS = """Exit status: 0 where nothing stops a run (there may be warnings), 1 where errors do, 2 when the
file itself cannot be read."""


@click.command(epilog=STATUS)
@click.argument("config")
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE...", help="Change settings of the config.")
@click.option(
    "--for",
    "modes",
    multiple=True,
    type=click.Choice(["train", "val", "test"]),
    help="What the config is to be used for; may be repeated [all that it has a dataloader for].",
)
@click.option("--no-files", is_flag=True, help="Do not ask whether files and folders are there.")
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Processes that will train [1].")
@click.option("--trust-config", is_flag=True, help="Run the config, and modules that it names, as Python.")
@click.option(
    "--plugin", multiple=True, metavar="FILE", help="A Python file of yours that registers components."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
@click.argument("more", nargs=-1, metavar="")
@click.pass_context
def command(ctx: click.Context, /, config: str, as_json: bool, **options: Any) -> None:
    """Say what is wrong with CONFIG, all at once; `detcore run` asks the same first."""
    problems = _problems(config, options)
    errors = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        click.echo(_as_json(problems))
    else:
        for problem in problems:
            click.echo(str(problem) if problem.severity == "error" else f"warning: {problem}")
        warnings = len(problems) - len(errors)
        click.echo(f"{config}: {_count(len(errors), 'error')}, {_count(warnings, 'warning')}")
    ctx.exit(1 if errors else 0)


def _problems(config: str, options: dict[str, Any]) -> "list[Problem]":
    from detcore.config import Config, parse_cfg_options
    from detcore.engine.check import CheckOptions, check_config
    from detcore.plugins import load_user_modules

    overrides = parse_cfg_options((*options["cfg_options"], *options["more"]))
    if options["plugin"]:
        load_user_modules(files=options["plugin"], trusted=True)  # naming them here is the trust
    cfg = Config.fromfile(config, trust=options["trust_config"], cfg_options=overrides)
    not_imported = _import_modules(cfg, trust=options["trust_config"])
    checked = CheckOptions(
        files=not options["no_files"],
        imports_pending=bool(not_imported),
        processes=options["gpus"] or 1,
    )
    return [*not_imported, *check_config(cfg, _modes(options["modes"]), checked)]


def _import_modules(cfg: "Config", *, trust: bool) -> "list[Problem]":
    """Import what the config names where that is allowed; else say once that it was not."""
    from detcore.engine.check.places import origin, shown
    from detcore.engine.settings import import_named_modules
    from detcore.errors import ConfigError, PluginError
    from detcore.registry.problems import Problem

    try:
        import_named_modules(cfg, trust=trust)
    except (ConfigError, PluginError) as error:
        path = "plugins" if cfg.get("plugins") and not cfg.get("custom_imports") else "custom_imports"
        return [Problem(path, str(error), cause=error, where=shown(origin(cfg, path)))]
    return []


def _modes(named: Sequence[str]) -> Sequence[str] | None:
    return tuple(dict.fromkeys(named)) or None


def _as_json(problems: "Sequence[Problem]") -> str:
    import json

    keys = ("severity", "where", "path", "message", "suggestion")
    return json.dumps([{key: getattr(problem, key) for key in keys} for problem in problems], indent=1)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
