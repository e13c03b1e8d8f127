"""Where the names that users' modules import from MMDetection, mmengine and mmcv are now.

:data:`MOVES` is the single source: ``detcore migrate`` rewrites by it, and a test holds the table of
``docs/migrate-code.md`` against it. Components (``ResNet``, ``Resize``, ...) need no line in it: they are
looked up by name in the tables of the installed packages.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from det_mmdet.names import reason, reference_names
from detcore.registry.core import REGISTRIES
from detcore.registry.lookup import standard_reference

# An area; below it `old module -> new module` and, indented, the names; `Old=New` is a name that changed.
MOVES = """
Registries
mmdet.registry -> detcore.registry
    DATASETS DATA_SAMPLERS EVALUATOR=EVALUATORS HOOKS INFERENCERS LOG_PROCESSORS LOOPS LOSSES
    METRICS MODELS OPTIMIZERS OPTIM_WRAPPERS OPTIM_WRAPPER_CONSTRUCTORS PARAM_SCHEDULERS RUNNERS
    TASK_UTILS TRANSFORMS VISBACKENDS VISUALIZERS WEIGHT_INITIALIZERS
mmengine.registry -> detcore.registry
    DATASETS DATA_SAMPLERS EVALUATOR=EVALUATORS HOOKS INFERENCERS LOG_PROCESSORS LOOPS METRICS
    MODELS OPTIMIZERS OPTIM_WRAPPERS OPTIM_WRAPPER_CONSTRUCTORS PARAM_SCHEDULERS RUNNERS
    TASK_UTILS TRANSFORMS VISBACKENDS VISUALIZERS WEIGHT_INITIALIZERS
mmcv.transforms -> detcore.registry
    TRANSFORMS
mmengine.optim -> detcore.registry
    OPTIMIZERS OPTIM_WRAPPER_CONSTRUCTORS

Configs and types
mmengine.config -> detcore.config
    Config ConfigDict
mmdet.utils -> det_mmdet.typing
    ConfigType InstanceList MultiConfig OptConfigType OptInstanceList OptMultiConfig OptPixelList
    PixelList RangeType
mmdet.structures -> det_mmdet.typing
    OptSampleList SampleList
mmengine.hooks.hook -> det_mmdet.typing
    DATA_BATCH

Networks
mmengine.model -> detcore.nn
    BaseModule ModuleDict ModuleList Sequential bias_init_with_prob caffe2_xavier_init constant_init
    initialize kaiming_init normal_init trunc_normal_init uniform_init xavier_init
mmengine.model -> det_mmdet.helpers
    is_model_wrapper
mmengine.model -> torch.nn.parallel
    MMDistributedDataParallel=DistributedDataParallel
mmcv.cnn -> detcore.nn
    ConvWS2d DepthwiseSeparableConvModule build_activation_layer build_conv_layer build_linear_layer
    build_norm_layer build_padding_layer build_plugin_layer build_upsample_layer is_norm
mmcv.cnn -> torch.nn
    Conv2d Conv3d ConvTranspose2d ConvTranspose3d Linear MaxPool2d MaxPool3d
mmcv.cnn -> det_models.scale
    Scale
mmcv.cnn.bricks -> detcore.nn
    DropPath
mmcv.ops -> detcore.ops
    DeformRoIPool DeformRoIPoolPack ModulatedDeformRoIPoolPack RoIAlign RoIPool batched_nms deform_conv2d
    deform_roi_pool modulated_deform_conv2d nms roi_align roi_pool soft_nms
mmcv.ops -> detcore.nn
    DeformConv2d DeformConv2dPack ModulatedDeformConv2d ModulatedDeformConv2dPack
mmdet.models.layers -> detcore.ops
    multiclass_nms

Detectors
mmdet.models.detectors -> det_models.detector
    BaseDetector
mmdet.models.dense_heads -> det_models.dense
    BaseDenseHead=DenseHead
mmdet.models.dense_heads -> det_models.anchor_head
    AnchorHead
mmdet.models.backbones.resnet -> det_backbones.residual
    BasicBlock Bottleneck
mmdet.models.roi_heads.shared_heads -> det_backbones.shared_head
    ResLayer
mmdet.models.layers -> det_backbones.residual
    ResLayer
mmdet.models.roi_heads -> det_models.roi_head
    BaseRoIHead
mmdet.models.roi_heads.roi_extractors -> det_models.roi_extract
    BaseRoIExtractor
mmdet.models.losses -> det_models.losses.reduce
    reduce_loss weight_reduce_loss weighted_loss
mmdet.models.losses -> det_models.losses.cross_entropy
    binary_cross_entropy cross_entropy
mmdet.models.losses -> det_models.losses.accuracy
    accuracy
mmdet.models.task_modules.assigners -> det_models.assign
    AssignResult BaseAssigner
mmdet.models.task_modules.samplers -> det_models.samplers
    BaseSampler=QuotaSampler SamplingResult
mmdet.models.task_modules.coders -> det_models.coders
    BaseBBoxCoder
mmdet.models.utils -> det_mmdet.helpers
    empty_instances multi_apply unmap
mmdet.models.utils -> det_models.truth
    unpack_gt_instances
mmdet.utils -> det_models.host
    reduce_mean

Structures
mmdet.structures -> detcore.structures
    DetDataSample
mmengine.structures -> detcore.structures
    BaseDataElement InstanceData PixelData
mmdet.structures.bbox -> detcore.structures.bbox
    bbox2corner bbox2distance bbox2roi bbox_cxcywh_to_xyxy bbox_flip bbox_overlaps bbox_project
    bbox_rescale bbox_xyxy_to_cxcywh cat_boxes corner2bbox distance2bbox find_inside_bboxes
    get_box_wh roi2bbox scale_boxes
mmdet.structures.mask -> detcore.structures.mask
    mask_target polygon_to_bitmap BitmapMasks PolygonMasks
mmdet.structures.mask -> detcore.structures.mask.base
    BaseInstanceMasks

Data
mmdet.datasets -> detcore.data
    BaseDetDataset
mmdet.base_det_dataset -> detcore.data
    BaseDetDataset
mmengine.dataset -> detcore.data
    BaseDataset=BaseDetDataset pseudo_collate=collate_lists
mmcv.transforms -> detcore.data.transforms
    BaseTransform
mmcv.transforms.utils -> det_mmdet.helpers
    avoid_cache_randomness cache_randomness

Evaluation
mmengine.evaluator -> detcore.evaluation
    BaseMetric=Metric Evaluator
mmdet.evaluation.functional -> detcore.evaluation.boxes
    average_precision eval_recalls print_recall_summary

Training
mmengine.hooks -> detcore.engine.hooks
    Hook
mmengine.runner -> detcore.engine.runner
    Runner
mmengine.runner -> detcore.engine.base_loop
    BaseLoop
mmengine.runner -> det_mmdet.checkpoints
    load_checkpoint save_checkpoint
mmengine.runner -> detcore.engine.hooks.order
    get_priority=priority_value
mmengine.optim -> detcore.engine.optim
    build_optim_wrapper
mmengine.optim -> detcore.engine.optim_constructor
    DefaultOptiWrapperConstructor=DefaultOptimWrapperConstructor
mmengine.optim -> detcore.engine.schedules
    _ParamScheduler=ParamScheduler
mmengine.optim.scheduler.param_scheduler -> detcore.engine.schedules
    INF
mmengine.optim.scheduler.lr_scheduler -> detcore.engine.schedules.base
    LRSchedulerMixin=LRMixin
mmengine.optim.scheduler.momentum_scheduler -> detcore.engine.schedules.base
    MomentumSchedulerMixin=MomentumMixin
mmengine.logging -> det_mmdet.logs
    MMLogger print_log
mmengine.logging -> detcore.engine.message_hub
    MessageHub
mmengine.dist -> det_mmdet.dist
    all_reduce barrier broadcast get_dist_info get_rank get_world_size is_distributed
    is_main_process master_only sync_random_seed

Drawing
mmengine.visualization -> det_mmdet.backends
    BaseVisBackend
mmengine.visualization.vis_backend -> det_mmdet.backends
    force_init_env
mmdet.visualization -> detcore.visualization
    get_palette

Use
mmdet.apis -> detcore.apis
    DetInferencer inference_detector init_detector

Files, pictures, small functions
mmengine.fileio -> det_mmdet.files
    dict_from_file dump list_from_file load
mmengine.utils -> det_mmdet.files
    check_file_exist mkdir_or_exist scandir
mmengine.utils -> det_mmdet.helpers
    digit_version is_list_of is_seq_of is_str is_tuple_of to_1tuple to_2tuple to_3tuple to_4tuple
    to_ntuple track_iter_progress
mmcv.image -> det_mmdet.images
    bgr2gray bgr2hsv bgr2rgb hsv2bgr imcrop imflip imfrombytes imnormalize impad impad_to_multiple
    imread imrescale imresize imrotate imwrite rgb2bgr
"""

# Whole modules: `import old` and `from parent import old`.
MODULES = {
    "mmcv": "det_mmdet.mmcv",
    "mmengine": "det_mmdet.mmengine",
    "mmengine.dist": "det_mmdet.dist",
    "mmengine.fileio": "det_mmdet.files",
}

# Names that have no successor, because what they did is done otherwise.
GONE = {
    "autocast_box_type": "boxes are plain tensors; drop the decorator",
    "AvoidCUDAOOM": "use smaller batches or gradient accumulation; nothing retries on the CPU",
    "AvoidOOM": "use smaller batches or gradient accumulation; nothing retries on the CPU",
    "BaseBoxes": "boxes are plain tensors (N, 4), xyxy",
    "BaseDataPreprocessor": "derive from torch.nn.Module; forward(data, training) gives the network's input",
    "BaseModel": "derive from torch.nn.Module: data_preprocessor, forward(inputs, data_samples, mode)",
    "build_from_cfg": "write REGISTRY.build(cfg)",
    "CheckpointLoader": "detcore.weights.load_state reads weights; plugins add address schemes by a hook",
    "COLLATE_FUNCTIONS": "collate_fn of a dataloader takes the name of a function or the function",
    "collect_results": "metrics collect by themselves; see detcore.evaluation.Metric",
    "compat_cfg": "configs of 3.x need no change",
    "DefaultScope": "the scope belongs to a build: MODELS.build(cfg, default_scope='mmdet')",
    "DictAction": "detcore.config.parse_cfg_options reads a list of key=value",
    "FileClient": "files are local; read them with pathlib",
    "force_full_init": "full_init() is called on first use; drop the decorator",
    "get_box_tensor": "boxes are plain tensors; drop the call",
    "HistoryBuffer": "MessageHub.get_scalar(name) gives the values of a figure",
    "HorizontalBoxes": "boxes are plain tensors (N, 4), xyxy",
    "ImgDataPreprocessor": "use DetDataPreprocessor",
    "init_default_scope": "the scope belongs to a build: MODELS.build(cfg, default_scope='mmdet')",
    "ManagerMixin": "nothing is found by a global name; keep a reference",
    "MODEL_WRAPPERS": "the runner wraps the model itself (DDP)",
    "register_all_modules": "nothing needs to be registered first; drop the call",
    "Registry": "register in the registries of detcore.registry",
    "replace_cfg_vals": "Config.fromfile replaces ${key} by itself",
    "RUNNER_CONSTRUCTORS": "detcore.engine.runner.Runner is the only runner",
    "setup_cache_size_limit_of_dynamo": "compile=True in the config does what is needed",
    "setup_multi_processes": "env_cfg in the config does that",
    "update_data_root": "write data_root='{{$MMDET_DATASETS:data/}}' in the config",
}  # fmt: skip


@dataclass(frozen=True)
class Move:
    """A name and where it is now.

    Attributes:
        area: What it is about.
        old: Module that it was imported from; those below it and the packages above count, too.
        name: Its old name.
        module: Module that it is imported from now.
        new_name: Its new name.
    """

    area: str
    old: str
    name: str
    module: str
    new_name: str


@functools.cache
def moves() -> tuple[Move, ...]:
    """Every line of :data:`MOVES`."""
    return tuple(_read_moves())


def _read_moves() -> Iterator[Move]:
    area = old = module = ""
    for line in MOVES.strip().splitlines():
        if " -> " in line:
            old, _, module = line.partition(" -> ")
        elif line.startswith(" "):
            for entry in line.split():
                name, _, new_name = entry.partition("=")
                yield Move(area, old, name, module, new_name or name)
        else:
            area = line or area


def find_move(module: str, name: str) -> tuple[str, str] | None:
    """Module and name by which ``from module import name`` is written now, None where nobody knows.

    Args:
        module: The old module; packages re-export what is below them, so any module on the way counts.
        name: The old name.
    """
    fitting = [each for each in moves() if each.name == name and _related(each.old, module)]
    if fitting:
        # The closest one: exact, then the module above the import's, then one below it.
        best = max(fitting, key=lambda each: (_within(module, each.old), len(_common(module, each.old))))
        return best.module, best.new_name
    return _component(module, name)


def why_not(module: str, name: str) -> str:
    """Why :func:`find_move` knows no place for a name."""
    if name == "*":
        return "name what is imported"
    if name in GONE:
        return GONE[name]
    known = _registries().get((module.partition(".")[0], name))
    return reason(name) if known else "not in the table of moved names"


def _component(module: str, name: str) -> tuple[str, str] | None:
    """A registered component of that name, wherever a standard package has it."""
    for registry in _registries().get((module.partition(".")[0], name), ()):
        reference = standard_reference(REGISTRIES[registry], name) if registry in REGISTRIES else None
        if reference is not None:
            found, _, attribute = reference.target.partition(":")
            return found, attribute
    return None


@functools.cache
def _registries() -> dict[tuple[str, str], list[str]]:
    """Where each package of the reference registers a name."""
    found: dict[tuple[str, str], list[str]] = {}
    for package, registry, name, _ in reference_names():
        found.setdefault((package, name), []).append(registry)
    return found


def _within(module: str, parent: str) -> bool:
    return module == parent or module.startswith(parent + ".")


def _related(old: str, module: str) -> bool:
    return _within(module, old) or _within(old, module)


def _common(one: str, other: str) -> list[str]:
    pairs = zip(one.split("."), other.split("."), strict=False)
    return [left for left, right in pairs if left == right]
