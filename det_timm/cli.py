"""``detcore timm``: which models there are, and what one gives."""

import json
from typing import Any

import click


@click.group("timm")
def command() -> None:
    """List and describe timm's models."""


@command.command("list")
@click.argument("pattern", default="*")
@click.option("--classes", is_flag=True, help="List names of classes, with the model that each means.")
@click.option("--pretrained", is_flag=True, help="Only models with published weights, a line for each set.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_models(pattern: str, classes: bool, pretrained: bool, as_json: bool) -> None:
    """List the models whose names match PATTERN, for example 'efficientnet*'."""
    import fnmatch

    from det_timm._timm import timm
    from det_timm.zoo import class_modules, first_variant

    if classes:
        matching = [
            name for name in sorted(class_modules()) if fnmatch.fnmatch(name.lower(), pattern.lower())
        ]
        meant = {name: model for name in matching if (model := first_variant(name))}
        names = list(meant)
        lines = [f"{name}  (timm.{name} alone is {model})" for name, model in meant.items()]
    else:
        names = list(timm.list_models(pattern, pretrained=pretrained))
        lines = names
    if not names:
        from detcore.errors import ConfigError

        wider = f"*{pattern.strip('*').lower()}*"
        hint = f"; {wider!r} matches some" if not classes and timm.list_models(wider) else ""
        raise ConfigError(f"timm {timm.__version__} has no model that matches {pattern!r}{hint}")
    click.echo(json.dumps(names) if as_json else "\n".join(lines))


@command.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def info(name: str, as_json: bool) -> None:
    """Describe the model or class NAME: parameters, feature maps, weights and their licences."""
    told = describe(name)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    width = max(map(len, told)) + 2
    for key, value in told.items():
        lines = _lines(value)
        for heading, line in zip([key, *[""] * len(lines)], lines, strict=False):
            click.echo(f"{heading:{width}}{line}")


def describe(name: str) -> dict[str, Any]:
    """What is known of a model, as plain data.

    Raises:
        ConfigError: timm has no such model or class.
    """
    from det_timm._timm import timm
    from det_timm.maps import plan_maps
    from det_timm.pyramid import resampled
    from det_timm.zoo import class_modules, class_of, current_name, default_variant, feature_maps, on_meta

    if name in class_modules():
        name = default_variant(name)
    name = current_name(name)
    whole = on_meta(name)
    plan = plan_maps(name)
    configured: Any = whole.pretrained_cfg
    tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
    given = resampled(plan.sources) if plan.resampled else plan.sources
    licences = {tag: timm.get_pretrained_cfg_value(tag, "license") or "not told" for tag in tags}
    return {
        "model": name,
        "class": class_of(name),
        "parameters": sum(each.numel() for each in whole.parameters()),
        "maps": [
            {
                "index": index,
                "channels": each.channels,
                "stride": each.stride,
                "used": index in (plan.indices or ()),
            }
            for index, each in enumerate(feature_maps(name))
        ],
        "pyramid": plan.resampled,
        "out_channels": [each.channels for each in given],
        "out_strides": [each.stride for each in given],
        "input_size": list(configured["input_size"]),
        "mean": [255 * value for value in configured["mean"]],
        "std": [255 * value for value in configured["std"]],
        "weights": [{"name": tag, "license": licence} for tag, licence in licences.items()],
    }


def _lines(value: Any) -> list[str]:
    """A value as the lines of a table: one for each dict of a list."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [", ".join(f"{key} {inner}" for key, inner in each.items()) for each in value]
    if isinstance(value, list):
        return [", ".join(f"{each:g}" for each in value) or "none"]
    return [str(value)]
