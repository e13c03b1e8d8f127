"""detcore: object detection whose parts are plugins."""
from importlib import import_module
from typing import Any

from detcore.registry.scopes import ScopeSource, connect

__version__ = "0.1.0"

# Name -> module; imported when first asked for, so that `import detcore` stays free of torch.
_EXPORTS = {
    "Config": "detcore.config",
    "DetInferencer": "detcore.apis",
    "inference_detector": "detcore.apis",
    "init_detector": "detcore.apis",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'detcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


def _plugin_host() -> ScopeSource:
    from detcore.plugins import host

    return host()


connect(_plugin_host)
