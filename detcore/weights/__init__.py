"""Weights of networks: reading files without running code in them, and putting them into modules."""

from detcore.weights.load_into import LoadReport, load_into_module
from detcore.weights.reading import load_state, register_scheme

__all__ = ["LoadReport", "load_into_module", "load_state", "register_scheme"]
