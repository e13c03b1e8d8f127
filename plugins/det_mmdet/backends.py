"""``BaseVisBackend`` of mmengine: what users' own receivers of figures and pictures derive from."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from detcore.visualization.backends import VisBackend

Function = TypeVar("Function", bound=Callable[..., Any])


class BaseVisBackend(VisBackend):
    """A receiver that opens what it writes to in ``_init_env``, before the first thing arrives.

    Args:
        save_dir: Folder to write to; the visualizer sets it where it is None.
    """

    _env_initialized = False

    @property
    def _save_dir(self) -> str | None:
        return self.save_dir

    def _init_env(self) -> Any:
        """Open what this backend writes to."""

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Take a picture, uint8 RGB (H, W, 3); nothing unless redefined."""

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Take figures of one step; each goes to ``add_scalar`` unless redefined."""
        if type(self).add_scalar is not VisBackend.add_scalar:
            for name, value in scalar_dict.items():
                self.add_scalar(name, value, step)

    def add_config(self, config: Any, **kwargs: Any) -> None:
        """Take the config of the run; nothing unless redefined."""


def force_init_env(func: Function) -> Function:
    """Decorator of a backend's methods: ``_init_env`` is called before the first of them."""

    @functools.wraps(func)
    def wrapper(self: BaseVisBackend, *args: Any, **kwargs: Any) -> Any:
        if not self._env_initialized:
            self._env_initialized = True  # before, as _init_env may use the very thing that it opens
            self._init_env()
        return func(self, *args, **kwargs)

    return wrapper  # type: ignore[return-value]
