"""Necks one after the other: ``neck=[dict(type='FPN', ...), dict(type='DyHead', ...)]`` in configs."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detcore.nn import ModuleList


class NeckChain(ModuleList):
    """Each neck gets the maps of the one before. Names in the state dict: ``0.``, ``1.``, ...

    Args:
        necks: At least one.

    Attributes:
        out_channels: Of the last neck, one entry a map where a neck tells them; None where none does.
        out_strides: Of the last neck that tells them.

    Raises:
        ValueError: There is no neck.
    """

    def __init__(self, necks: Sequence[nn.Module]) -> None:
        super().__init__(necks)
        if not necks:
            raise ValueError("a chain of necks needs at least one")

    @property
    def out_channels(self) -> Any:
        """Channels of each output."""
        return getattr(self[-1], "out_channels", None)

    @property
    def out_strides(self) -> tuple[int, ...] | None:
        """Pixels per cell of each output, known once the detector told the backbone's."""
        told = [getattr(neck, "out_strides", None) for neck in self]
        return next((strides for strides in reversed(told) if strides is not None), None)

    def connect(self, in_channels: Sequence[int], in_strides: Sequence[int] | None = None) -> None:
        """Tell each neck what it gets; see :meth:`~det_models.fpn.FPN.connect`.

        Args:
            in_channels: Channels of each map of the backbone.
            in_strides: Pixels per cell of each map of the backbone.

        Raises:
            ConfigError: A neck was built for other channels.
        """
        channels: Any = in_channels
        for neck in self:
            connect: Any = getattr(neck, "connect", None)
            if connect is not None and isinstance(channels, tuple | list):
                connect(channels, in_strides)
            channels = getattr(neck, "out_channels", None)
            in_strides = getattr(neck, "out_strides", None)

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Maps of the last neck, of a backbone's maps."""
        for neck in self:
            inputs = neck(inputs)
        return inputs


def chained(cfg: dict[str, Any]) -> dict[str, Any]:
    """A detector's config whose list of necks is one neck that holds them."""
    neck = cfg.get("neck")
    if not isinstance(neck, list | tuple):
        return cfg
    return {**cfg, "neck": {"type": "models.NeckChain", "necks": list(neck)}}
