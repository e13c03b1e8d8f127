"""Scope ``timm``: any model of timm, by its class's name or its own; timm is imported when one is built."""

from detcore.plugins import hookimpl
from detcore.plugins.commands import CommandTable
from detcore.registry.scopes import ComponentTable

DETCORE_API = 1


@hookimpl
def detcore_components(components: ComponentTable) -> None:
    """Name the backbone, and who makes one of any model's name."""
    components.add("models", "MMPretrainBackbone", "det_timm.compatible:MMPretrainBackbone")
    components.add("models", "TIMMBackbone", "det_timm.backbone:TIMMBackbone")
    components.resolver("models", "det_timm.names:resolve", names="det_timm.names:known_names")


@hookimpl
def detcore_commands(commands: CommandTable) -> None:
    """``detcore timm list`` and ``detcore timm info NAME``."""
    commands.add("timm", "det_timm.cli:command", "List and describe timm's models.")
