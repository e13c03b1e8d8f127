"""What can be wrong with a weight file; the reader adds which file it is."""

from detcore.errors import CheckpointError


class DamagedError(CheckpointError):
    """The file is cut off, changed, or none that torch writes."""


class RefusedError(CheckpointError):
    """The file is whole, but holds what only running code from it could restore, or asks for too much."""
