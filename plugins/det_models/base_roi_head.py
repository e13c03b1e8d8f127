"""The base of second stages: which parts there are, and what they are asked for."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from det_models.dense_cfg import as_settings
from det_models.metainfo import MetaInfo
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg
from detcore.errors import ConfigError
from detcore.nn import ModuleDict
from detcore.nn.base_module import DeferredInit
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData

Samples = Sequence[DetDataSample]
Features = Sequence[Tensor]


class BaseRoIHead(nn.Module):
    """Base of second stages.

    Args:
        bbox_roi_extractor: Features of regions for the box head.
        bbox_head: Classes and boxes.
        mask_roi_extractor: Features of regions for the mask head; those of the box head where None.
        mask_head: Masks; None for none.
        shared_head: Layers behind both extractors; None for none.
        train_cfg: Needed for the loss.
        test_cfg: Needed for predictions.
        init_cfg: How the whole starts.
    """

    def __init__(
        self,
        bbox_roi_extractor: nn.Module | Sequence[nn.Module] | None = None,
        bbox_head: nn.Module | Sequence[nn.Module] | None = None,
        mask_roi_extractor: nn.Module | Sequence[nn.Module] | None = None,
        mask_head: nn.Module | Sequence[nn.Module] | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: RCNNTrainCfg | Sequence[RCNNTrainCfg] | None = None,
        test_cfg: RCNNTestCfg | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.train_cfg: Any = _each_setting(RCNNTrainCfg, train_cfg)
        self.test_cfg: Any = as_settings(RCNNTestCfg, test_cfg)
        if shared_head is not None:
            self.shared_head: nn.Module = MODELS.build(shared_head)
        if bbox_head is not None:
            self.init_bbox_head(bbox_roi_extractor, bbox_head)
        if mask_head is not None:
            self.init_mask_head(mask_roi_extractor, mask_head)
        self.init_assigner_sampler()

    @property
    def with_bbox(self) -> bool:
        """Whether there is a box head."""
        return hasattr(self, "bbox_head") and self.bbox_head is not None

    @property
    def with_mask(self) -> bool:
        """Whether there is a mask head."""
        return hasattr(self, "mask_head") and self.mask_head is not None

    @property
    def with_shared_head(self) -> bool:
        """Whether there are layers behind both extractors."""
        return hasattr(self, "shared_head") and self.shared_head is not None

    def init_weights(self) -> None:
        """Initialise the weights of all parts; see :meth:`detcore.nn.BaseModule.init_weights`."""
        ModuleDict(dict(self.named_children()), init_cfg=self.init_cfg).init_weights()

    @abstractmethod
    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Take over the box head and its extractor, which may be configs."""

    @abstractmethod
    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Take over the mask head and its extractor, which may be configs."""

    @abstractmethod
    def init_assigner_sampler(self) -> None:
        """Take the assigner and the sampler out of ``train_cfg``."""

    @abstractmethod
    def loss(self, x: Features, rpn_results_list: Sequence[InstanceData], batch_data_samples: Samples) -> Any:
        """Losses by name, from the feature maps and each image's proposals (``bboxes``)."""

    @abstractmethod
    def predict_bbox(
        self,
        x: Features,
        batch_img_metas: Sequence[MetaInfo],
        rpn_results_list: Sequence[InstanceData],
        rcnn_test_cfg: RCNNTestCfg | None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Boxes of each image, from its proposals."""

    @abstractmethod
    def predict_mask(
        self,
        x: Features,
        batch_img_metas: Sequence[MetaInfo],
        results_list: Sequence[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """``results_list`` with ``masks``; its boxes are in pixels of the network's input."""

    def predict(
        self,
        x: Features,
        rpn_results_list: Sequence[InstanceData],
        batch_data_samples: Samples,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Boxes, and masks where there is a mask head.

        Args:
            x: ``Tensor[B, C, H_i, W_i]`` a level.
            rpn_results_list: ``bboxes`` of each image, ``Tensor[N, 4]``, xyxy, pixels of the network's input.
            batch_data_samples: Their metainfo.
            rescale: Give results in pixels of the original images.

        Raises:
            ValueError: There is no ``test_cfg``.
        """
        if self.test_cfg is None:
            raise ValueError(f"{type(self).__name__} was built without test_cfg, which its predictions need")
        metas = [sample.metainfo for sample in batch_data_samples]
        at_once = rescale and not self.with_mask  # regions of masks are looked up in the feature maps
        results = self.predict_bbox(x, metas, rpn_results_list, self.test_cfg, rescale=at_once)
        return self.predict_mask(x, metas, results, rescale=rescale) if self.with_mask else results

    def _trained(self) -> Any:
        if self.train_cfg is None:
            raise ValueError(
                f"{type(self).__name__} was built without train_cfg (assigner, sampler), which its loss needs"
            )
        return self.train_cfg


def check_features(kind: str, extractor: Any, head: Any, *, shared: bool) -> None:
    """Does a head get regions of the size and channels that it was built for?

    Raises:
        ConfigError: No.
    """
    if shared:
        return
    given = (getattr(extractor, "out_channels", None), getattr(extractor, "output_size", None))
    channels, size = getattr(head, "in_channels", None), getattr(head, "roi_feat_size", None)
    size = (size, size) if isinstance(size, int) else size
    if isinstance(channels, int) and isinstance(given[0], int) and channels != given[0]:
        raise ConfigError(f"{kind}_head.in_channels is {channels}, but {kind}_roi_extractor gives {given[0]}")
    if isinstance(size, tuple) and isinstance(given[1], tuple) and size != given[1]:
        raise ConfigError(
            f"{kind}_head.roi_feat_size is {size}, but {kind}_roi_extractor's output_size is {given[1]}"
        )


def _each_setting(kind: type, given: Any) -> Any:
    if isinstance(given, (list, tuple)):
        return [as_settings(kind, each) for each in given]
    return as_settings(kind, given)
