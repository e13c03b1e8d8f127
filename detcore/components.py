"""The components of scope ``detcore``: name -> where it lives. Sorted; imported when first built.

Reading this table imports nothing else. Names are those that configs write as ``type``.
"""
from detcore.registry.scopes import ComponentTable


def detcore_components(components: ComponentTable) -> None:
    """Name the core's own components."""
    components.add_many("data_samplers", {
    })
    components.add_many("datasets", {
    })
    components.add_many("evaluators", {
        "Evaluator": "detcore.evaluation.evaluator:Evaluator",
    })
    components.add_many("hooks", {
    })
    components.add_many("inferencers", {
        "DetInferencer": "detcore.apis.inferencer:DetInferencer",
    })
    components.add_many("log_processors", {
    })
    components.add_many("loops", {
    })
    components.add_many("metrics", {
    })
    components.add_many("models", {
    })
    components.add_many("optim_wrapper_constructors", {
    })
    components.add_many("optim_wrappers", {
    })
    components.add_many("optimizers", {
    })
    components.add_many("param_schedulers", {
    })
    components.add_many("runners", {
    })
    components.add_many("task_utils", {
    })
    components.add_many("transforms", {
    })
    components.add_many("visbackends", {
        "LocalVisBackend": "detcore.visualization.backends:LocalVisBackend",
        "TensorboardVisBackend": "detcore.visualization.backends:TensorboardVisBackend",
        "WandbVisBackend": "detcore.visualization.backends:WandbVisBackend",
    })
    components.add_many("visualizers", {
        "DetLocalVisualizer": "detcore.visualization.detection:DetLocalVisualizer",
        "Visualizer": "detcore.visualization.visualizer:Visualizer",
    })
    components.add_many("weight_initializers", {
    })
