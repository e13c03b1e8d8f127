"""Time and memory of pasting instance masks into an image: ours against torchvision, on the same masks.

    python benchmarks/mask_paste.py [--instances 100] [--height 1200] [--width 2000] [--runs 7] [--json FILE]

Ours is `detcore.ops.paste_masks`, which gives the booleans; torchvision's `paste_masks_in_image` gives
probabilities, to which the same threshold is applied in its time. Times are medians of runs in turn; peak
memory is what a process of its own grew by (its high-water mark with the pasting, less that without; Linux).
Goal: no slower, at a third of the memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detcore.ops import paste_masks

GOALS = {"seconds": 1.0, "megabytes": 1 / 3}


def make_masks(instances, height, width, seed=0):
    """Smooth masks of 28 x 28 and boxes from a twentieth to half of the image's sides, some reaching out."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(instances, 1, 7, 7, generator=generator)
    masks = torch.nn.functional.interpolate(masks, (28, 28), mode="bilinear")[:, 0]
    shares = 0.05 * 10 ** torch.rand(instances, 2, generator=generator)
    sides = shares * torch.tensor([width, height])
    centres = torch.rand(instances, 2, generator=generator) * torch.tensor([width, height])
    return masks, torch.cat([centres - sides / 2, centres + sides / 2], 1)


def paste_ours(masks, boxes, size):
    return paste_masks(masks, boxes, size)


def paste_torchvision(masks, boxes, size):
    return paste_masks_in_image(masks[:, None], boxes, size)[:, 0] >= 0.5


def paste_nothing(masks, boxes, size):
    return None


WAYS = {"ours": paste_ours, "torchvision": paste_torchvision, "nothing": paste_nothing}


def high_water(way, arguments):
    """Megabytes that a new process reaches when it pastes in that way."""
    command = [sys.executable, __file__, "--way", way, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(options):
    masks, boxes = make_masks(options.instances, options.height, options.width)
    size = (options.height, options.width)
    seconds = {name: [] for name in ("ours", "torchvision")}
    for number in range(options.runs + 1):
        for name, taken in seconds.items():
            start = time.perf_counter()
            WAYS[name](masks, boxes, size)
            if number:  # the first one warms up
                taken.append(time.perf_counter() - start)
    arguments = [f"--{name}={getattr(options, name)}" for name in ("instances", "height", "width")]
    idle = high_water("nothing", arguments)
    figures = {
        name: {"seconds": statistics.median(taken), "megabytes": high_water(name, arguments) - idle}
        for name, taken in seconds.items()
    }
    figures["result_megabytes"] = options.instances * options.height * options.width / 2**20
    differing = (paste_ours(masks, boxes, size) != paste_torchvision(masks, boxes, size)).float().mean()
    figures["differing_pixels"] = float(differing)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--height", type=int, default=1200)
    parser.add_argument("--width", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.way:
        kept = WAYS[options.way](
            *make_masks(options.instances, options.height, options.width), (options.height, options.width)
        )
        # Not resource.getrusage: its mark begins with that of the process that started this one.
        status = Path("/proc/self/status").read_text().split()
        print(int(status[status.index("VmHWM:") + 1]) / 1024)
        del kept
        return
    figures = measure(options)
    print(f"{options.instances} masks into {options.height} x {options.width}, "
          f"{torch.get_num_threads()} threads; {figures['differing_pixels']:.1e} of the pixels differ")
    print(f"{'':<12}{'ours':>10}{'torchvision':>14}{'ratio':>8}{'goal':>8}")
    for row, goal in GOALS.items():
        ours, theirs = figures["ours"][row], figures["torchvision"][row]
        print(f"{row:<12}{ours:>10.3f}{theirs:>14.3f}{ours / theirs:>8.2f}{goal:>8.2f}")
    print(f"the result itself: {figures['result_megabytes']:.0f} megabytes")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
