"""Detectors of two stages: regions are proposed, then classified and refined one by one."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from det_models.dense_cfg import DenseTestCfg, as_settings
from det_models.detector import BaseDetector, Losses, Samples
from det_models.rpn import as_one_class, with_settings
from det_models.two_stage_cfg import TwoStageTestCfg, TwoStageTrainCfg
from detcore.errors import ConfigError, DataError
from detcore.nn.base_module import DeferredInit
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData

_STAGES = (("rpn_head", "rpn"), ("roi_head", "rcnn"))


class TwoStageDetector(BaseDetector):
    """Backbone, neck, a head that proposes regions, and one that classifies and refines them.

    Without the first, proposals come with the data (``data_samples[i].proposals.bboxes``).

    Args:
        backbone: Feature maps of an image batch.
        neck: Feature maps of the backbone's; None for none.
        rpn_head: Proposes: an RPNHead, or any one-stage head. None: proposals come with the data.
        roi_head: ``loss(feats, proposals, samples)``, ``predict(feats, proposals, samples, rescale)`` and
            ``forward(feats, proposals, samples)``.
        train_cfg: ``rpn`` and ``rcnn``, which configs hand to the heads, and ``rpn_proposal``, how proposals
            are made in training; where left out, as in ``test_cfg.rpn``.
        test_cfg: ``rpn`` and ``rcnn``, which configs hand to the heads.
        data_preprocessor: From a loader's batch to the network's input.
        init_cfg: How the whole starts.

    Raises:
        ConfigError: There is no ``roi_head``, or a head expects other channels than there are.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | Sequence[nn.Module] | None = None,
        rpn_head: nn.Module | None = None,
        roi_head: nn.Module | None = None,
        train_cfg: TwoStageTrainCfg | None = None,
        test_cfg: TwoStageTestCfg | None = None,
        data_preprocessor: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        if roi_head is None:
            raise ConfigError(f"{type(self).__name__} needs a roi_head")
        given = {"rpn_head": rpn_head, "roi_head": roi_head, "train_cfg": train_cfg, "test_cfg": test_cfg}
        heads = self.prepare_config(given)
        if rpn_head is not None:
            self.rpn_head: Any = MODELS.build(heads["rpn_head"])
            self._check_channels("rpn_head", getattr(self.rpn_head, "in_channels", None))
        self.roi_head: Any = MODELS.build(heads["roi_head"])
        self._check_channels("roi_head", getattr(self.roi_head, "in_channels", None))
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        self.proposal_cfg: DenseTestCfg | None = as_settings(
            DenseTestCfg, (train_cfg or {}).get("rpn_proposal")
        )

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """Hand the heads their parts of ``train_cfg`` and ``test_cfg``, which they are the ones to use."""
        cfg = super().prepare_config(cfg)
        for head, stage in _STAGES:
            if isinstance(cfg.get(head), dict):
                cfg = with_settings(cfg, head, stage)
        return cfg

    def _check_channels(self, head: str, expected: Any) -> None:
        features = self.backbone if self.neck is None else self.neck
        given = getattr(features, "out_channels", None)
        if isinstance(given, (tuple, list)) and isinstance(expected, int) and expected not in given:
            raise ConfigError(
                f"{head} takes {expected} channels, but {type(features).__name__} gives {list(given)}"
            )

    @property
    def with_rpn(self) -> bool:
        """Whether it proposes regions itself."""
        return hasattr(self, "rpn_head")

    @property
    def with_roi_head(self) -> bool:
        """Whether there is a second stage: always."""
        return True

    @property
    def with_bbox(self) -> bool:
        """Whether the second stage gives boxes."""
        return bool(self.roi_head.with_bbox)

    @property
    def with_mask(self) -> bool:
        """Whether the second stage gives masks."""
        return bool(self.roi_head.with_mask)

    def loss(self, batch_inputs: Tensor, batch_data_samples: Samples) -> Losses:
        """Losses of both stages; those of the first have ``rpn`` in their names."""
        features = self.extract_feat(batch_inputs)
        losses: Losses = {}
        if self.with_rpn:
            first, proposals = self.rpn_head.loss_and_predict(
                features, as_one_class(batch_data_samples), proposal_cfg=self.proposal_cfg
            )
            losses = {name if "rpn" in name else f"rpn_{name}": value for name, value in first.items()}
        else:
            proposals = stored_proposals(batch_data_samples)
        losses.update(self.roi_head.loss(features, proposals, batch_data_samples))
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: Samples, rescale: bool = True) -> Samples:
        """The samples with ``pred_instances``: ``bboxes`` ``Tensor[N, 4]`` xyxy, ``scores``, ``labels``.

        With a mask head also ``masks``, ``BoolTensor[N, H, W]`` of the original image where ``rescale``.
        """
        features = self.extract_feat(batch_inputs)
        proposals = self._proposals(features, batch_data_samples)
        results = self.roi_head.predict(features, proposals, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Samples | None = None) -> tuple[Any, ...]:
        features = self.extract_feat(batch_inputs)
        if batch_data_samples is None:
            batch_data_samples = _samples_of(batch_inputs)
        proposals = self._proposals(features, batch_data_samples)
        return (self.roi_head.forward(features, proposals, batch_data_samples),)

    def _proposals(self, features: Sequence[Tensor], data_samples: Samples) -> list[InstanceData]:
        if not self.with_rpn:
            return stored_proposals(data_samples)
        proposals: list[InstanceData] = self.rpn_head.predict(features, data_samples, rescale=False)
        return proposals


def stored_proposals(data_samples: Sequence[DetDataSample]) -> list[InstanceData]:
    """The proposals that came with the data, one entry an image.

    Raises:
        DataError: A sample has none.
    """
    for number, sample in enumerate(data_samples):
        if "proposals" not in sample or "bboxes" not in sample.proposals:
            raise DataError(
                f"sample {number} ({sample.metainfo.get('img_path') or 'no img_path'}) has no proposals, and "
                "the detector has no rpn_head to make them: give the data set a proposal_file, and its "
                "pipeline LoadProposals"
            )
    return [sample.proposals for sample in data_samples]


def _samples_of(inputs: Tensor) -> list[DetDataSample]:
    """What is known of images of which nothing was told: they fill the batch."""
    height, width = inputs.shape[-2:]
    shape = (int(height), int(width))
    meta = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "batch_input_shape": shape}
    return [DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)}) for _ in range(len(inputs))]
