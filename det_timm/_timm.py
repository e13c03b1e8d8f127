"""timm, or an error that says how to come by it. Modules that import timm import this one first."""

from detcore.errors import PluginError

try:
    import timm
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise PluginError("timm is not installed; `pip install det-timm` installs what det-timm lacks") from error

__all__ = ["timm"]
