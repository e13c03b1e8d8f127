"""Small functions of MMDetection, mmengine and mmcv that users' modules lean on."""

import collections.abc
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from detcore.structures import InstanceData

Anything = TypeVar("Anything")
_log = logging.getLogger("detcore.run")


def multi_apply(func: Callable[..., Any], *args: Iterable[Any], **kwargs: Any) -> tuple[list[Any], ...]:
    """Call ``func`` on the first elements, the second ones, ...; one list for each of its results."""
    call = partial(func, **kwargs) if kwargs else func
    return tuple(map(list, zip(*map(call, *args), strict=False)))


def unmap(data: Tensor, count: int, inds: Tensor, fill: float = 0) -> Tensor:
    """``Tensor[count, ...]`` of ``fill`` with ``data`` at the places that ``inds`` (bool or int) names."""
    whole = data.new_full((count, *data.shape[1:]), fill)
    whole[inds.bool() if inds.dtype == torch.uint8 else inds] = data
    return whole


def empty_instances(
    batch_img_metas: Sequence[Mapping[str, Any]],
    device: torch.device | str,
    task_type: Literal["bbox", "mask"],
    instance_results: Sequence[InstanceData] | None = None,
    mask_thr_binary: float = 0,
    box_type: Literal["hbox"] = "hbox",
    use_box_type: bool = False,
    num_classes: int = 80,
    score_per_cls: bool = False,
) -> list[InstanceData]:
    """What a head predicts where there are no regions.

    Args:
        batch_img_metas: One an image; masks have the size of its ``ori_shape``.
        device: Of the tensors.
        task_type: ``'bbox'`` for ``bboxes`` ``Tensor[0, 4]``, ``scores`` and ``labels``, ``'mask'`` for
            ``masks`` ``Tensor[0, H, W]``.
        instance_results: Results that get them; new ones where None.
        mask_thr_binary: Masks are bool, but uint8 where this is negative.
        box_type: Only ``'hbox'``.
        use_box_type: Has no meaning here: boxes are plain tensors.
        num_classes: With ``score_per_cls``, classes without the background.
        score_per_cls: Whether scores are ``Tensor[0, num_classes + 1]`` instead of ``Tensor[0]``.

    Raises:
        ValueError: Another task, another kind of boxes, or results of another number of images.
    """
    if task_type not in ("bbox", "mask"):
        raise ValueError(f"task_type must be 'bbox' or 'mask', got {task_type!r}")
    if box_type != "hbox":
        raise ValueError(f"boxes are (x1, y1, x2, y2): box_type must be 'hbox', got {box_type!r}")
    if instance_results is None:
        instance_results = [InstanceData() for _ in batch_img_metas]
    results = list(instance_results)
    if len(results) != len(batch_img_metas):
        raise ValueError(f"{len(batch_img_metas)} images need as many instance_results, got {len(results)}")
    for result, meta in zip(results, batch_img_metas, strict=True):
        if task_type == "mask":
            kind = torch.bool if mask_thr_binary >= 0 else torch.uint8
            result.masks = torch.zeros(0, *meta["ori_shape"][:2], dtype=kind, device=device)
            continue
        result.bboxes = torch.zeros(0, 4, device=device)
        result.scores = torch.zeros((0, num_classes + 1) if score_per_cls else 0, device=device)
        result.labels = torch.zeros(0, dtype=torch.long, device=device)
    return results


def is_model_wrapper(model: nn.Module) -> bool:
    """Whether the network proper is ``model.module``.

    ``runner.model`` of detcore is the network itself, on several GPUs too.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel, FullyShardedDataParallel)
    return isinstance(model, wrappers)


def is_str(x: object) -> bool:
    """Whether ``x`` is a string."""
    return isinstance(x, str)


def is_seq_of(seq: Any, expected_type: Any, seq_type: type | None = None) -> bool:
    """Whether ``seq`` is a sequence (a ``seq_type``) whose elements all are of ``expected_type``."""
    kind: Any = seq_type or collections.abc.Sequence
    return isinstance(seq, kind) and all(isinstance(item, expected_type) for item in seq)


def is_list_of(seq: Any, expected_type: Any) -> bool:
    """Whether ``seq`` is a list of such."""
    return is_seq_of(seq, expected_type, list)


def is_tuple_of(seq: Any, expected_type: Any) -> bool:
    """Whether ``seq`` is a tuple of such."""
    return is_seq_of(seq, expected_type, tuple)


def to_ntuple(n: int) -> Callable[[Any], Any]:
    """A function that repeats a number ``n`` times, and leaves what is a sequence already."""

    def repeated(x: Any) -> Any:
        return x if isinstance(x, collections.abc.Iterable) else (x,) * n

    return repeated


to_1tuple, to_2tuple, to_3tuple, to_4tuple = map(to_ntuple, (1, 2, 3, 4))


def digit_version(version_str: str) -> tuple[int, ...]:
    """The release part of a version as numbers that compare: ``'2.6.1+cu124'`` gives ``(2, 6, 1)``."""
    release = version_str.partition("+")[0]
    numbers = []
    for part in release.split("."):
        digits = "".join(itertools.takewhile(str.isdigit, part))
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def track_iter_progress(tasks: Any, *_: Any, **__: Any) -> Iterator[Any]:
    """The elements of a sequence (or of an iterable given with its length); the log tells how far it is."""
    pair = isinstance(tasks, tuple) and len(tasks) == 2 and isinstance(tasks[1], int)
    items, total = tasks if pair else (tasks, len(tasks))
    interval = max(1, total // 10)
    for done, item in enumerate(items, 1):
        yield item
        if done % interval == 0 or done == total:
            _log.info("%d of %d done", done, total)


def cache_randomness(func: Anything) -> Anything:
    """Mark of a transform's method that draws; it changes nothing, as every sample has its own seed here."""
    return func


def avoid_cache_randomness(cls: Anything) -> Anything:
    """Mark of a transform whose draws must not be kept; it changes nothing here."""
    return cls
