"""Test-time augmentation: a detector sees several views of each image, and its boxes are merged.

A view is the image resized, mirrored or both (``TestTimeAug`` in the pipeline). The detector gives boxes in
pixels of the original image, as far as sizes go; here they are mirrored back, and the boxes of all views go
through one suppression by class. What several views agree on is kept once, by its highest score.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detcore.errors import ConfigError
from detcore.ops import batched_nms
from detcore.ops.nms import NmsCfg
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.bbox import bbox_flip


class BaseTTAModel(nn.Module):
    """A detector that predicts several views of each image; derived classes say how they are merged.

    Args:
        module: The detector.
        data_preprocessor: In place of the detector's own.
    """

    def __init__(self, module: nn.Module, data_preprocessor: nn.Module | None = None) -> None:
        super().__init__()
        self.module: Any = module
        if data_preprocessor is not None:
            module.data_preprocessor = data_preprocessor

    @abstractmethod
    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """One prediction an image.

        Args:
            data_samples_list: For each image the predictions of its views.
        """
        raise NotImplementedError

    def data_preprocessor(self, data: Mapping[str, Any], training: bool = False) -> Mapping[str, Any]:
        """The batch as the loader gave it: one view after the other is prepared, to save memory."""
        return data

    def forward(
        self, inputs: Sequence[Sequence[Tensor]], data_samples: Sequence[Sequence[DetDataSample]], mode: str
    ) -> list[DetDataSample]:
        """Predict all views of a batch and merge.

        Args:
            inputs: For each image its views, ``Tensor[C, H, W]`` each.
            data_samples: For each image one sample a view.
            mode: ``'predict'``.

        Raises:
            ValueError: Another mode.
            ConfigError: The batch holds no views.
        """
        if mode != "predict":
            raise ValueError(f"{type(self).__name__} only predicts, got mode {mode!r}")
        if not all(isinstance(views, (list, tuple)) for views in inputs):
            raise ConfigError(
                f"{type(self).__name__} merges views, but the batch has one tensor an image: "
                "the test pipeline needs a TestTimeAug (tta_pipeline)"
            )
        predictions = []
        for view in range(len(inputs[0])):
            batch = {
                "inputs": [views[view] for views in inputs],
                "data_samples": [views[view] for views in data_samples],
            }
            prepared = self.module.data_preprocessor(batch, training=False)
            predictions.append(self.module(prepared["inputs"], prepared["data_samples"], mode="predict"))
        return self.merge_preds(list(zip(*predictions, strict=True)))


class TTANmsCfg(NmsCfg, total=False):
    """Settings of non-maximum suppression; the manual writes the number of boxes among them."""

    max_per_img: int


@dataclass
class TTACfg:
    """How boxes of several views are merged.

    Attributes:
        nms: Suppression by class, as for :func:`detcore.ops.batched_nms`.
        max_per_img: Boxes to keep of an image.
    """

    nms: TTANmsCfg = field(default_factory=lambda: TTANmsCfg(type="nms", iou_threshold=0.5))
    max_per_img: int = 100

    def __post_init__(self) -> None:
        # The manual's example writes max_per_img among the arguments of nms.
        self.nms = self.nms.copy()
        self.max_per_img = self.nms.pop("max_per_img", self.max_per_img)
        if self.max_per_img < 1:
            raise ValueError(f"max_per_img must be at least 1, got {self.max_per_img}")


class DetTTAModel(BaseTTAModel):
    """Merges boxes; masks are not merged.

    Args:
        module: The detector.
        tta_cfg: How boxes are merged.
        data_preprocessor: In place of the detector's own.
    """

    def __init__(
        self, module: nn.Module, tta_cfg: TTACfg | None = None, data_preprocessor: nn.Module | None = None
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.tta_cfg = tta_cfg or TTACfg()

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """For each image the sample of its first view that is not mirrored, with the boxes of all views.

        Where all are mirrored it is the first.

        Raises:
            ConfigError: The detector predicts masks, or a view does not tell whether it is mirrored.
        """
        return [self._merged(views) for views in data_samples_list]

    def _merged(self, views: Sequence[DetDataSample]) -> DetDataSample:
        boxes = torch.cat([_mirrored_back(view) for view in views])
        scores = torch.cat([view.pred_instances.scores for view in views])
        labels = torch.cat([view.pred_instances.labels for view in views])
        dets, keep = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
        best = dets[: self.tta_cfg.max_per_img]
        # Its meta information and annotations are those that fit boxes of the original image.
        sample = next((view for view in views if not view.metainfo["flip"]), views[0])
        sample.pred_instances = InstanceData(
            bboxes=best[:, :4], scores=best[:, 4], labels=labels[keep][: len(best)]
        )
        return sample


def _mirrored_back(view: DetDataSample) -> Tensor:
    """``Tensor[N, 4]``: a view's boxes in pixels of the original image."""
    if "masks" in view.pred_instances:
        raise ConfigError("DetTTAModel merges boxes only; this detector predicts masks, too")
    meta = view.metainfo
    missing = [key for key in ("ori_shape", "flip", "flip_direction") if key not in meta]
    if missing:
        raise ConfigError(
            f"DetTTAModel needs {', '.join(missing)} of every view: name it in meta_keys of PackDetInputs; "
            "flip and flip_direction are set by a RandomFlip, with prob=0.0 where nothing is mirrored"
        )
    boxes: Tensor = view.pred_instances.bboxes
    return bbox_flip(boxes, meta["ori_shape"], meta["flip_direction"]) if meta["flip"] else boxes
