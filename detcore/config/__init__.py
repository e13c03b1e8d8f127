"""Configs: Python files in MMDetection 3.x's dialect read as data, YAML and JSON with the same meaning."""

from detcore.config.document import Config, ConfigDict
from detcore.config.files import shipped_configs
from detcore.config.overrides import parse_cfg_options

__all__ = ["Config", "ConfigDict", "parse_cfg_options", "shipped_configs"]
