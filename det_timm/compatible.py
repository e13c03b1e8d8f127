"""MMPretrain's ``TIMMBackbone``: the same backbone with the defaults that configs of it count on."""

from typing import Any

from det_timm.backbone import TIMMBackbone
from det_timm.zoo import current_name, default_indices
from detcore.nn.base_module import DeferredInit


class MMPretrainBackbone(TIMMBackbone):
    """:class:`TIMMBackbone` as ``mmpretrain.TIMMBackbone`` and ``mmcls.TIMMBackbone`` mean it.

    Without ``features_only=True`` it gives the one map of the whole model, and with it those that timm itself
    gives where ``out_indices`` does not choose; no pyramid is made of them.

    Args:
        model_name: As of :class:`TIMMBackbone`, like everything below.
        features_only: Maps of several stages instead of the last one.
        pretrained: Start from timm's published weights.
        checkpoint_path: Start from a local file.
        in_channels: Channels of the image.
        init_cfg: How weights are initialised.
        **kwargs: Further arguments of :class:`TIMMBackbone` and of the model.
    """

    def __init__(
        self,
        model_name: str,
        features_only: bool = False,
        pretrained: bool = False,
        checkpoint_path: str = "",
        in_channels: int = 3,
        init_cfg: DeferredInit = None,
        **kwargs: Any,
    ) -> None:
        if features_only and kwargs.get("out_indices") is None:
            kwargs["out_indices"] = default_indices(current_name(model_name))
        kwargs.setdefault("pyramid", False)
        super().__init__(
            model_name,
            features_only,
            pretrained,
            checkpoint_path,
            in_channels,
            init_cfg=init_cfg,
            **kwargs,
        )
