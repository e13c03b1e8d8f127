"""Detectors: how a batch goes through backbone, neck and heads."""
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from det_models.neck_chain import chained
from detcore.errors import ConfigError
from detcore.nn import ModuleDict
from detcore.nn.base_module import DeferredInit
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData

logger = logging.getLogger(__name__)

Losses = dict[str, Tensor | list[Tensor]]
Samples = list[DetDataSample]
_MODES = ("loss", "predict", "tensor")


class BaseDetector(nn.Module):
    """Backbone, neck, preprocessor, and one entry for training, prediction and raw outputs.

    A detector defines :meth:`loss`, :meth:`predict` and :meth:`_forward`.

    Args:
        backbone: Feature maps of an image batch; None where a detector of a user's own makes its parts.
        neck: Feature maps of the backbone's; None for none.
        data_preprocessor: From a loader's batch to the network's input; by default batches are moved and
            stacked.
        init_cfg: How the whole starts, usually ``dict(type='Pretrained', checkpoint=...)``.

    Raises:
        ConfigError: The neck expects other channels than the backbone gives.
    """

    def __init__(
        self,
        backbone: nn.Module | None = None,
        neck: nn.Module | Sequence[nn.Module] | None = None,
        data_preprocessor: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__()
        # Built parts pass through `build` as they are; dicts come from users' classes that hand their own
        # config on.
        self.data_preprocessor: nn.Module = MODELS.build(
            {"type": "models.DetDataPreprocessor"} if data_preprocessor is None else data_preprocessor
        )
        if backbone is not None:
            self.backbone: nn.Module = MODELS.build(backbone)
            _tell_normalisation(self.backbone, self.data_preprocessor)
        self.neck: nn.Module | None = MODELS.build(chained({"neck": neck})["neck"])
        self.init_cfg = init_cfg
        self._is_init = False
        if backbone is not None and self.neck is not None:
            _connect(self.backbone, self.neck)

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """Make one neck of a list of them."""
        return chained(dict(cfg))

    @property
    def with_neck(self) -> bool:
        """Whether there is a neck."""
        return self.neck is not None

    def init_weights(self) -> None:
        """Initialise the weights of all parts, once, as :meth:`detcore.nn.BaseModule.init_weights` does."""
        if self._is_init:
            logger.warning("init_weights of %s has been called before; its weights stay", type(self).__name__)
            return
        ModuleDict(dict(self.named_children()), init_cfg=self.init_cfg).init_weights()
        self._is_init = True

    def forward(
        self, inputs: Tensor, data_samples: Samples | None = None, mode: str = "tensor"
    ) -> Losses | Samples | tuple[Any, ...]:
        """The one entry, so that wrappers (DDP, FSDP) see every pass.

        Args:
            inputs: ``Tensor[B, C, H, W]``, preprocessed.
            data_samples: One an image; may be left out for ``'tensor'``.
            mode: ``'loss'`` for :meth:`loss`, ``'predict'`` for :meth:`predict`, ``'tensor'`` for the heads'
                outputs.

        Raises:
            ValueError: Another mode; no samples, or not one an image.
        """
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
        if mode == "tensor":
            return self._forward(inputs, data_samples)
        if data_samples is None or len(data_samples) != len(inputs):
            number = "none" if data_samples is None else len(data_samples)
            raise ValueError(f"mode {mode!r} needs one data sample an image, {len(inputs)}; got {number}")
        return self.loss(inputs, data_samples) if mode == "loss" else self.predict(inputs, data_samples)

    def test_step(self, data: dict[str, Any]) -> Samples:
        """Predictions for a batch as the loader gave it."""
        samples: Samples = self(**self.data_preprocessor(data, False), mode="predict")
        return samples

    val_step = test_step

    @abstractmethod
    def loss(self, batch_inputs: Tensor, batch_data_samples: Samples) -> Losses:
        """Losses by name; entries whose name holds ``loss`` are summed by the engine."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, batch_inputs: Tensor, batch_data_samples: Samples, rescale: bool = True) -> Samples:
        """The samples with ``pred_instances``, in pixels of the original images where ``rescale``."""
        raise NotImplementedError

    @abstractmethod
    def _forward(self, batch_inputs: Tensor, batch_data_samples: Samples | None = None) -> tuple[Any, ...]:
        """Raw outputs of the heads."""
        raise NotImplementedError

    def extract_feat(self, batch_inputs: Tensor) -> Sequence[Tensor]:
        """Feature maps ``Tensor[B, C_i, H_i, W_i]`` that the heads get, finest first."""
        if batch_inputs.device.type == "cpu" and not self._takes_statistics():
            # oneDNN's convolutions keep the layout of their input and are a fifth faster channels last. On a
            # GPU this pays in half precision only, and is a setting of the run. So it is where means and
            # variances are taken of the maps: torch's sums channels last lose one or two more digits.
            batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        features: Sequence[Tensor] = self.backbone(batch_inputs)
        return features if self.neck is None else self.neck(features)

    def _takes_statistics(self) -> bool:
        """Whether backbone or neck normalise by what is in the maps, not by averages that they hold."""
        parts = [part for part in (self.backbone, self.neck) if part is not None]
        return any(
            isinstance(module, nn.GroupNorm)
            or (isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats))
            for part in parts
            for module in part.modules()
        )

    def add_pred_to_datasample(self, data_samples: Samples, results_list: Sequence[InstanceData]) -> Samples:
        """Put each image's predictions into its sample."""
        for sample, pred_instances in zip(data_samples, results_list, strict=True):
            sample.pred_instances = pred_instances
        return data_samples


class SingleStageDetector(BaseDetector):
    """A detector whose only head predicts boxes from the feature maps directly.

    Args:
        backbone: Feature maps of an image batch.
        neck: Feature maps of the backbone's; None for none.
        bbox_head: ``loss(feats, samples)``, ``predict(feats, samples, rescale)`` and ``forward(feats)``.
        train_cfg: In configs: handed to the head.
        test_cfg: In configs: handed to the head.
        data_preprocessor: From a loader's batch to the network's input.
        init_cfg: How the whole starts.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | Sequence[nn.Module] | None = None,
        bbox_head: nn.Module | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(backbone, neck, data_preprocessor, init_cfg)
        if bbox_head is None:
            raise ConfigError(f"{type(self).__name__} needs a bbox_head")
        head = {"bbox_head": bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg}
        self.bbox_head: Any = MODELS.build(self.prepare_config(head)["bbox_head"])
        _check_head(self.neck if self.neck is not None else self.backbone, self.bbox_head)

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """Hand ``train_cfg`` and ``test_cfg`` to the head, which is the one that uses them.

        They stay where they were, too: constructors of users' own may ask for them.
        """
        cfg = super().prepare_config(cfg)
        settings = {name: cfg.get(name) for name in ("train_cfg", "test_cfg")}
        if isinstance(cfg.get("bbox_head"), dict):
            given = {name: value for name, value in settings.items() if value is not None}
            cfg["bbox_head"] = {**cfg["bbox_head"], **given}
        return cfg

    def loss(self, batch_inputs: Tensor, batch_data_samples: Samples) -> Losses:
        """Losses of the head."""
        losses: Losses = self.bbox_head.loss(self.extract_feat(batch_inputs), batch_data_samples)
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: Samples, rescale: bool = True) -> Samples:
        """The samples with ``pred_instances``: ``bboxes`` ``Tensor[N, 4]`` xyxy, ``scores``, ``labels``."""
        results = self.bbox_head.predict(self.extract_feat(batch_inputs), batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Samples | None = None) -> tuple[Any, ...]:
        outputs: tuple[Any, ...] = self.bbox_head(self.extract_feat(batch_inputs))
        return outputs


def _connect(backbone: nn.Module, neck: nn.Module) -> None:
    """Tell a neck that wants to know what the backbone gives."""
    channels, connect = getattr(backbone, "out_channels", None), getattr(neck, "connect", None)
    if connect is None:
        return
    if isinstance(channels, (tuple, list)):
        connect(channels, getattr(backbone, "out_strides", None))
    elif getattr(neck, "in_channels", ()) is None:
        raise ConfigError(
            f"neck.in_channels is left out, but {type(backbone).__name__} does not tell its channels "
            "(out_channels): write neck.in_channels=[...]"
        )


def _tell_normalisation(backbone: nn.Module, preprocessor: nn.Module) -> None:
    """Tell a preprocessor which pixels the backbone's weights were trained with, where that is known."""
    pixels, expect = getattr(backbone, "expected_pixels", None), getattr(preprocessor, "expect", None)
    if pixels is not None and expect is not None:
        expect(*pixels, source=type(backbone).__name__)


def _check_head(features: nn.Module, head: nn.Module) -> None:
    given, expected = getattr(features, "out_channels", None), getattr(head, "in_channels", None)
    if isinstance(given, (tuple, list)) and isinstance(expected, int) and set(given) != {expected}:
        raise ConfigError(
            f"bbox_head.in_channels is {expected}, but {type(features).__name__} gives {list(given)} channels"
        )
