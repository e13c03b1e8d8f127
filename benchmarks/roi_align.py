"""RoIAlign over four levels of a pyramid: ours against torchvision's kernel, on the same maps and regions.

    python benchmarks/roi_align.py                                  # CPU, batches of 2
    python benchmarks/roi_align.py --rounds 1 --sizes 64x96 --regions 32

Maps have 256 channels and lie channels last, as networks on CPUs give them. Regions have sides of 24 pixels
to two thirds of the image and are looked up in the level that fits their size; output 7x7. Sampling ratio 0
takes as many samples as a region's size asks for, 2 takes two a bin along each axis.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from detcore.ops import roi_align

STRIDES = (4, 8, 16, 32)
CHANNELS = 256
Levels = list[tuple[Tensor, Tensor, float]]  # map, regions, scale
Pool = Callable[..., Tensor]


def problem(height: int, width: int, args: argparse.Namespace) -> Levels:
    """Maps ``Tensor[B, 256, h, w]`` with the regions ``Tensor[K, 5]`` that are looked up in each."""
    generator = torch.Generator().manual_seed(0)
    image = torch.tensor([width, height])
    sides = 24 * (image * (2 / 3) / 24).clamp(min=1) ** torch.rand(args.regions, 2, generator=generator)
    corner = torch.rand(args.regions, 2, generator=generator) * (image - sides)
    number = torch.randint(0, args.batch, (args.regions, 1), generator=generator)
    rois = torch.cat([number, corner, corner + sides], 1).to(args.device)
    level_of = (sides.prod(1).sqrt() / 56).log2().floor().clamp(0, len(STRIDES) - 1).to(args.device)
    levels = []
    for level, stride in enumerate(STRIDES):
        shape = (args.batch, CHANNELS, height // stride, width // stride)
        features = torch.randn(shape, generator=generator).to(args.device)
        features = features.contiguous(memory_format=torch.channels_last)
        levels.append((features, rois[level_of == level], 1 / stride))
    return levels


def forward(pool: Pool, levels: Levels, ratio: int) -> list[Tensor]:
    return [pool(features, rois, (7, 7), scale, ratio, True) for features, rois, scale in levels]


def both_ways(pool: Pool, levels: Levels, ratio: int) -> list[Tensor]:
    """Gradients of the maps."""
    leaves = [(features.detach().requires_grad_(), rois, scale) for features, rois, scale in levels]
    outputs = forward(pool, leaves, ratio)
    grads = [torch.ones_like(output) for output in outputs]
    return list(torch.autograd.grad(outputs, [features for features, _, _ in leaves], grads))


def seconds_of(calls: list[Callable[[], object]], args: argparse.Namespace) -> list[float]:
    """Medians over rounds in turns, after one that does not count."""
    clock = time.process_time if args.cpu_seconds else time.perf_counter
    taken: list[list[float]] = [[] for _ in calls]
    for number in range(args.rounds + 1):
        for call, seconds in zip(calls, taken, strict=True):
            start = clock()
            call()
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:
                seconds.append(clock() - start)
    return [statistics.median(seconds) for seconds in taken]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True) if a.numel())


def main(argv: list[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--regions", type=int, default=1024, help="of the whole batch")
    parser.add_argument("--sizes", nargs="+", default=["512x640", "800x1344"], help="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="as many as torch takes where left out")
    parser.add_argument("--cpu-seconds", action="store_true", help="count processor time")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{args.batch} images, {args.regions} regions, {args.device}, ", end="")
    print(f"{torch.get_num_threads()} threads, {args.rounds} rounds, torch {torch.__version__}")
    print(f"{'size':>9} {'sampling':>8} {'':17} {'detcore':>11} {'torchvision':>12} {'ratio':>6}  differ by")
    for size in args.sizes:
        levels = problem(*map(int, size.split("x")), args)
        for ratio in (0, 2):
            for name, way in (("forward", forward), ("forward, backward", both_ways)):
                calls = [
                    lambda way=way, pool=pool, ratio=ratio, levels=levels: way(pool, levels, ratio)
                    for pool in (roi_align, torchvision.ops.roi_align)
                ]
                ours, theirs = seconds_of(calls, args)
                gap = largest_difference(calls[0](), calls[1]())
                print(
                    f"{size:>9} {ratio:8} {name:17} {ours * 1e3:8.1f} ms {theirs * 1e3:9.1f} ms "
                    f"{ours / theirs:6.3f} {gap:9.1e}"
                )


if __name__ == "__main__":
    main()
