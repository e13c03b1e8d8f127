"""Registries, and the marks for constructor arguments that are parts.

``MODELS.build(dict(type='RetinaNet', ...))`` builds; ``@MODELS.register_module()`` names a user's own class.
"""
from detcore.registry.core import Deferred, Factory, Open, Registry, current_scope, default_scope

__all__ = [
    "DATASETS", "DATA_SAMPLERS", "EVALUATORS", "HOOKS", "INFERENCERS", "LOG_PROCESSORS", "LOOPS", "LOSSES",
    "METRICS", "MODELS", "OPTIMIZERS", "OPTIM_WRAPPERS", "OPTIM_WRAPPER_CONSTRUCTORS", "PARAM_SCHEDULERS",
    "RUNNERS", "TASK_UTILS", "TRANSFORMS", "VISBACKENDS", "VISUALIZERS", "WEIGHT_INITIALIZERS",
    "Deferred", "Factory", "Open", "Registry", "current_scope", "default_scope",
]

MODELS = Registry("models")
LOSSES = MODELS
DATASETS = Registry("datasets")
DATA_SAMPLERS = Registry("data_samplers")
TRANSFORMS = Registry("transforms")
METRICS = Registry("metrics")
EVALUATORS = Registry("evaluators")
HOOKS = Registry("hooks")
LOOPS = Registry("loops")
OPTIMIZERS = Registry("optimizers")
OPTIM_WRAPPERS = Registry("optim_wrappers")
OPTIM_WRAPPER_CONSTRUCTORS = Registry("optim_wrapper_constructors")
PARAM_SCHEDULERS = Registry("param_schedulers")
TASK_UTILS = Registry("task_utils")
VISUALIZERS = Registry("visualizers")
VISBACKENDS = Registry("visbackends")
LOG_PROCESSORS = Registry("log_processors")
WEIGHT_INITIALIZERS = Registry("weight_initializers")
RUNNERS = Registry("runners")
INFERENCERS = Registry("inferencers")
