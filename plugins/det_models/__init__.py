"""Detectors for detcore: heads, necks, losses, assigners, coders."""
