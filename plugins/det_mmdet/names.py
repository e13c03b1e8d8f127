"""Which names MMDetection 3.3.0, mmengine 0.10.7 and mmcv 2.1.0 register, and why some are not there.

``reference_names.json`` holds them: package -> registry -> name -> names of arguments (null: takes
anything; ``*`` among them: others, too). It is read from their sources by
``tests/parity/reference_names.py``. ``reference_words.json`` holds what their configs write elsewhere, read
by ``tests/parity/reference_words.py``.
"""

import json
import re
from collections.abc import Iterator
from importlib.resources import files

REGISTRIES = {"evaluator": "evaluators"}  # where the name of the registry differs

# They register torch's own classes in a loop, which their sources do not spell out.
FROM_TORCH = {
    "models": ("ELU", "LeakyReLU", "PReLU", "RReLU", "ReLU", "ReLU6", "Sigmoid", "Tanh"),
    "optimizers": (
        "ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam", "Optimizer",
        "RAdam", "RMSprop", "Rprop", "SGD", "SparseAdam", "TorchAdafactor",
    ),
}  # fmt: skip

# Keys that a component of the reference takes out of a part's dict before the part is built.
TAKEN_OUT = {"loss_cls": ("bg_cls_weight",), "dcn": ("fallback_on_stride", "deformable_groups")}

# Of MMPretrain what configs of MMDetection use.
OF_MMPRETRAIN = {"models": ("ConvNeXt", "ClsDataPreprocessor"), "transforms": ("PackInputs",)}

# What det-semi has, in its own scope.
OF_SEMI = (
    "MeanTeacherHook", "MultiBranch", "MultiBranchDataPreprocessor", "SemiBaseDetector", "SoftTeacher",
    "TeacherStudentValLoop",
)  # fmt: skip

# Transforms of MMDetection 2.x, and what says the same since 3.0.
OF_2X = {
    "Collect": "PackDetInputs packs the sample",
    "DefaultFormatBundle": "PackDetInputs packs the sample",
    "ImageToTensor": "PackDetInputs packs the sample",
    "MultiScaleFlipAug": "write its steps themselves, and tta_pipeline for several views",
    "Normalize": "model.data_preprocessor normalises",
}

NOT_YET = "detcore does not have it yet"
NEEDS_SEMI = "det-semi has it (pip install det-semi)"
TRACKING = "tracking and re-identification are not part of detcore"
LANGUAGE = "detection guided by language is not part of detcore"
FRAMEWORKS = "it needs another training framework; detcore trains with plain PyTorch (AmpOptimWrapper)"

_REASONS = (  # the first that matches
    (re.compile(r"Track|ReID|SORT|ByteTrack|QDTrack|QuasiDense|MOT|YouTubeVIS"), TRACKING),
    (re.compile(r"VideoMetric|BaseVideoDataset"), TRACKING),
    (re.compile(r"CameraMotion|KalmanFilter|InterpolateTracklets|AppearanceFreeLink|FrameSample"), TRACKING),
    (re.compile(r"Mask2FormerVideo|Encoding3D|MultiPosCrossEntropy|Triplet|MarginL2"), TRACKING),
    (re.compile(r"RoIEmbedHead|L2Loss$|FcModule|GlobalAveragePooling"), TRACKING),
    (re.compile(r"GLIP|Grounding|Bert|Caption|Ref(Coco|Exp|Seg)|gRefCOCO|RefCOCO"), LANGUAGE),
    (re.compile(r"ODVG|Flickr30k|^DOD|VLFusion"), LANGUAGE),
    (re.compile(r"RandomSamplingNegPos|LoadTextAnnotations|OVCoco"), LANGUAGE),
    (re.compile(r"Colossal|Collosal|DeepSpeed|Apex|FlexibleRunner"), FRAMEWORKS),
    (re.compile(r"FusedAdam|FusedLamb|OnebitAdam|OnebitLamb|ZeroOneAdam"), FRAMEWORKS),
    (re.compile(r"^Optimizer$"), "it is the base of all optimisers and optimises nothing itself"),
    (re.compile(r"RFSearchHook"), "networks do not change their shape while they train"),
    (re.compile(r"MultiDataAspectRatio"), "AspectRatioBatchSampler groups by shape, MultiDataSampler by set"),
    (re.compile(r"NPU"), "Ascend's profiler is not part of detcore; ProfilerHook profiles with PyTorch"),
    (re.compile(r"Sparse(Conv|Inverse)|SubM"), "sparse convolutions are for point clouds"),
    (re.compile(r"Detectron2"), "detectors of Detectron2 are not part of detcore yet"),
)  # fmt: skip


def reference_names() -> Iterator[tuple[str, str, str, list[str] | None]]:
    """``(package, registry of detcore, name, arguments that the reference takes or None)``, mmdet's first."""
    read = json.loads(files(__package__).joinpath("reference_names.json").read_text(encoding="utf-8"))
    for package, registries in read.items():
        for registry, names in registries.items():
            for name, takes in names.items():
                yield package, REGISTRIES.get(registry, registry), name, takes
    for registry, listed in FROM_TORCH.items():
        for name in listed:
            yield "torch", registry, name, None


def reference_words() -> dict[str, list[str]]:
    """What configs write in places that no component's signature describes: place -> words."""
    read = json.loads(files(__package__).joinpath("reference_words.json").read_text(encoding="utf-8"))
    words = {str(place): list(known) for place, known in read.items()}
    for place, known in TAKEN_OUT.items():
        words.setdefault(place, []).extend(known)
    return words


def reason(name: str) -> str:
    """Why a name of the reference is not there, while nobody has it."""
    if name in OF_SEMI:
        return NEEDS_SEMI
    return next((why for pattern, why in _REASONS if pattern.search(name)), NOT_YET)
