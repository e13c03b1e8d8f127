"""Reading weight files that torch wrote, without running anything in them."""

from detcore.weights.reader.reading import MARK, open_regular, read_weights_file, upgraded
from detcore.weights.reader.stand_in import MappingStandIn, StandIn

__all__ = ["MARK", "MappingStandIn", "StandIn", "open_regular", "read_weights_file", "upgraded"]
