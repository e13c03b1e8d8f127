"""Random weights that propose and find as much as trained ones on a busy picture."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detcore.structures import DetDataSample, InstanceData


def propose_truth(model: Any, samples: list[DetDataSample], number: int) -> None:
    """Let the first proposals of an image be boxes near its ground truth, the same in any model.

    Args:
        model: A two-stage detector, ours or torchvision's.
        samples: The images.
        number: Proposals of an image that are replaced.
    """
    near = [_near(sample.gt_instances.bboxes, number) for sample in samples]
    if hasattr(model, "rpn_head"):
        propose = model.rpn_head.predict_by_feat

        def predict_by_feat(*args: Any, **kwargs: Any) -> list[InstanceData]:
            found = zip(near, propose(*args, **kwargs), strict=True)
            return [InstanceData(bboxes=torch.cat([own, each.bboxes[number:]])) for own, each in found]

        model.rpn_head.predict_by_feat = predict_by_feat
        return
    choose = model.rpn.filter_proposals

    def filter_proposals(*args: Any, **kwargs: Any) -> tuple[list[Tensor], list[Tensor]]:
        boxes, scores = choose(*args, **kwargs)
        return [torch.cat([own, each[number:]]) for own, each in zip(near, boxes, strict=True)], scores

    model.rpn.filter_proposals = filter_proposals


def _near(boxes: Tensor, number: int) -> Tensor:
    """``Tensor[number, 4]``: boxes ``Tensor[N, 4]`` in turn, each edge moved by up to a tenth."""
    generator = torch.Generator().manual_seed(1)
    chosen = boxes[torch.arange(number) % len(boxes)]
    sides = chosen[:, 2:] - chosen[:, :2]
    moves = (torch.rand(number, 4, generator=generator) * 0.2 - 0.1).to(boxes.device)
    return chosen + moves * torch.cat([sides, sides], 1)


@torch.no_grad()
def make_busy(layer: nn.Linear, predict: Callable[[], object], number: int, classes: Sequence[int]) -> float:
    """Give each class's logits mean 0 and deviation 2 over the regions.

    Args:
        layer: The last one of a box head's classes.
        predict: Runs it once.
        number: Scores (a region has one for each class) that are to be above the threshold.
        classes: Rows of the layer that are no background.

    Returns:
        The threshold.
    """
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.float()))
    predict()
    deviation, mean = torch.std_mean(seen.pop(), dim=0)
    layer.weight *= (2 / deviation)[:, None]
    layer.bias.copy_((layer.bias - mean) * 2 / deviation)
    predict()
    hook.remove()
    scores = seen.pop().softmax(1)[:, list(classes)].flatten()
    return float(scores.topk(min(number + 1, len(scores))).values[-1])
