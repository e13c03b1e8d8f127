"""Losses, one file a family.

All of them are called as ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)``,
reckon in float32 under autocast, never wait for the device, and give a zero that still has a gradient for
empty input.
"""
