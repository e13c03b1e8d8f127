"""Backbones for detcore: ResNet and its family, VGG, MobileNetV2, Darknet."""
