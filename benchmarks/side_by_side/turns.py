"""Rows that take turns: options, rounds, medians and ratios within a round."""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from detcore.config import Config

Run = Callable[[], object]
Seconds = dict[str, list[float]]
Pair = tuple[str, str]


def parser_of(description: str, config: Path, kind: str = "a RetinaNet") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--boxes", type=int, default=8, help="boxes an image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", type=Path, default=config, help=f"{kind} of 80 classes")
    parser.add_argument("--threads", type=int, help="as many as torch takes where left out")
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="count processor time, where others use the machine, too"
    )
    parser.add_argument("--only", nargs="+", help="rows whose name holds one of these words")
    return parser


def parsed(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """The options; threads are set, and a line says what is measured."""
    args = parser.parse_args(argv)
    args.num_classes = _classes_of(args.config)
    if args.threads:
        torch.set_num_threads(args.threads)
    height, width = args.size
    print(f"{args.config.stem}, {args.batch}x3x{height}x{width}, {args.boxes} boxes an image, ", end="")
    print(f"{args.device}, {torch.get_num_threads()} threads, ", end="")
    print(f"{args.rounds} rounds{', processor seconds' * args.cpu_seconds}, torch {torch.__version__}")
    return args


def _classes_of(config: Path) -> int:
    model = Config.fromfile(config).model
    model = model.get("detector", model)  # of a teacher and its student
    head = model.get("bbox_head") or model.roi_head.bbox_head
    return int(head.num_classes)


def autocast(device: str, on: bool) -> contextlib.AbstractContextManager:
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=on)


def total(losses: dict[str, Tensor | list[Tensor]]) -> Tensor:
    """The sum of all entries but those that are only logged (``acc``)."""
    parts = [value for name, value in losses.items() if name != "acc"]
    return sum(part for value in parts for part in (value if isinstance(value, list) else [value]))


def step(model: nn.Module, loss: Callable[[], Tensor], device: str, bf16: bool) -> Run:
    """Forward and backward; no optimiser."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(device, bf16):
            value = loss()
        value.backward()

    return run


def without_grad(call: Run, device: str, bf16: bool) -> Run:
    def run() -> object:
        with torch.no_grad(), autocast(device, bf16):
            return call()

    return run


def chosen(table: dict[str, Run], args: argparse.Namespace) -> dict[str, Run]:
    return {
        name: run for name, run in table.items() if not args.only or any(word in name for word in args.only)
    }


def measure(table: dict[str, Run], args: argparse.Namespace) -> Seconds:
    """Seconds of every round, in turns, after one round that does not count."""
    clock = time.process_time if args.cpu_seconds else time.perf_counter
    seconds: Seconds = {name: [] for name in table}
    for number in range(args.rounds + 1):
        for name, run in table.items():
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            start = clock()
            run()
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:
                seconds[name].append(clock() - start)
    return seconds


def report(seconds: Seconds, pairs: list[Pair], goals: dict[Pair, float] | None = None) -> None:
    """A line a row, then the ratios of pairs: the median over rounds, the least and the greatest."""
    width = max([42, *map(len, seconds)])
    for name, values in seconds.items():
        print(f"{name:{width}} {statistics.median(values) * 1e3:9.1f} ms   (best {min(values) * 1e3:.1f})")
    for one, other in pairs:
        if one in seconds and other in seconds:
            ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            goal = (goals or {}).get((one, other))
            wanted = "" if goal is None else f"   goal: at most {goal:.2f}"
            print(f"{one} / {other}: {statistics.median(ratios):.3f}   ({spread}){wanted}")
