"""Which storage the hooks can write to: this machine's files."""
from pathlib import Path
from typing import Any

from detcore.errors import ConfigError

_LOCAL = (None, "local", "disk")


def require_local(
    owner: object,
    out_dir: str | Path | None = None,
    backend_args: dict[str, Any] | None = None,
    file_client_args: dict[str, Any] | None = None,
) -> None:
    """Refuse storage that is not this machine's.

    Args:
        owner: The hook, for the message.
        out_dir: A folder that it writes to.
        backend_args: None or ``dict(backend='local')``.
        file_client_args: The older name of the same.

    Raises:
        ConfigError: An address instead of a folder, or another backend.
    """
    name = type(owner).__name__
    if out_dir is not None and "://" in str(out_dir):
        raise ConfigError(f"{name}: out_dir={str(out_dir)!r}: only folders of this machine are written to")
    if backend_args is not None and file_client_args is not None:
        raise ConfigError(f"{name} takes backend_args or its older name file_client_args, not both")
    given = "backend_args" if backend_args is not None else "file_client_args"
    backend = (backend_args or file_client_args or {}).get("backend")
    if backend not in _LOCAL:
        raise ConfigError(
            f"{name}: {given}.backend={backend!r}: only local files are written (None or backend='local'); "
            "copy them elsewhere in a hook's after_save_checkpoint or after_run"
        )
