"""What ``detcore config schema`` prints."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from detcore.engine.config_schema import schema_of_component, schema_of_configs, schema_of_registry
from detcore.errors import ConfigError
from detcore.plugins import load_user_modules


def write_schema(
    kind: str | None, registry: str | None, out: str | None, default_scope: str | None, plugins: Sequence[str]
) -> None:
    """Print the schema, or write it to a file; what is not in it is named on stderr."""
    load_user_modules(plugins, trusted=True)  # naming them here is the trust
    if kind is not None:
        made = schema_of_component(kind, default_scope)
    elif registry is not None:
        made = schema_of_registry(registry, default_scope)
    else:
        made = schema_of_configs(default_scope)
    for line in made.left_out:
        click.echo(f"left out: {line}", err=True)
    text = json.dumps(made.schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    click.echo(f"wrote {out}", err=True)
