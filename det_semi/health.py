"""How good a teacher's pseudo labels look, in figures for the log, and a warning when they do not.

Boxes are counted where they are, so that counting does not wait for the device; the watch over the teacher
reads its sums once in ``WINDOW`` steps. Only :meth:`PseudoLabelHealth.agreement` runs a network, once in
``AGREEMENT_INTERVAL`` steps, and only the comparison with a known truth reads boxes back in each step.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from det_semi.pseudo_labels import Samples, above, chosen, count
from det_semi.truth import UnlabeledTruth, matches
from detcore.structures import DetDataSample

logger = logging.getLogger(__name__)

WINDOW = 200
"""Steps over which the teacher is watched before a warning."""

SILENT, FLOODING = 0.05, 2.0
"""Pseudo boxes an unlabelled image, as a share of boxes a labelled image, below and above which to warn."""

AGREEMENT_INTERVAL = 50
"""Steps from one comparison of teacher and student to the next."""


class PseudoLabelHealth:
    """Figures of pseudo labels; names begin with ``pseudo_``.

    Args:
        classes: Names of the classes, for figures of each.
        truth: What unlabelled images really show, where that is known.
        step: Gives the number of steps so far; without it nothing depends on it.
        window: Steps over which the teacher is watched.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        truth: UnlabeledTruth | None = None,
        step: Callable[[], int] | None = None,
        window: int = WINDOW,
    ) -> None:
        self.classes = tuple(classes or ())
        self.truth = truth
        self._step = step
        self._watch = TeacherWatch(window)

    def counts(
        self,
        labelled: Samples,
        pseudo: Samples,
        threshold: float,
        criteria: Mapping[str, Callable[[Any], Tensor]],
    ) -> dict[str, Tensor]:
        """Boxes an image, in all and of each class, the share of images without, and what each rule keeps.

        Args:
            labelled: Labelled images of the step.
            pseudo: The teacher's boxes in the student's views, with ``scores``.
            threshold: Score that a box must exceed for its class to be learnt.
            criteria: Rules by name; each gives a ``BoolTensor[N]``.
        """
        images, number = len(pseudo), max(count(pseudo), 1)
        flags = [above(threshold)(sample.gt_instances) for sample in pseudo]
        per_image = torch.stack([each.sum() for each in flags])
        self._watch.see(len(labelled), count(labelled), images, per_image.sum(), threshold)
        entries = {
            "pseudo_per_image": per_image.float().mean(),
            "pseudo_empty_images": (per_image == 0).float().mean(),
        }
        for name, rule in criteria.items():
            kept = torch.stack([rule(sample.gt_instances).sum() for sample in pseudo]).sum()
            entries[f"pseudo_kept_{name}"] = kept / number
        if self.classes:
            labels = torch.cat([sample.gt_instances.labels for sample in pseudo])
            numbers = torch.arange(len(self.classes), device=labels.device)
            of_class = ((labels[:, None] == numbers) & torch.cat(flags)[:, None]).sum(0) / images
            entries.update(
                (f"pseudo_per_image/{name}", of_class[label]) for label, name in enumerate(self.classes)
            )
        return entries

    def against_truth(self, pseudo: Samples, threshold: float) -> dict[str, Tensor]:
        """Precision and recall of the boxes that are learnt from, where the truth is known.

        Args:
            pseudo: The teacher's boxes in pixels of the original images, with ``scores``.
            threshold: Score that a box must exceed for its class to be learnt.
        """
        if self.truth is None:
            return {}
        certain = chosen(pseudo, above(threshold))
        right, wanted = 0, 0
        for sample in certain:
            truth = self.truth.of(sample)
            right += matches(sample.gt_instances, truth)
            wanted += len(truth)
        like = pseudo[0].gt_instances.scores
        return {
            "pseudo_precision": _figure(right / max(count(certain), 1), like),
            "pseudo_recall": _figure(right / max(wanted, 1), like),
        }

    @property
    def is_agreement_due(self) -> bool:
        """Whether teacher and student are compared in this step."""
        return self._step is not None and self._step() % AGREEMENT_INTERVAL == 0

    @torch.no_grad()
    def agreement(
        self, student: nn.Module, view: Tensor, pseudo: Samples, threshold: float
    ) -> dict[str, Tensor]:
        """Share of the boxes of teacher and student, above the threshold, that the other has, too.

        Args:
            student: The network.
            view: The student's view, ``Tensor[B, C, H, W]``.
            pseudo: The teacher's boxes in it, with ``scores``.
            threshold: Score that a box of either must exceed.
        """
        blank = [DetDataSample(metainfo=sample.metainfo) for sample in pseudo]
        with evaluation_mode(student):
            found = student.predict(view, blank, rescale=False)  # type: ignore[operator]
        own = [each.pred_instances[each.pred_instances.scores > threshold] for each in found]
        theirs = [sample.gt_instances for sample in chosen(pseudo, above(threshold))]
        common = sum(matches(a, b) for a, b in zip(own, theirs, strict=True))
        total = sum(map(len, own)) + sum(map(len, theirs))
        like = pseudo[0].gt_instances.scores
        return {"pseudo_agreement": _figure(2 * common / total if total else 1.0, like)}


class TeacherWatch:
    """Warns when a teacher finds hardly anything, or far more than labelled images hold.

    Args:
        window: Steps that are looked at together.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.window = window
        self._said = ""
        self._forget()

    def _forget(self) -> None:
        self._steps = self._labelled = self._labels = self._images = 0
        self._boxes: Tensor | int = 0

    def see(self, labelled: int, labels: int, images: int, boxes: Tensor | int, threshold: float) -> None:
        """Take in a step: labelled images and their boxes, unlabelled images and their pseudo boxes.

        The last may be a ``Tensor[]``, which is read at the end of the window.
        """
        self._steps += 1
        self._labelled += labelled
        self._labels += labels
        self._images += images
        self._boxes = self._boxes + boxes
        if self._steps == self.window:
            self._judge(threshold)
            self._forget()

    def _judge(self, threshold: float) -> None:
        usual, found = self._labels / self._labelled, float(self._boxes) / self._images
        state = "silent" if found < SILENT * usual else "flooding" if found > FLOODING * usual else ""
        if state and state != self._said:
            what = f"{found:.2f} boxes an image above cls_pseudo_thr={threshold:g} in {self.window} steps"
            advice = _ADVICE[state]
            logger.warning("The teacher is %s: %s; labelled images hold %.2f. %s", state, what, usual, advice)
        elif self._said and not state:
            logger.info("The teacher finds %.2f boxes an image again", found)
        self._said = state


_ADVICE = {
    "silent": "The student learns from labelled images alone. Early in a training that is as it should be; "
    "later, lower the threshold or begin with a detector that was trained on the labelled images.",
    "flooding": "The student learns its teacher's mistakes: raise the threshold, lower unsup_weight, or "
    "begin with a detector that was trained on the labelled images.",
}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context in which a network is in evaluation mode; afterwards each of its modules is as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def _figure(value: float, like: Tensor) -> Tensor:
    """``Tensor[]`` made where ``like`` is, so that nothing is copied there."""
    return torch.full((), value, device=like.device)
