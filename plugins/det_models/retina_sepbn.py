"""RetinaNet whose levels share convolutions but not batch norms (Ghiasi et al., NAS-FPN, CVPR 2019, section
4.1).

Means and variances of the levels of a pyramid differ, so that one batch norm for all of them fits none.
"""

from typing import Any

from torch import Tensor

from det_models.retinanet import RetinaHead
from detcore.nn import ModuleList


class RetinaSepBNHead(RetinaHead):
    """RetinaHead with norm layers of their own for every level.

    Names in the state dict: ``cls_convs.LEVEL.NUMBER.conv`` and ``.bn``; the convolutions of all levels are
    one.

    Args:
        num_classes: Without background.
        num_ins: Levels.
        in_channels: Channels of the feature maps.
        **kwargs: As of :class:`~det_models.retinanet.RetinaHead`.

    Raises:
        ValueError: There is no level.
    """

    def __init__(self, num_classes: int, num_ins: int, in_channels: int, **kwargs: Any) -> None:
        if num_ins < 1:
            raise ValueError(f"num_ins must be at least 1, got {num_ins}")
        self.num_ins = num_ins
        super().__init__(num_classes, in_channels, **kwargs)

    def _tower(self) -> ModuleList:
        levels = [RetinaHead._tower(self) for _ in range(self.num_ins)]
        for level in levels[1:]:
            for own, first in zip(level, levels[0], strict=True):
                own.conv = first.conv
        return ModuleList(levels)

    def forward(self, x: Any) -> tuple[list[Tensor], ...]:
        """Predictions of every level; as of :class:`~det_models.dense.DenseHead`.

        Raises:
            ValueError: There are not ``num_ins`` levels.
        """
        if len(x) != self.num_ins:
            raise ValueError(f"RetinaSepBNHead for {self.num_ins} levels (num_ins) got {len(x)}")
        scores, boxes = [], []
        towers: Any = zip(self.cls_convs, self.reg_convs, strict=True)
        for level, (cls_convs, reg_convs) in zip(x, towers, strict=True):
            cls_feature = reg_feature = level
            for cls_conv, reg_conv in zip(cls_convs, reg_convs, strict=True):
                cls_feature, reg_feature = cls_conv(cls_feature), reg_conv(reg_feature)
            scores.append(self.retina_cls(cls_feature))
            boxes.append(self.retina_reg(reg_feature))
        return scores, boxes
