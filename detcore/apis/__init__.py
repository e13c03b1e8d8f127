"""Detectors for use: build one, give it images."""

from detcore.apis.inference import inference_detector, init_detector
from detcore.apis.inferencer import DetInferencer

__all__ = ["DetInferencer", "inference_detector", "init_detector"]
