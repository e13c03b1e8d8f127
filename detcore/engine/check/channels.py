"""Can the backbone be built, and do backbone, neck and head agree about channels?

What a backbone gives is known for certain by its own constructor only: it follows from depth, stages, widths
and what a user's class makes of them. So the backbone is built on torch's `meta` device, which has shapes but
no memory: a ResNet-50 takes 0.1 s. A function of the class beside the constructor would be a second truth.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from detcore.engine.check.reading import entries, number, table
from detcore.engine.settings import RunConfig
from detcore.errors import ConfigError
from detcore.registry import MODELS
from detcore.registry.lookup import known
from detcore.registry.problems import InvalidConfigError, Problem
from detcore.registry.scopes import Absence

_log = logging.getLogger(__name__)

HEADS = ("bbox_head", "rpn_head", "mask_head")


def check_channels(cfg: RunConfig, scope: str | None) -> Iterator[Problem]:
    """What the backbone refuses, and channels that one part gives and the next does not expect."""
    model = table(cfg.get("model"))
    scope = model.get("_scope_", scope)
    backbone = table(model.get("backbone"))
    necks = entries(model.get("neck"))
    try:
        maps = out_channels(backbone, scope)
    except ConfigError as error:
        maps = None
        yield Problem("model.backbone", str(error))
    if necks and maps is not None and "in_channels" in table(necks[0]):
        path = "model.neck" if isinstance(model.get("neck"), Mapping) else "model.neck.0"
        yield from _neck_problems(backbone, maps, table(necks[0]), path, scope)
    given = number(table(necks[-1]).get("out_channels")) if necks else None
    for name in HEADS if given is not None else ():
        wanted = number(table(model.get(name)).get("in_channels"))
        if wanted is not None and wanted != given:
            text = f"{wanted} channels, but model.neck gives {given} (out_channels)"
            yield Problem(f"model.{name}.in_channels", text, f"write in_channels={given}")


def _neck_problems(
    backbone: Mapping[str, Any],
    given: tuple[int, ...],
    neck: Mapping[str, Any],
    path: str,
    scope: str | None,
) -> Iterator[Problem]:
    wanted = neck["in_channels"]
    if not isinstance(wanted, list | tuple) or not all(number(each) is not None for each in wanted):
        return
    kind = neck.get("type")
    what = known(MODELS, kind, scope) if isinstance(kind, str) and kind else kind
    if getattr(what, "coarsest_first", False):  # a neck that lists the maps the other way round
        given = given[::-1]
    if list(given) == list(wanted):
        return
    # A neck that nobody has may take the maps in another order, or only some of them.
    if isinstance(what, Absence) and set(wanted) <= set(given):
        return
    text = f"{list(wanted)}, but model.backbone ({_name(backbone)}) gives maps of {list(given)} channels"
    if len(given) != len(wanted):
        text += f", {len(given)} maps instead of {len(wanted)} (out_indices)"
    yield Problem(f"{path}.in_channels", text, f"write in_channels={list(given)}")


def out_channels(backbone: Mapping[str, Any], scope: str | None) -> tuple[int, ...] | None:
    """Channels of a backbone's maps; None where they cannot be told.

    Raises:
        ConfigError: The backbone refuses its arguments.
    """
    kind = backbone.get("type")
    if isinstance(kind, str) and (not kind or isinstance(known(MODELS, kind, scope), Absence | None)):
        return None
    import torch

    cfg = {key: value for key, value in backbone.items() if key != "init_cfg"}
    try:
        with torch.device("meta"):
            built = MODELS.build(cfg, default_scope=scope, path="model.backbone")
    except ConfigError as error:
        if not isinstance(error, InvalidConfigError):
            raise
        return None  # its problems are told where the parts are checked
    except Exception as error:  # some constructors need real numbers, and say nothing about the config then
        _log.debug("model.backbone cannot be built on the meta device: %s", error)
        return None
    channels = getattr(built, "out_channels", None)
    return tuple(channels) if isinstance(channels, list | tuple) else None


def _name(cfg: Mapping[str, Any]) -> str:
    kind = cfg.get("type")
    return kind if isinstance(kind, str) else getattr(kind, "__name__", "?")
