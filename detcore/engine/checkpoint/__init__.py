"""Checkpoints: files that are whole or refused, the folder that holds a run's, loading into a model."""

from detcore.engine.checkpoint.files import load_checkpoint, save_checkpoint, verify_checkpoint
from detcore.engine.checkpoint.folder import CheckpointFolder
from detcore.engine.checkpoint.weights import load_into_model

__all__ = [
    "CheckpointFolder",
    "load_checkpoint",
    "load_into_model",
    "save_checkpoint",
    "verify_checkpoint",
]
