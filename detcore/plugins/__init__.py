"""Plugins: what their authors import, and what the rest of detcore asks of the host."""
from detcore.hookspecs import API_VERSION, hookimpl
from detcore.plugins.host import PluginHost, PluginRecord, host, replace_host
from detcore.plugins.observers import Observers
from detcore.plugins.user_modules import PluginState, load_user_modules, plugin_state

__all__ = [
    "API_VERSION",
    "Observers",
    "PluginHost",
    "PluginRecord",
    "PluginState",
    "hookimpl",
    "host",
    "load_user_modules",
    "observers",
    "plugin_state",
    "replace_host",
]


def observers() -> Observers:
    """The observers of every installed and allowed plugin; ask for them once, at the start of a run."""
    return host().observers()
