"""The weights that Swin Transformer's authors publish, under the names and in the orders of ours."""

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

# What only the authors' network has: its classifier, the norm before it, and masks that follow from sizes.
_NOT_OURS = re.compile(r"^(head|norm)\.|\.attn_mask$")
_NAMES = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)


def converted(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The authors' weights for a :class:`~det_backbones.swin.SwinTransformer`.

    Args:
        state: Tensors by the authors' names, of a classifier, or of a detector (then its backbone's).
        module: The network, whose windows and images may have other sizes.

    Returns:
        Tensors by our names.
    """
    inner = {name.removeprefix("backbone."): v for name, v in state.items() if name.startswith("backbone.")}
    own, result = module.state_dict(), {}
    for theirs, value in (inner or state).items():
        if _NOT_OURS.search(theirs):
            continue
        name = theirs
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        result[name] = _fitting(name, value, own.get(name))
    return result


def _fitting(name: str, value: Tensor, own: Tensor | None) -> Tensor:
    """A tensor in the order and of the size of our own under that name; as it is where we have none."""
    if ".downsample." in name:
        return _neighbours_last(value)
    if own is None:
        return value
    if name.endswith("relative_position_index"):  # follows from the window's size
        return own
    if name.endswith("relative_position_bias_table"):
        return _resized(value.t(), len(own)).t()
    return _resized(value[0].t(), own.shape[1]).t()[None] if name == "absolute_pos_embed" else value


def _neighbours_last(value: Tensor) -> Tensor:
    """Inputs of patch merging: channels within each of four neighbours, to neighbours within each channel.

    The authors take the neighbours down each column, we take them along each row.
    """
    split = value.unflatten(-1, (2, 2, -1))  # right, down, channel
    return split.movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3)


def _resized(values: Tensor, wanted: int) -> Tensor:
    """``Tensor[C, S * S]`` as ``Tensor[C, wanted]`` of another square."""
    side, other = round(values.shape[1] ** 0.5), round(wanted**0.5)
    if side == other or side**2 != values.shape[1] or other**2 != wanted:
        return values
    square = values.unflatten(1, (side, side))[None]
    return F.interpolate(square, size=(other, other), mode="bicubic", align_corners=False)[0].flatten(1)
