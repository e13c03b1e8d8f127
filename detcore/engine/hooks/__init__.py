"""Hooks: code that looks on at the points of a run."""
from detcore.engine.hooks.base import Hook as Hook
from detcore.engine.hooks.checkpoint import CheckpointHook as CheckpointHook
from detcore.engine.hooks.order import HookList as HookList
