"""What RTMDet's heads are made of: networks of convolutions that levels share, in part or whole."""

from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.losses.gfocal import QualityFocalLoss
from det_models.losses.iou import GIoULoss
from det_models.points import MlvlPointGenerator
from detcore.nn import ConvModule, ModuleList, bias_init_with_prob, constant_init, is_norm, normal_init
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.registry import TASK_UTILS

Generator = Annotated[AnchorGenerator | MlvlPointGenerator | None, TASK_UTILS]
Coder = Annotated[BaseBBoxCoder | None, TASK_UTILS]

PLAIN_BATCH_NORM = {"type": "BN", "requires_grad": True}
GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
RELU = {"type": "ReLU"}
SILU = {"type": "SiLU"}

_PRIOR_PROBABILITY = 0.01
_EPS = 1e-5  # of a probability, before its logit is taken


def set_up_cells(
    head: Any,
    num_classes: int,
    in_channels: int,
    *,
    anchor_generator: Generator,
    bbox_coder: Coder,
    loss_cls: nn.Module | None,
    loss_bbox: nn.Module | None,
    **settings: Any,
) -> None:
    """Take over what a head consists of besides its layers; what is None is RTMDet's own.

    Args:
        head: A :class:`~det_models.dense.DenseHead`.
        num_classes: K.
        in_channels: Channels of the feature maps.
        anchor_generator: By default the upper left corners of the cells of strides 8, 16 and 32.
        bbox_coder: By default from distances.
        loss_cls: By default :class:`QualityFocalLoss`.
        loss_bbox: By default twice the GIoU loss.
        **settings: Further arguments of :meth:`~det_models.dense.DenseHead.set_up`.

    Raises:
        ValueError: The generator makes boxes or several points a cell.
    """
    head.set_up(
        num_classes,
        in_channels,
        prior_generator=anchor_generator or MlvlPointGenerator([8, 16, 32], offset=0),
        bbox_coder=bbox_coder or DistancePointBBoxCoder(),
        loss_cls=loss_cls or QualityFocalLoss(),
        loss_bbox=loss_bbox or GIoULoss(loss_weight=2.0),
        **settings,
    )
    if isinstance(head.prior_generator, AnchorGenerator) or head.num_base_priors != 1:
        raise ValueError(
            f"{type(head).__name__} takes one point a cell (anchor_generator=dict(type="
            f"'MlvlPointGenerator', ...)), got {head.prior_generator}"
        )
    head.strides = [stride for stride, _ in head.prior_generator.strides]


def set_up_layers(
    head: Any,
    *,
    with_objectness: bool,
    act_cfg: ActCfg,
    pred_kernel_size: int,
    stacked_convs: int,
    conv_cfg: ConvCfg,
    norm_cfg: NormCfg,
    feat_channels: int,
) -> None:
    """Keep what the head's layers are to be like, and have it make them (``_init_layers``)."""
    head.with_objectness = with_objectness
    head.act_cfg = act_cfg
    head.pred_kernel_size = pred_kernel_size
    head.stacked_convs = stacked_convs
    head.conv_cfg = conv_cfg
    head.norm_cfg = norm_cfg
    head.feat_channels = feat_channels
    head._init_layers()


def tower(head: Any, kind: Any = ConvModule) -> ModuleList:
    """The convolutions of a head's settings before a last one."""
    kinds = {name: getattr(head, name) for name in ("conv_cfg", "norm_cfg", "act_cfg")}
    return ModuleList(
        kind(
            head.feat_channels if number else head.in_channels,
            head.feat_channels, 3, stride=1, padding=1, **kinds,
        )
        for number in range(head.stacked_convs)
    )  # fmt: skip


def towers(head: Any, kind: Any = ConvModule, *, share: bool) -> ModuleList:
    """:func:`tower` of every level; with ``share`` their convolutions are one, their norm layers are not."""
    levels = [tower(head, kind) for _ in head.strides]
    for level in levels[1:] if share else ():
        blocks: list[Any] = list(zip(levels[0].modules(), level.modules(), strict=True))
        for first, own in blocks:
            if isinstance(own, ConvModule):
                own.conv = first.conv
    return ModuleList(levels)


def last(head: Any, out_channels: int) -> nn.Conv2d:
    """A convolution after a :func:`tower`."""
    channels = head.feat_channels if head.stacked_convs else head.in_channels
    kernel = head.pred_kernel_size
    return nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2)


def each_last(head: Any, out_channels: int) -> ModuleList:
    """:func:`last` of every level."""
    return ModuleList(last(head, out_channels) for _ in head.strides)


def through(convs: Any, x: Tensor) -> Tensor:
    """``Tensor[B, feat_channels, H, W]``: what a :func:`tower` makes of ``Tensor[B, in_channels, H, W]``."""
    for conv in convs:
        x = conv(x)
    return x


def start_rare(head: nn.Module) -> None:
    """Start all convolutions small and norm layers at 1; classes and objects as rare."""
    for name, layer in head.named_modules():
        if isinstance(layer, nn.Conv2d):
            rare = name.startswith(("rtm_cls", "rtm_obj"))
            normal_init(layer, std=0.01, bias=bias_init_with_prob(_PRIOR_PROBABILITY) if rare else 0)
        elif is_norm(layer):
            constant_init(layer, 1)


def geometric_mean_logit(first: Tensor, second: Tensor) -> Tensor:
    """The logit of the root of the product of two probabilities that are given as logits, in float32."""
    root = ((F.logsigmoid(first.float()) + F.logsigmoid(second.float())) / 2).exp()
    return root.clamp(min=_EPS).log() - (1 - root).clamp(min=_EPS).log()
