"""detcore: object detection whose parts are plugins."""

__version__ = "0.1.0"
