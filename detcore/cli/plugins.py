"""``detcore plugins``: what is installed, in which state, what is wrong; and a new one of your own."""
import json
import traceback
from pathlib import Path
from typing import Any

import click

from detcore.hookspecs import API_VERSION
from detcore.plugins import PluginRecord, host
from detcore.plugins.discovery import pip_line
from detcore.plugins.skeleton import KINDS, write_plugin
from detcore.registry.scopes import STANDARD_SCOPES


@click.group()
def command() -> None:
    """List plugins, examine broken ones, write new ones."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def list_plugins(as_json: bool) -> None:
    """Show every installed plugin: scope, distribution, state, and what it brings."""
    plugins = [describe(record) for record in host().load_all(quiet=True)]
    if as_json:
        click.echo(json.dumps({"api": API_VERSION, "plugins": plugins}, indent=2))
        return
    for plugin in plugins:
        click.echo(_line(plugin))
        if plugin["reason"]:
            click.echo(f"    {plugin['reason']}")
        for each in plugin["commands"]:
            click.echo(f"    command: detcore {each}")
        for each in plugin["overrides"]:
            click.echo(f"    override: {each['registry']} {each['name']}: {each['old']} -> {each['new']}")
    if not plugins:
        click.echo("no plugins are installed")


def describe(record: PluginRecord) -> dict[str, Any]:
    """A plugin's record as plain data."""
    table, commands = record.table, record.commands
    components: dict[str, list[str]] = {}
    for registry, name, _ in table or ():
        components.setdefault(registry, []).append(name)
    keys = ("registry", "name", "old", "new")
    overrides = [dict(zip(keys, each, strict=True)) for each in (table.overrides if table else ())]
    return {
        "scope": record.scope,
        "distributions": [{"name": claim.distribution, "version": claim.version} for claim in record.claims],
        "module": record.claims[0].module,
        "status": record.status,
        "reason": record.reason,
        "api": record.api,
        "milliseconds": round(record.milliseconds, 1),
        "components": components,
        "commands": sorted(commands.commands) if commands else [],
        "observers": sorted({hook for hook, _, _ in record.observers}),
        "overrides": overrides,
    }


def _line(plugin: dict[str, Any]) -> str:
    owners = " and ".join(f"{each['name']} {each['version']}" for each in plugin["distributions"])
    count = sum(map(len, plugin["components"].values()))
    brings = f"{count} components" if plugin["status"] == "loaded" else ""
    return f"{plugin['scope']:<12} {owners:<26} {plugin['status']:<8} {brings}".rstrip()


@command.command()
@click.argument("scopes", nargs=-1)
@click.option("--imports", is_flag=True, help="Import every component, too; this may take a while.")
@click.pass_context
def doctor(ctx: click.Context, scopes: tuple[str, ...], imports: bool) -> None:
    """Examine all plugins, or those of the given SCOPES; exit status 1 if something is wrong."""
    found = host()
    records = [record for record in found.load_all(quiet=True) if not scopes or record.scope in scopes]
    wrong = 0
    for record in records:
        problems = list(_problems(record, imports=imports))
        wrong += len(problems)
        state = "ok" if record.status == "loaded" and not problems else record.status
        click.echo(f"{record.scope} ({record.owner}): {state}")
        for problem in problems:
            click.echo(_indented(problem))
    installed = list(found.records())
    metadata = found.installed()
    remarks = found.permissions.unknown(installed) + metadata.unreadable + metadata.repeated
    remarks += [f"scope {scope!r} is not installed" for scope in scopes if scope not in installed]
    for remark in remarks:
        click.echo(remark)
    for scope in STANDARD_SCOPES[1:]:
        if scope not in installed and not scopes:
            click.echo(f"standard scope {scope!r} is not installed: {pip_line(scope)}")
    ctx.exit(1 if wrong or remarks else 0)


@command.command()
@click.argument("name")
@click.option("--kind", default="backbone", help=f"What it adds: {', '.join(KINDS)}.")
@click.option("--dir", "parent", default=".", type=click.Path(path_type=Path), help="Where its folder goes.")
def new(name: str, kind: str, parent: Path) -> None:
    """Write a plugin package NAME that installs, passes its own tests, and trains."""
    folder = write_plugin(name, kind, parent)
    click.echo(f"wrote {folder}:")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        click.echo(f"  {path.relative_to(folder)}")
    click.echo(f"next: pip install -e {folder} && python -m pytest {folder}/tests")


def _problems(record: PluginRecord, *, imports: bool) -> list[str]:
    if record.error is not None:
        trace = "".join(traceback.format_exception(record.error))
        return [f"{record.reason}\n{trace}"]
    problems = []
    if record.imports_torch:
        problems.append(f"{record.claims[0].module} imports torch; it should only name what needs it")
    for registry, name, reference in record.table if imports and record.table else ():
        try:
            reference.load()
        except Exception as error:
            problems.append(f"{registry} {name}: {error}")
    return problems


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())
