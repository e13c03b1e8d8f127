"""Everything that is wrong with a config, found before anything is built.

One file a question: are the keys known, can the parts be built, do classes, channels, files and schedules
fit, do variables of the config reach what they were set for.
"""
from detcore.engine.check.whole import CheckOptions, check_config, errors_among, launched_processes

__all__ = ["CheckOptions", "check_config", "errors_among", "launched_processes"]
