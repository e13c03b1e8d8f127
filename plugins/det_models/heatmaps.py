"""Heat maps: objects as peaks of a map a class, drawn for the loss and found in predictions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_radius(sizes: Tensor, min_overlap: float) -> Tensor:
    """How far both corners of a box may be off, along both axes, for an IoU of ``min_overlap`` still.

    After CornerNet (Law and Deng 2018, section 3.2), the least of three cases, of a box w x h and IoU o: one
    corner moved inwards and one outwards, ``(w - r)(h - r) = o (2wh - (w - r)(h - r))``; both inwards, ``(w -
    2r)(h - 2r) = o wh``; both outwards, ``wh = o (w + 2r)(h + 2r)``. Each is some ``a r^2 - b r + c = 0``,
    whose least positive root is ``2c / (b + sqrt(b^2 - 4ac))``.

    Args:
        sizes: ``Tensor[N, 2]``, (w, h), in any unit.
        min_overlap: o, above 0 and below 1.

    Returns:
        ``Tensor[N]``, in the same unit; 0 for a box without area.
    """
    around, area = sizes.sum(-1), sizes.prod(-1)
    cases = (
        (1, around, area * (1 - min_overlap) / (1 + min_overlap)),
        (4, 2 * around, area * (1 - min_overlap)),
        (-4 * min_overlap, 2 * min_overlap * around, area * (1 - min_overlap)),
    )
    tiny = torch.finfo(sizes.dtype).tiny
    roots = [2 * c / (b + (b * b - 4 * a * c).clamp(min=0).sqrt()).clamp(min=tiny) for a, b, c in cases]
    return torch.stack(roots).amin(0)


def draw_gaussians(
    cells: Tensor, radii: Tensor, images: Tensor, labels: Tensor, shape: tuple[int, int, int, int]
) -> Tensor:
    """A map for each image and class with a peak for each object; where peaks meet, the higher counts.

    A peak is ``exp(-d^2 / (2 sigma^2))`` with a sigma of a sixth of its width, ``(2r + 1) / 6``, and 0 beyond
    ``r`` cells along either axis. So it is 1 at the object's own cell, and nowhere else.

    Args:
        cells: ``LongTensor[N, 2]``, (x, y) of the N objects of all images. One outside of the map shows no
            peak, only its slope.
        radii: ``Tensor[N]``, r, whole numbers.
        images: ``LongTensor[N]``, the image of each.
        labels: ``LongTensor[N]``, the class of each.
        shape: (B, C, H, W) of the result.

    Returns:
        ``Tensor[B, C, H, W]`` in 0..1, of the dtype of ``radii``.
    """
    num_images, num_classes, height, width = shape
    sigma = (2 * radii[:, None] + 1) / 6
    along = []
    for axis, length in enumerate((width, height)):
        away = torch.arange(length, device=cells.device) - cells[:, axis, None]
        value = torch.exp(-away.square() / (2 * sigma.square()))
        along.append(torch.where(away.abs() <= radii[:, None], value, 0))
    peaks = (along[1][:, :, None] * along[0][:, None]).flatten(1)
    planes = (images * num_classes + labels)[:, None].expand_as(peaks)
    heat = peaks.new_zeros(num_images * num_classes, height * width)
    return heat.scatter_reduce_(0, planes, peaks, "amax").view(shape)


def local_maxima(heat: Tensor, kernel: int = 3) -> Tensor:
    """A map ``Tensor[B, C, H, W]`` with 0 wherever a larger value is within ``kernel`` x ``kernel`` cells.

    Args:
        heat: Values of 0 or more.
        kernel: An odd number of cells.
    """
    highest = F.max_pool2d(heat, kernel, stride=1, padding=kernel // 2)
    return torch.where(highest == heat, heat, 0)
