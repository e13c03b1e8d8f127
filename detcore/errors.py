"""The errors that detcore raises for its callers' mistakes; everything else is a bug of ours."""


class DetcoreError(Exception):
    """Base of every error that a user of detcore can act on."""


class ConfigError(DetcoreError):
    """A config file or a value in it is wrong; the message names file, line or config path."""


class RegistryError(DetcoreError):
    """A ``type`` cannot be resolved, or a name is registered twice."""


class PluginError(DetcoreError):
    """A plugin cannot be loaded, or breaks the rules of the host."""


class DataError(DetcoreError):
    """An image or an annotation is unusable; the message names the file or the id."""


class CheckpointError(DetcoreError):
    """A checkpoint is damaged, refused, or does not fit the model."""


class TrainingError(DetcoreError):
    """Training cannot go on, for example because a loss is not finite."""
