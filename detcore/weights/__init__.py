"""Weights of networks: from names to files, from files to tensors without running code, into modules."""

from detcore.weights.fetch import fetch
from detcore.weights.load_into import LoadReport, load_into_module
from detcore.weights.reading import load_state, weights_in

__all__ = ["LoadReport", "fetch", "load_into_module", "load_state", "weights_in"]
