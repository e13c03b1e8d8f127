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
        "CheckInvalidLossHook": "detcore.engine.hooks.check_invalid_loss:CheckInvalidLossHook",
        "CheckpointHook": "detcore.engine.hooks.checkpoint:CheckpointHook",
        "DetVisualizationHook": "detcore.engine.hooks.visualization:DetVisualizationHook",
        "DistSamplerSeedHook": "detcore.engine.hooks.sampler_seed:DistSamplerSeedHook",
        "EMAHook": "detcore.engine.hooks.ema:EMAHook",
        "EarlyStoppingHook": "detcore.engine.hooks.early_stopping:EarlyStoppingHook",
        "EmptyCacheHook": "detcore.engine.hooks.empty_cache:EmptyCacheHook",
        "IterTimerHook": "detcore.engine.hooks.iter_timer:IterTimerHook",
        "LoggerHook": "detcore.engine.hooks.logger:LoggerHook",
        "MemoryProfilerHook": "detcore.engine.hooks.memory_profiler:MemoryProfilerHook",
        "NumClassCheckHook": "detcore.engine.hooks.num_class_check:NumClassCheckHook",
        "ParamSchedulerHook": "detcore.engine.hooks.param_scheduler:ParamSchedulerHook",
        "RuntimeInfoHook": "detcore.engine.hooks.runtime_info:RuntimeInfoHook",
        "SetEpochInfoHook": "detcore.engine.hooks.epoch_info:SetEpochInfoHook",
    })
    components.add_many("inferencers", {
        "DetInferencer": "detcore.apis.inferencer:DetInferencer",
    })
    components.add_many("log_processors", {
        "LogProcessor": "detcore.engine.logs:LogProcessor",
    })
    components.add_many("loops", {
        "EpochBasedTrainLoop": "detcore.engine.loops:EpochBasedTrainLoop",
        "IterBasedTrainLoop": "detcore.engine.loops:IterBasedTrainLoop",
        "TestLoop": "detcore.engine.evaluation_loops:TestLoop",
        "ValLoop": "detcore.engine.evaluation_loops:ValLoop",
    })
    components.add_many("metrics", {
    })
    components.add_many("models", {
        "ExpMomentumEMA": "detcore.engine.ema:ExpMomentumEMA",
        "ExponentialMovingAverage": "detcore.engine.ema:ExponentialMovingAverage",
        "MomentumAnnealingEMA": "detcore.engine.ema:MomentumAnnealingEMA",
        "StochasticWeightAverage": "detcore.engine.ema:StochasticWeightAverage",
    })
    components.add_many("optim_wrapper_constructors", {
        "DefaultOptimWrapperConstructor": "detcore.engine.optim_constructor:DefaultOptimWrapperConstructor",
    })
    components.add_many("optim_wrappers", {
        "AmpOptimWrapper": "detcore.engine.optim_amp:AmpOptimWrapper",
        "OptimWrapper": "detcore.engine.optim_wrapper:OptimWrapper",
    })
    components.add_many("optimizers", {
        "ASGD": "torch.optim:ASGD",
        "Adadelta": "torch.optim:Adadelta",
        "Adafactor": "torch.optim:Adafactor",
        "Adagrad": "torch.optim:Adagrad",
        "Adam": "torch.optim:Adam",
        "AdamW": "torch.optim:AdamW",
        "Adamax": "torch.optim:Adamax",
        "NAdam": "torch.optim:NAdam",
        "RAdam": "torch.optim:RAdam",
        "RMSprop": "torch.optim:RMSprop",
        "Rprop": "torch.optim:Rprop",
        "SGD": "torch.optim:SGD",
        "SparseAdam": "torch.optim:SparseAdam",
        "TorchAdafactor": "torch.optim:Adafactor",
    })
    components.resolver("optimizers", "detcore.engine.optim_constructor:resolve_optimizer")  # newer ones
    components.add_many("param_schedulers", {
        "ConstantLR": "detcore.engine.schedules.named:ConstantLR",
        "ConstantMomentum": "detcore.engine.schedules.named:ConstantMomentum",
        "ConstantParamScheduler": "detcore.engine.schedules.curves:ConstantParamScheduler",
        "CosineAnnealingLR": "detcore.engine.schedules.named:CosineAnnealingLR",
        "CosineAnnealingMomentum": "detcore.engine.schedules.named:CosineAnnealingMomentum",
        "CosineAnnealingParamScheduler": "detcore.engine.schedules.curves:CosineAnnealingParamScheduler",
        "CosineRestartLR": "detcore.engine.schedules.named:CosineRestartLR",
        "CosineRestartMomentum": "detcore.engine.schedules.named:CosineRestartMomentum",
        "CosineRestartParamScheduler": "detcore.engine.schedules.curves:CosineRestartParamScheduler",
        "ExponentialLR": "detcore.engine.schedules.named:ExponentialLR",
        "ExponentialMomentum": "detcore.engine.schedules.named:ExponentialMomentum",
        "ExponentialParamScheduler": "detcore.engine.schedules.curves:ExponentialParamScheduler",
        "LinearLR": "detcore.engine.schedules.named:LinearLR",
        "LinearMomentum": "detcore.engine.schedules.named:LinearMomentum",
        "LinearParamScheduler": "detcore.engine.schedules.curves:LinearParamScheduler",
        "MultiStepLR": "detcore.engine.schedules.named:MultiStepLR",
        "MultiStepMomentum": "detcore.engine.schedules.named:MultiStepMomentum",
        "MultiStepParamScheduler": "detcore.engine.schedules.curves:MultiStepParamScheduler",
        "OneCycleLR": "detcore.engine.schedules.named:OneCycleLR",
        "OneCycleParamScheduler": "detcore.engine.schedules.special:OneCycleParamScheduler",
        "PolyLR": "detcore.engine.schedules.named:PolyLR",
        "PolyMomentum": "detcore.engine.schedules.named:PolyMomentum",
        "PolyParamScheduler": "detcore.engine.schedules.curves:PolyParamScheduler",
        "QuadraticWarmupLR": "detcore.engine.schedules.named:QuadraticWarmupLR",
        "QuadraticWarmupMomentum": "detcore.engine.schedules.named:QuadraticWarmupMomentum",
        "QuadraticWarmupParamScheduler": "detcore.engine.schedules.curves:QuadraticWarmupParamScheduler",
        "ReduceOnPlateauLR": "detcore.engine.schedules.named:ReduceOnPlateauLR",
        "ReduceOnPlateauMomentum": "detcore.engine.schedules.named:ReduceOnPlateauMomentum",
        "ReduceOnPlateauParamScheduler": "detcore.engine.schedules.special:ReduceOnPlateauParamScheduler",
        "StepLR": "detcore.engine.schedules.named:StepLR",
        "StepMomentum": "detcore.engine.schedules.named:StepMomentum",
        "StepParamScheduler": "detcore.engine.schedules.curves:StepParamScheduler",
    })
    components.add_many("runners", {
        "Runner": "detcore.engine.runner:Runner",
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
