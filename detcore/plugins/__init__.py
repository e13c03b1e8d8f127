"""Plugins: what their authors import, and what the rest of detcore asks the host for."""
from detcore.hookspecs import API_VERSION, hookimpl
from detcore.plugins.host import PluginHost, host, replace_host
from detcore.plugins.observers import Observers

__all__ = ["API_VERSION", "Observers", "PluginHost", "hookimpl", "host", "observers", "replace_host"]


def observers() -> Observers:
    """The observers of every installed and allowed plugin; ask for it once, at the start of a run."""
    return host().observers()
