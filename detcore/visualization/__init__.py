"""Drawing, and where pictures and figures go."""
from detcore.visualization.detection import DetLocalVisualizer
from detcore.visualization.palette import get_palette
from detcore.visualization.visualizer import Visualizer

__all__ = ["DetLocalVisualizer", "Visualizer", "get_palette"]
