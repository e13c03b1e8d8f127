"""The components of scope ``detcore``: name -> where it lives. Sorted; imported when first built.

Reading this table imports nothing else. Names are those that configs write as ``type``.
"""
from detcore.registry.scopes import ComponentTable


def detcore_components(components: ComponentTable) -> None:
    """Name the core's own components."""
    components.add_many("data_samplers", {
        "AspectRatioBatchSampler": "detcore.data.samplers:AspectRatioBatchSampler",
        "ClassAwareSampler": "detcore.data.samplers_balanced:ClassAwareSampler",
        "CustomSampleSizeSampler": "detcore.data.samplers_balanced:CustomSampleSizeSampler",
        "DefaultSampler": "detcore.data.samplers:DefaultSampler",
        "GroupMultiSourceSampler": "detcore.data.samplers_sources:GroupMultiSourceSampler",
        "InfiniteSampler": "detcore.data.samplers:InfiniteSampler",
        "MultiDataSampler": "detcore.data.samplers_balanced:MultiDataSampler",
        "MultiSourceSampler": "detcore.data.samplers_sources:MultiSourceSampler",
    })
    components.add_many("datasets", {
        "BaseDetDataset": "detcore.data.dataset:BaseDetDataset",
        "ClassBalancedDataset": "detcore.data.wrappers:ClassBalancedDataset",
        "ConcatDataset": "detcore.data.wrappers:ConcatDataset",
        "MultiImageMixDataset": "detcore.data.mix_dataset:MultiImageMixDataset",
        "RepeatDataset": "detcore.data.wrappers:RepeatDataset",
    })
    components.add_many("evaluators", {
        "Evaluator": "detcore.evaluation.evaluator:Evaluator",
        "MultiDatasetsEvaluator": "detcore.evaluation.multi:MultiDatasetsEvaluator",
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
        "NaiveVisualizationHook": "detcore.engine.hooks.visualization:NaiveVisualizationHook",
        "NumClassCheckHook": "detcore.engine.hooks.num_class_check:NumClassCheckHook",
        "ParamSchedulerHook": "detcore.engine.hooks.param_scheduler:ParamSchedulerHook",
        "PipelineSwitchHook": "detcore.engine.hooks.switch:PipelineSwitchHook",
        "PrepareTTAHook": "detcore.engine.hooks.tta:PrepareTTAHook",
        "ProfilerHook": "detcore.engine.hooks.profiler:ProfilerHook",
        "RuntimeInfoHook": "detcore.engine.hooks.runtime_info:RuntimeInfoHook",
        "SetEpochInfoHook": "detcore.engine.hooks.epoch_info:SetEpochInfoHook",
        "SyncBuffersHook": "detcore.engine.hooks.sync:SyncBuffersHook",
        "SyncNormHook": "detcore.engine.hooks.sync:SyncNormHook",
        "YOLOXModeSwitchHook": "detcore.engine.hooks.switch:YOLOXModeSwitchHook",
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
        "DumpDetResults": "detcore.evaluation.dump:DumpDetResults",
        "DumpProposals": "detcore.evaluation.dump:DumpProposals",
        "DumpResults": "detcore.evaluation.dump:DumpResults",
    })
    components.add_many("models", {
        "BN": "torch.nn:BatchNorm2d",
        "BN1d": "torch.nn:BatchNorm1d",
        "BN2d": "torch.nn:BatchNorm2d",
        "BN3d": "torch.nn:BatchNorm3d",
        "Clamp": "detcore.nn.activations:Clamp",
        "Clip": "detcore.nn.activations:Clamp",
        "Conv": "torch.nn:Conv2d",
        "Conv1d": "torch.nn:Conv1d",
        "Conv2d": "torch.nn:Conv2d",
        "Conv3d": "torch.nn:Conv3d",
        "ConvModule": "detcore.nn.conv_module:ConvModule",
        "ConvTranspose2d": "torch.nn:ConvTranspose2d",
        "ConvTranspose3d": "torch.nn:ConvTranspose3d",
        "ConvWS": "detcore.nn.conv_ws:ConvWS2d",
        "DCN": "detcore.nn.deform_conv:DeformConv2dPack",
        "DCNv2": "detcore.nn.deform_conv:ModulatedDeformConv2dPack",
        "DeformRoIPool": "detcore.ops:DeformRoIPool",
        "DeformRoIPoolPack": "detcore.ops:DeformRoIPoolPack",
        "DepthwiseSeparableConvModule": "detcore.nn.depthwise:DepthwiseSeparableConvModule",
        "DropPath": "detcore.nn.drop:DropPath",
        "Dropout": "detcore.nn.drop:Dropout",
        "ELU": "torch.nn:ELU",
        "ExpMomentumEMA": "detcore.engine.ema:ExpMomentumEMA",
        "ExponentialMovingAverage": "detcore.engine.ema:ExponentialMovingAverage",
        "GELU": "torch.nn:GELU",
        "GN": "torch.nn:GroupNorm",
        "HSigmoid": "detcore.nn.activations:HSigmoid",
        "HSwish": "torch.nn:Hardswish",
        "IN": "torch.nn:InstanceNorm2d",
        "IN1d": "torch.nn:InstanceNorm1d",
        "IN2d": "torch.nn:InstanceNorm2d",
        "IN3d": "torch.nn:InstanceNorm3d",
        "LN": "torch.nn:LayerNorm",
        "LeakyReLU": "torch.nn:LeakyReLU",
        "Linear": "torch.nn:Linear",
        "ModulatedDeformRoIPoolPack": "detcore.ops:ModulatedDeformRoIPoolPack",
        "MomentumAnnealingEMA": "detcore.engine.ema:MomentumAnnealingEMA",
        "PReLU": "torch.nn:PReLU",
        "RReLU": "torch.nn:RReLU",
        "ReLU": "torch.nn:ReLU",
        "ReLU6": "torch.nn:ReLU6",
        "RoIAlign": "detcore.ops:RoIAlign",
        "RoIPool": "detcore.ops:RoIPool",
        "SiLU": "torch.nn:SiLU",
        "Sigmoid": "torch.nn:Sigmoid",
        "StochasticWeightAverage": "detcore.engine.ema:StochasticWeightAverage",
        "Swish": "detcore.nn.activations:Swish",
        "SyncBN": "torch.nn:SyncBatchNorm",
        "Tanh": "torch.nn:Tanh",
        "bilinear": "torch.nn:Upsample",
        "deconv": "torch.nn:ConvTranspose2d",
        "deconv3d": "torch.nn:ConvTranspose3d",
        "nearest": "torch.nn:Upsample",
        "pixel_shuffle": "detcore.nn.upsample:PixelShufflePack",
        "reflect": "torch.nn:ReflectionPad2d",
        "replicate": "torch.nn:ReplicationPad2d",
        "zero": "torch.nn:ZeroPad2d",
    })
    components.add_many("optim_wrapper_constructors", {
        "DefaultOptimWrapperConstructor": "detcore.engine.optim_constructor:DefaultOptimWrapperConstructor",
        "LearningRateDecayOptimizerConstructor":
            "detcore.engine.optim_layer_decay:LearningRateDecayOptimizerConstructor",
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
        "ZeroRedundancyOptimizer": "detcore.engine.optim_zero:zero_redundancy_optimizer",
    })
    components.resolver(  # newer ones
        "optimizers",
        "detcore.engine.optim_constructor:resolve_optimizer",
        names="detcore.engine.optim_constructor:optimizer_names",
    )
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
        "Compose": "detcore.data.transforms.compose:Compose",
        "FilterAnnotations": "detcore.data.transforms.filter:FilterAnnotations",
        "LoadAnnotations": "detcore.data.transforms.load:LoadAnnotations",
        "LoadImageFromFile": "detcore.data.transforms.load:LoadImageFromFile",
        "LoadImageFromNDArray": "detcore.data.transforms.load:LoadImageFromNDArray",
        "LoadProposals": "detcore.data.transforms.proposals:LoadProposals",
        "MixUp": "detcore.data.transforms.mix:MixUp",
        "Mosaic": "detcore.data.transforms.mix:Mosaic",
        "PackDetInputs": "detcore.data.pack:PackDetInputs",
        "Pad": "detcore.data.transforms.pad:Pad",
        "PhotoMetricDistortion": "detcore.data.transforms.photometric:PhotoMetricDistortion",
        "ProposalBroadcaster": "detcore.data.transforms.proposals:ProposalBroadcaster",
        "RandomApply": "detcore.data.transforms.compose:RandomApply",
        "RandomChoice": "detcore.data.transforms.compose:RandomChoice",
        "RandomChoiceResize": "detcore.data.transforms.resize:RandomChoiceResize",
        "RandomCrop": "detcore.data.transforms.crop:RandomCrop",
        "RandomFlip": "detcore.data.transforms.flip:RandomFlip",
        "RandomResize": "detcore.data.transforms.resize:RandomResize",
        "Resize": "detcore.data.transforms.resize:Resize",
        "TestTimeAug": "detcore.data.transforms.test_time:TestTimeAug",
    })
    components.add_many("visbackends", {
        "AimVisBackend": "detcore.visualization.trackers:AimVisBackend",
        "ClearMLVisBackend": "detcore.visualization.trackers:ClearMLVisBackend",
        "DVCLiveVisBackend": "detcore.visualization.trackers:DVCLiveVisBackend",
        "LocalVisBackend": "detcore.visualization.backends:LocalVisBackend",
        "MLflowVisBackend": "detcore.visualization.trackers:MLflowVisBackend",
        "NeptuneVisBackend": "detcore.visualization.trackers:NeptuneVisBackend",
        "TensorboardVisBackend": "detcore.visualization.backends:TensorboardVisBackend",
        "WandbVisBackend": "detcore.visualization.backends:WandbVisBackend",
    })
    components.add_many("visualizers", {
        "DetLocalVisualizer": "detcore.visualization.detection:DetLocalVisualizer",
        "Visualizer": "detcore.visualization.visualizer:Visualizer",
    })
    components.add_many("weight_initializers", {
        "Caffe2Xavier": "detcore.nn.initializers:Caffe2Xavier",
        "Constant": "detcore.nn.initializers:Constant",
        "Kaiming": "detcore.nn.initializers:Kaiming",
        "Normal": "detcore.nn.initializers:Normal",
        "Pretrained": "detcore.nn.initializers:Pretrained",
        "TruncNormal": "detcore.nn.initializers:TruncNormal",
        "Uniform": "detcore.nn.initializers:Uniform",
        "Xavier": "detcore.nn.initializers:Xavier",
    })
