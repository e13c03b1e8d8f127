"""The weights that PVT's authors publish, under the names of ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# What only the authors' classifiers have.
_NOT_OURS = re.compile(r"^(head|norm)\.|^cls_token$")
_STAGE = re.compile(r"^(pos_embed|patch_embed|block|norm)(\d)")


def converted(state: Mapping[str, Tensor], with_positions: bool) -> dict[str, Tensor]:
    """The authors' weights for a :class:`~det_backbones.pvt.PyramidVisionTransformer` of either version.

    Args:
        state: Tensors by the authors' names.
        with_positions: Whether stages begin with learnt positions, after which blocks are counted.

    Returns:
        Tensors by our names; what has no counterpart keeps its own.
    """
    result: dict[str, Tensor] = {}
    mixes = any(".mlp.dwconv." in name for name in state)
    for theirs, value in state.items():
        stage = _STAGE.match(theirs)
        if _NOT_OURS.search(theirs):
            continue
        if stage is None:
            result[theirs] = value
            continue
        kind, start = stage[1], f"layers.{int(stage[2]) - 1}."
        rest = theirs[stage.end() :].lstrip(".")
        if kind == "pos_embed":
            # The last stage's begin with the position of the token that the classifier reads.
            result[f"{start}1.0.pos_embed"] = value[:, 1:] if _has_class_token(value) else value
        elif kind == "patch_embed":
            result[f"{start}0.{rest.replace('proj.', 'projection.', 1)}"] = value
        elif kind == "norm":
            result[f"{start}2.{rest}"] = value
        else:
            number, _, inner = rest.partition(".")
            block = f"{start}1.{int(number) + with_positions}."
            if inner.startswith("attn.kv."):
                continue  # with the queries
            if inner.startswith("attn.q."):
                kv = state[theirs.replace(".attn.q.", ".attn.kv.")]
                result[f"{block}attn.attn.in_proj_{inner.rpartition('.')[2]}"] = torch.cat([value, kv])
            else:
                result[block + _inner_name(inner, mixes)] = _as_convolution(inner, value)
    return result


def _inner_name(name: str, mixes: bool) -> str:
    """Name within a block; ``mixes`` says whether there is a convolution between its layers."""
    pairs = (
        ("attn.proj.", "attn.attn.out_proj."),
        ("mlp.fc1.", "ffn.layers.0."),
        ("mlp.dwconv.dwconv.", "ffn.layers.1."),
        ("mlp.fc2.", f"ffn.layers.{4 if mixes else 3}."),
    )
    for theirs, ours in pairs:
        name = name.replace(theirs, ours)
    return name


def _as_convolution(name: str, value: Tensor) -> Tensor:
    """Linear layers over channels are 1x1 convolutions in ours."""
    return value[:, :, None, None] if name in ("mlp.fc1.weight", "mlp.fc2.weight") else value


def _has_class_token(positions: Tensor) -> bool:
    """Whether there is one position more than a square has."""
    number = positions.shape[1]
    return int(number**0.5) ** 2 != number and int((number - 1) ** 0.5) ** 2 == number - 1
