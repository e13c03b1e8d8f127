"""Reading weight files that torch wrote, without running anything in them."""

from detcore.weights.reader.stand_in import MappingStandIn, StandIn

__all__ = ["MappingStandIn", "StandIn"]
