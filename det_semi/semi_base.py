"""Semi-supervised detection with a teacher and a student of the same structure.

The student learns from labelled images as ever, and from unlabelled ones by what the teacher finds there. The
teacher sees an image changed a little, the student sees it changed much; the teacher's boxes are taken from
its view to the student's. Gradients reach the student alone, and after every step the teacher moves a little
towards the student (:mod:`det_semi.mean_teacher`).

A batch has three branches: ``sup`` (labelled images), ``unsup_teacher`` and ``unsup_student`` (the two views
of the unlabelled ones).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from det_semi.health import PseudoLabelHealth
from det_semi.mean_teacher import MeanTeacher
from det_semi.preprocess import MultiBranchDataPreprocessor
from det_semi.pseudo_labels import (
    Samples,
    above,
    chosen,
    count,
    into_view,
    to_original,
    weighted,
    wider_than,
    with_instances,
)
from det_semi.settings import SemiTestCfg, SemiTrainCfg, as_settings
from det_semi.truth import UnlabeledTruth
from detcore.engine.state import TrainState
from detcore.errors import CheckpointError, DataError
from detcore.nn.base_module import DeferredInit
from detcore.registry import MODELS
from detcore.structures import DetDataSample

Losses = dict[str, Any]
Branches = Mapping[str, Any]

SUP, TEACHER_VIEW, STUDENT_VIEW = "sup", "unsup_teacher", "unsup_student"
_BRANCHES = {
    SUP: "labelled images",
    TEACHER_VIEW: "the teacher's view of unlabelled images",
    STUDENT_VIEW: "the student's view of unlabelled images",
}
_PARTS = ("student.", "teacher.")
_MODES = ("loss", "predict", "tensor")


class SemiBaseDetector(nn.Module):
    """A teacher and a student made of any detector.

    Args:
        detector: Becomes the student; the teacher is a copy of it.
        semi_train_cfg: Weights and thresholds.
        semi_test_cfg: Which of the two answers to ``predict_on``, ``forward_on`` and ``extract_feat_on``; the
            teacher by default.
        data_preprocessor: Prepares batches with branches; by default the detector's own, for every branch.
        init_cfg: Kept for configs; the detector has its own.

    Attributes:
        student: Learns.
        teacher: Follows.
        mean_teacher: How it follows; see :class:`~det_semi.mean_teacher.MeanTeacherHook`.
        DATA_SETTINGS: Settings that are about the configured images alone; a dry run on drawn ones leaves
            them out.
    """

    DATA_SETTINGS: ClassVar[tuple[str, ...]] = ("semi_train_cfg.unlabeled_truth",)

    def __init__(
        self,
        detector: nn.Module,
        semi_train_cfg: SemiTrainCfg | None = None,
        semi_test_cfg: SemiTestCfg | None = None,
        data_preprocessor: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__()
        self.student: Any = MODELS.build(detector)
        own = MultiBranchDataPreprocessor(self.student.data_preprocessor)
        given = own if data_preprocessor is None else data_preprocessor
        self.data_preprocessor: nn.Module = MODELS.build(given)
        self.teacher: Any = copy.deepcopy(self.student)
        self.semi_train_cfg: Any = self._settings(semi_train_cfg)
        self.semi_test_cfg: dict[str, Any] = dict(semi_test_cfg or {})
        self.init_cfg = init_cfg
        self.mean_teacher = MeanTeacher(self.student, self.teacher)
        self.health = PseudoLabelHealth()
        self._step: Callable[[], int] | None = None  # gives the steps of the training so far
        if self.semi_train_cfg.freeze_teacher:
            self.freeze(self.teacher)

    def _settings(self, given: Any) -> Any:
        return as_settings(SemiTrainCfg, given)

    @staticmethod
    def freeze(model: nn.Module) -> None:
        """Put a network into evaluation mode, without gradients."""
        model.eval()
        model.requires_grad_(False)

    def train(self, mode: bool = True) -> "SemiBaseDetector":
        """Set the student's mode; a frozen teacher stays in evaluation mode."""
        super().train(mode)
        if self.semi_train_cfg.freeze_teacher:
            self.teacher.eval()
        return self

    def init_weights(self) -> None:
        """Initialise the student as its configs say, and make the teacher equal to it."""
        self.student.init_weights()
        self.teacher.load_state_dict(self.student.state_dict())

    def join_training(self, state: TrainState, dataset_meta: Mapping[str, Any]) -> None:
        """Take part in a training: the runner calls this when all its parts are there.

        Args:
            state: Gets the teacher's update, which is made after every step from now on.
            dataset_meta: ``classes`` of the training data.
        """
        state.after_update.append(self._follow)
        self._step = lambda: state.step
        classes = dataset_meta.get("classes")
        given = self.semi_train_cfg.unlabeled_truth
        truth = None if given is None else UnlabeledTruth(given, classes)
        self.health = PseudoLabelHealth(classes, truth, step=self._step)

    def _follow(self, state: TrainState) -> None:
        self.mean_teacher.update(state)  # looked up each time: a hook may have put another in its place

    # -- the one entry ---------------------------------------------------------------------------

    def forward(
        self,
        inputs: Tensor | Branches,
        data_samples: Sequence[DetDataSample] | Branches | None = None,
        mode: str = "tensor",
    ) -> Any:
        """Losses of a batch with branches, or predictions or raw outputs of one without.

        Args:
            inputs: ``Tensor[B, C, H, W]``; for ``'loss'`` of each branch one.
            data_samples: One an image; for ``'loss'`` of each branch a list.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.

        Raises:
            ValueError: Another mode.
            DataError: A branch is missing, or unknown.
        """
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
        if mode == "loss":
            check_branches(inputs)
            assert isinstance(data_samples, Mapping)
            return self.loss(inputs, data_samples)  # type: ignore[arg-type]
        part = self._part("predict_on" if mode == "predict" else "forward_on")
        return part(inputs, data_samples, mode=mode)

    def _part(self, use: str) -> Any:
        return self.student if self.semi_test_cfg.get(use, "teacher") == "student" else self.teacher

    def test_step(self, data: dict[str, Any]) -> Any:
        """Predictions for a batch as the loader gave it."""
        return self(**self.data_preprocessor(data, False), mode="predict")

    val_step = test_step

    def predict(self, batch_inputs: Tensor, batch_data_samples: Samples, **options: Any) -> Any:
        """Predictions of the network that ``semi_test_cfg.predict_on`` names."""
        return self._part("predict_on").predict(batch_inputs, batch_data_samples, **options)

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """Feature maps of the network that ``semi_test_cfg.extract_feat_on`` names."""
        return self._part("extract_feat_on").extract_feat(batch_inputs)

    # -- training --------------------------------------------------------------------------------

    def loss(self, multi_batch_inputs: Branches, multi_batch_data_samples: Branches) -> Losses:
        """Losses on labelled images (``sup_...``) and unlabelled ones (``unsup_...``), and figures of these.

        Args:
            multi_batch_inputs: Of each branch ``Tensor[B_i, C, H_i, W_i]``.
            multi_batch_data_samples: Of each branch one sample an image; those of the unlabelled branches
                have ``homography_matrix`` in their metainfo.
        """
        inputs, samples = multi_batch_inputs, multi_batch_data_samples
        losses = self.loss_by_gt_instances(inputs[SUP], samples[SUP])
        if self.is_burning_in:
            return losses
        origin, batch_info = self.get_pseudo_instances(inputs[TEACHER_VIEW], samples[TEACHER_VIEW])
        pseudo = self.project_pseudo_instances(origin, samples[STUDENT_VIEW])
        losses.update(self.loss_by_pseudo_instances(inputs[STUDENT_VIEW], pseudo, batch_info))
        with torch.no_grad():
            losses.update(self._health_of(samples[SUP], origin, inputs[STUDENT_VIEW], pseudo))
        return losses

    @property
    def is_burning_in(self) -> bool:
        """Whether the teacher is not asked yet."""
        return self._step is not None and self._step() < self.semi_train_cfg.burn_in_iters

    def loss_by_gt_instances(self, batch_inputs: Tensor, batch_data_samples: Samples) -> Losses:
        """The student's losses on labelled images."""
        losses = self.student.loss(batch_inputs, batch_data_samples)
        return weighted(losses, self.semi_train_cfg.sup_weight, "sup_")

    def loss_by_pseudo_instances(
        self, batch_inputs: Tensor, batch_data_samples: Samples, batch_info: dict[str, Any] | None = None
    ) -> Losses:
        """The student's losses on unlabelled images; zero where no box of the batch is certain enough.

        Args:
            batch_inputs: The student's view.
            batch_data_samples: The teacher's boxes in that view, with ``scores``.
            batch_info: What else :meth:`get_pseudo_instances` gave.
        """
        certain = chosen(batch_data_samples, above(self.semi_train_cfg.cls_pseudo_thr))
        weight = self.semi_train_cfg.unsup_weight if count(certain) else 0.0
        return weighted(self.student.loss(batch_inputs, certain), weight, "unsup_")

    @torch.no_grad()
    def get_pseudo_instances(
        self, batch_inputs: Tensor, batch_data_samples: Samples
    ) -> tuple[list[DetDataSample], dict[str, Any]]:
        """What the teacher finds in its view.

        Returns:
            Samples with ``bboxes``, ``labels`` and ``scores`` as ground truth, in pixels of the original
            images, and what a derived detector wants to hand on to the loss.
        """
        self.teacher.eval()
        found = self.teacher.predict(batch_inputs, batch_data_samples, rescale=False)
        seen = [with_instances(sample, sample.pred_instances) for sample in found]
        return [to_original(sample) for sample in seen], {}

    @torch.no_grad()
    def project_pseudo_instances(
        self, batch_pseudo_instances: Samples, batch_data_samples: Samples
    ) -> list[DetDataSample]:
        """Boxes of original images in the student's view, those that are too small there left out."""
        pairs = zip(batch_pseudo_instances, batch_data_samples, strict=True)
        moved = [into_view(pseudo.gt_instances, sample) for pseudo, sample in pairs]
        return chosen(moved, wider_than(self.semi_train_cfg.min_pseudo_bbox_wh))

    def _health_of(
        self, labelled: Samples, origin: Samples, view: Tensor, pseudo: Samples
    ) -> dict[str, Tensor]:
        threshold = self.semi_train_cfg.cls_pseudo_thr
        entries = self.health.counts(labelled, pseudo, threshold, self._criteria())
        entries.update(self.health.against_truth(origin, threshold))
        if self.health.is_agreement_due:
            entries.update(self.health.agreement(self.student, view, pseudo, threshold))
        return entries

    def _criteria(self) -> dict[str, Callable[[Any], Tensor]]:
        """What a pseudo label must meet to be learnt from: name -> instances -> ``BoolTensor[N]``."""
        return {"cls": above(self.semi_train_cfg.cls_pseudo_thr)}

    # -- checkpoints -----------------------------------------------------------------------------

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load weights of both; those of one of them, or of a plain detector, go into both.

        Raises:
            CheckpointError: They are of another detector.
        """
        own = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
        parts = [part for part in _PARTS if any(name.startswith(prefix + part) for name in own)]
        for name, value in own.items():
            inner = name[len(prefix) :]
            if len(parts) == len(_PARTS) or (parts and not inner.startswith(parts[0])):
                state_dict[name] = value
                continue
            inner = inner.removeprefix(parts[0]) if parts else inner
            for part in _PARTS:
                state_dict[prefix + part + inner] = value
        self._refuse_another_detector(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refuse_another_detector(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """A teacher that is partly random teaches noise: heads of another detector are no small misfit."""
        for part in _PARTS:
            start = prefix + part
            given = {name[len(start) :].partition(".")[0] for name in state_dict if name.startswith(start)}
            own = {name.partition(".")[0] for name in getattr(self, part[:-1]).state_dict()}
            if given and given - own and own - given:
                kind = type(getattr(self, part[:-1])).__name__
                raise CheckpointError(
                    f"these are the weights of another detector than the {part[:-1]}, a {kind}: they have "
                    f"{', '.join(sorted(given - own))}, and nothing for {', '.join(sorted(own - given))}"
                )


def check_branches(inputs: Any) -> None:
    """Does a training batch have the three branches, and no other?

    Raises:
        DataError: No.
    """
    wanted = ", ".join(_BRANCHES)
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"a teacher-student detector trains on batches with the branches {wanted}: end the pipelines "
            "with MultiBranch, and let data_preprocessor be a MultiBranchDataPreprocessor"
        )
    unknown = sorted(set(inputs) - set(_BRANCHES))
    if unknown:
        raise DataError(f"the batch has the branches {', '.join(unknown)}, which the detector does not know; "
                        f"it knows {wanted}")  # fmt: skip
    missing = [f"no {what} (branch '{name}')" for name, what in _BRANCHES.items() if name not in inputs]
    if missing:
        raise DataError(
            f"the batch has {', '.join(missing)}: let the sampler be a MultiSourceSampler or "
            "GroupMultiSourceSampler whose source_ratio gives the labelled and the unlabelled data set at "
            "least one image a batch, and check the names of the branches in both pipelines"
        )
