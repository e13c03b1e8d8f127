"""Backbones for detcore: the ResNet family."""
