"""What MMDetection before 2.0 stored otherwise: the background was class 0, and is the last class since."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ROI_PARTS = ("bbox_head", "mask_head", "semantic_head", "grid_head", "mask_iou_head", "shared_head")


def upgrade_1x(state: Mapping[str, Any], version: tuple[int, int]) -> "OrderedDict[str, Any]":
    """Weights of a detector of MMDetection before 2.5 in the layout of today.

    Args:
        state: Name -> tensor.
        version: Major and minor version that saved them.

    Returns:
        A copy. Between 2.0 and 2.5 only a softmax RPN changes, whose background came first.
    """
    current = OrderedDict(state)
    _reorder_rpn(current)
    if version >= (2, 0):
        return current
    _reorder_classes(current)
    return OrderedDict((_name(name, current), value) for name, value in current.items())


def _name(name: str, state: Mapping[str, Any]) -> str:
    if any(each.startswith("rpn_head.") for each in state) and name.split(".", 1)[0] in _ROI_PARTS:
        return f"roi_head.{name}"
    if "bbox_head.retina_cls.weight" in state:  # 0.5.3 and older: its convolutions were bare
        return re.sub(r"^(bbox_head\.(?:cls|reg)_convs\.\d+)\.(weight|bias)$", r"\1.conv.\2", name)
    return name


def _reorder_rpn(state: "OrderedDict[str, Any]") -> None:
    """Two scores an anchor, background and object, change places; one score (sigmoid) stays."""
    boxes = state.get("rpn_head.rpn_reg.weight")
    scores = state.get("rpn_head.rpn_cls.weight")
    if boxes is None or scores is None or len(scores) != 2 * (len(boxes) // 4):
        return
    for kind in ("weight", "bias"):
        state[f"rpn_head.rpn_cls.{kind}"] = _roll(state[f"rpn_head.rpn_cls.{kind}"], 2)


def _reorder_classes(state: "OrderedDict[str, Any]") -> None:
    """Softmax scores: the background goes from the front to the back; boxes and masks of it go."""
    for name in [name for name in state if name.endswith("fc_cls.weight")]:
        head, classes = name.removesuffix("fc_cls.weight"), len(state[name])
        for kind in ("weight", "bias"):
            state[f"{head}fc_cls.{kind}"] = _roll(state[f"{head}fc_cls.{kind}"], classes)
            if len(state.get(f"{head}fc_reg.{kind}", ())) == 4 * classes:  # else one box for all classes
                state[f"{head}fc_reg.{kind}"] = state[f"{head}fc_reg.{kind}"][4:].clone()
        for logits in [n for n in state if re.fullmatch(r"mask_head\.(\d+\.)?conv_logits\.(weight|bias)", n)]:
            if len(state[logits]) == classes:
                state[logits] = state[logits][1:].clone()
    if any(name.startswith("backbone.extra.") for name in state):
        _reorder_ssd(state)


def _reorder_ssd(state: "OrderedDict[str, Any]") -> None:
    for name in [name for name in state if re.fullmatch(r"bbox_head\.cls_convs\.\d+\.(weight|bias)", name)]:
        anchors = len(state[name.replace("cls_convs", "reg_convs")]) // 4
        state[name] = _roll(state[name], len(state[name]) // anchors)


def _roll(scores: Tensor, classes: int) -> Tensor:
    """Of every ``classes`` rows the first becomes the last."""
    return torch.roll(scores.reshape(-1, classes, *scores.shape[1:]), -1, dims=1).reshape(scores.shape)
