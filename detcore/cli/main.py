"""The command ``detcore``. Each subcommand's module is imported when that subcommand is used."""
import importlib
from collections.abc import Iterator
from typing import Any

import click

from detcore import __version__
from detcore.errors import DetcoreError

# Name -> module that defines a click command `command`, and its line of help, which must not need the module.
COMMANDS = {
    "check": ("detcore.cli.check", "Say what is wrong with a config."),
    "config": ("detcore.cli.config", "Show and compare configs, describe them to editors."),
    "data": ("detcore.cli.data", "Make and inspect data sets."),
    "download": ("detcore.cli.download", "Fetch published weights."),
    "plugins": ("detcore.cli.plugins", "List plugins, examine broken ones, write new ones."),
    "predict": ("detcore.cli.predict", "Detect objects in images."),
    "run": ("detcore.cli.run", "Train and validate what a config says."),
    "test": ("detcore.cli.test", "Evaluate a checkpoint."),
}


class CommandLine(click.Group):
    """A group whose commands come from the table above, and then from plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the core's commands, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name; plugins are asked only for names that the core does not have."""
        if name in COMMANDS:
            command = importlib.import_module(COMMANDS[name][0]).command
        else:
            command = _plugin_command(name)
        if command is not None:
            _add_traceback_option(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant, or say which are there."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(_no_such_command(name), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])
        formatter.write_paragraph()
        formatter.write_text("Plugins may add commands; `detcore plugins list` names them.")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that the user can act on becomes one line and exit status 2."""
        try:
            return super().invoke(ctx)
        except DetcoreError as error:
            if ctx.meta.get(_TRACEBACK):
                import traceback

                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
            else:
                click.echo("\n".join(_lines(error)), err=True)
            ctx.exit(2)


_TRACEBACK = "detcore.traceback"


def _remember_traceback(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_TRACEBACK] = True  # contexts of nested commands share their meta


def _traceback_option() -> click.Option:
    return click.Option(
        ["--traceback"],
        is_flag=True,
        expose_value=False,
        callback=_remember_traceback,
        help="Show where in the code an error arose.",
    )


def _add_traceback_option(command: click.Command) -> None:
    if not any("--traceback" in parameter.opts for parameter in command.params):
        command.params.append(_traceback_option())
    for inner in getattr(command, "commands", {}).values():
        _add_traceback_option(inner)


def _lines(error: DetcoreError) -> Iterator[str]:
    yield f"error: {error}"
    for note in getattr(error, "__notes__", ()):
        yield f"  {note}"


def _plugin_command(name: str) -> click.Command | None:
    from detcore.errors import PluginError
    from detcore.plugins import host

    offers = host().commands().get(name, [])
    if len(offers) > 1:
        owners = " and ".join(f"{reference.scope} ({reference.owner})" for reference, _ in offers)
        raise PluginError(f"{owners} both offer the command {name!r}; DETCORE_DISABLE_PLUGINS disables one")
    if not offers:
        return None
    command = offers[0][0].load()
    if not isinstance(command, click.Command):
        raise PluginError(f"{offers[0][0].target} of {offers[0][0].owner} is not a click command")
    return command


def _no_such_command(name: str) -> str:
    import difflib

    from detcore.plugins import host

    known = sorted({*COMMANDS, *host().commands()})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"there is no command {name!r}; {hint}"


@click.command(
    cls=CommandLine,
    params=[_traceback_option()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="detcore")
def main() -> None:
    """Object detection whose parts are plugins."""
