"""Options that take several numbers after one flag."""
import re
from collections.abc import Iterator

import click

NUMBER = re.compile(r"[-+]?[\d.,][-+\d.,eE]*")


class SeveralNumbers(click.Option):
    """An option whose numbers follow one flag (``--p 1 2``), each its own, or commas (``--p 1,2``)."""


class CommandWithSeveral(click.Command):
    """A command that has such options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the flag before each of its numbers, as click wants it."""
        for option in self.params:
            if isinstance(option, SeveralNumbers):
                for flag in option.opts:
                    args = list(_repeated(args, flag))
        return super().parse_args(ctx, args)


def numbers(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> tuple[float, ...]:
    """The callback of such an option."""
    found = []
    for text in (part for each in texts for part in each.split(",") if part):
        try:
            found.append(float(text))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a number, as in 1 2 5 10", ctx, option) from None
    return tuple(found)


def _repeated(args: list[str], flag: str) -> Iterator[str]:
    open_ = given = False  # the flag came before, with numbers behind it
    for position, arg in enumerate(args):
        if open_ and NUMBER.fullmatch(arg):
            yield f"{flag}={arg}"
            given = True
            continue
        if open_ and not given:
            yield flag  # click says what is wrong behind it
        if arg == "--":
            yield from args[position:]
            return
        open_ = arg == flag or arg.startswith(f"{flag}=")
        given = open_ and arg != flag
        if not open_ or given:
            yield arg
    if open_ and not given:
        yield flag
