"""Scopes ``mmdet``, ``mmengine``, ``mmcv``, ``mmcls``, ``mmpretrain``: OpenMMLab's names for our parts."""

from det_mmdet.addresses import MIRRORS
from det_mmdet.class_names import add_class_names
from det_mmdet.names import OF_2X, OF_MMPRETRAIN, OF_SEMI, reason, reference_names, reference_words
from detcore.plugins import hookimpl
from detcore.plugins.checkpoints import CheckpointTable
from detcore.plugins.commands import CommandTable
from detcore.registry.scopes import REGISTRY_NAMES, ComponentTable

DETCORE_API = 1

# Their models are others than MMDetection's of the same names: a ResNet there gives one feature map.
CLASSIFIERS = ("mmcls", "mmpretrain")
NO_CLASSIFIERS = "of MMPretrain's models det-backbones has ConvNeXt, det-timm most others (type='timm.NAME')"
NEEDS_TIMM = "det-timm has it (pip install det-timm)"

# Classes that weight files of mmengine and of mmcv 1.x hold, and what is made instead of them.
STAND_INS = {
    "HistoryBuffer": ("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.logging.HistoryBuffer"),
    "MessageHub": ("mmengine.logging.message_hub.MessageHub", "mmengine.logging.MessageHub"),
    "ConfigDict": (
        "mmengine.config.config.ConfigDict", "mmengine.config.ConfigDict", "mmcv.utils.config.ConfigDict",
        "addict.addict.Dict", "addict.Dict",
    ),
    "Config": ("mmengine.config.config.Config", "mmcv.utils.config.Config"),
    "Scheduler": ("mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler",),
    "InstanceData": ("mmengine.structures.instance_data.InstanceData", "mmengine.structures.InstanceData"),
    "LazyName": ("mmengine.config.lazy.LazyObject", "mmengine.config.lazy.LazyAttr"),
}  # fmt: skip


@hookimpl
def detcore_checkpoints(checkpoints: CheckpointTable) -> None:
    """Weight files of OpenMMLab; told once, though this module serves five scopes."""
    if checkpoints.scope != "mmdet":
        return
    for stand_in, names in STAND_INS.items():
        for name in names:
            checkpoints.stand_in(name, f"det_mmdet.stand_ins:{stand_in}")
    for scheme in ("open-mmlab", "openmmlab"):
        checkpoints.scheme(scheme, "det_mmdet.addresses:openmmlab")
    checkpoints.scheme("jhu", "det_mmdet.addresses:jhu")
    checkpoints.scheme("mmcls", "det_mmdet.addresses:mmcls", prefix="backbone.")
    checkpoints.zoo("mmdet", "det_mmdet.zoo:published")
    checkpoints.mirror(*MIRRORS)
    checkpoints.upgrade("det_mmdet.upgrade:upgraded")


@hookimpl
def detcore_commands(commands: CommandTable) -> None:
    """One command; this module serves five scopes, so it is named in one of them only."""
    if commands.scope == "mmdet":
        commands.add("migrate", "det_mmdet.migrate_command:command", "Change import lines of old modules.")


@hookimpl
def detcore_components(components: ComponentTable) -> None:
    """Every name of the reference means the component of that name, wherever detcore or a plugin has it."""
    classifier = components.scope in CLASSIFIERS
    for package, registry, name, takes in reference_names():
        if registry not in REGISTRY_NAMES or components.absence(registry, name) is not None:
            continue
        if classifier and registry == "models" and package == "mmdet":
            components.absent(registry, name, NO_CLASSIFIERS)
            continue
        components.alias(registry, name, f"semi.{name}" if name in OF_SEMI else None)
        components.absent(registry, name, reason(name), takes=takes)
    add_class_names(components)
    for registry, names in OF_MMPRETRAIN.items() if classifier else ():
        for name in names:
            components.alias(registry, name)
            components.absent(registry, name, NO_CLASSIFIERS)
    if components.scope == "mmdet":
        for name, instead in OF_2X.items():
            components.absent("transforms", name, f"it is of MMDetection 2.x; {instead}")
        for place, words in reference_words().items():
            components.words(place, words)
    components.alias("models", "TIMMBackbone", "timm.MMPretrainBackbone")
    components.absent("models", "TIMMBackbone", NEEDS_TIMM)
