"""Loss and backward of RetinaNet R50: what the detector adds to its bare network; torchvision's beside it.

    python benchmarks/train_step.py                                 # CPU, float32 and bfloat16
    python benchmarks/train_step.py --device cuda --batch 16 --size 800 1344
    python benchmarks/train_step.py --rounds 1 --size 64 96         # does it run at all
    python benchmarks/train_step.py --only float32 --config configs/timm_example/...b1_fpn_1x_coco.py

The bare network is the same model's backbone, neck and head convolutions, with the sum of all outputs for a
loss. All get the same normalised images and boxes, in turns, and ratios are taken within a round: what else
the machine does then falls on all of them.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from detcore.config import Config
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData

CONFIG = Path(__file__).parents[1] / "configs/retinanet/retinanet_r50_fpn_1x_coco.py"
NUM_CLASSES = 80
Run = Callable[[], None]


def parser_of(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--boxes", type=int, default=8, help="boxes an image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", type=Path, default=CONFIG, help="a RetinaNet of 80 classes")
    parser.add_argument("--threads", type=int, help="as many as torch takes where left out")
    parser.add_argument("--only", nargs="+", help="rows whose name holds one of these words")
    return parser


def our_model(device: str, config: Path = CONFIG) -> nn.Module:
    cfg = Config.fromfile(config).model
    cfg.backbone.init_cfg = None
    cfg.backbone.pop("pretrained", None)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.to(device)


class _AsTheyAre(nn.Module):
    """In place of torchvision's resizing and normalising: both sides get images that are ready."""

    def forward(self, images: list[Tensor], targets: list | None = None) -> tuple:
        batch = torch.stack(images)
        sizes = [tuple(image.shape[-2:]) for image in images]
        return torchvision.models.detection.image_list.ImageList(batch, sizes), targets

    def postprocess(self, result: list, image_shapes: list, original_image_sizes: list) -> list:
        return result


def torchvision_model(device: str) -> nn.Module:
    model = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES
    )
    # Without pretrained weights it trains all its layers; ours has stem and first stage frozen, as its config
    # says.
    for name, parameter in model.backbone.body.named_parameters():
        if not name.startswith(("layer2", "layer3", "layer4")):
            parameter.requires_grad_(False)
    model.transform = _AsTheyAre()
    model.train()
    for module in model.backbone.body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # ours has norm_eval
    return model.to(device)


def made_up_batch(args: argparse.Namespace) -> tuple[Tensor, list[DetDataSample]]:
    """Normalised images ``Tensor[B, 3, H, W]`` and samples, boxes of 24 pixels to two thirds of the image."""
    height, width = args.size
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(args.batch, 3, height, width, generator=generator).to(args.device)
    samples = []
    for number in range(args.batch):
        sides = torch.rand(args.boxes, 2, generator=generator) * torch.tensor([width, height]) * 0.6 + 24
        corner = torch.rand(args.boxes, 2, generator=generator) * (
            torch.tensor([width, height]) - sides
        ).clamp(min=0)
        labels = torch.randint(0, NUM_CLASSES, (args.boxes,), generator=generator)
        shape = (height, width)
        sample = DetDataSample(
            metainfo={
                "img_id": number,
                "img_shape": shape,
                "ori_shape": shape,
                "pad_shape": shape,
                "batch_input_shape": shape,
                "scale_factor": (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(bboxes=torch.cat((corner, corner + sides), 1), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample.to(args.device))
    return inputs, samples


def total(losses: dict[str, Tensor | list[Tensor]]) -> Tensor:
    return sum(part for value in losses.values() for part in (value if isinstance(value, list) else [value]))


def autocast(device: str, on: bool) -> contextlib.AbstractContextManager:
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=on)


def rows(args: argparse.Namespace) -> dict[str, Run]:
    inputs, samples = made_up_batch(args)
    ours = our_model(args.device, args.config).train()
    last = our_model(args.device, args.config).train().to(memory_format=torch.channels_last)
    theirs = torchvision_model(args.device)
    images = list(inputs)
    targets = [{"boxes": s.gt_instances.bboxes, "labels": s.gt_instances.labels} for s in samples]

    def step(model: nn.Module, loss: Callable[[], Tensor], bf16: bool) -> Run:
        def run() -> None:
            model.zero_grad(set_to_none=True)
            with autocast(args.device, bf16):
                value = loss()
            value.backward()

        return run

    def bare(model: nn.Module, batch: Tensor) -> Callable[[], Tensor]:
        return lambda: sum(level.sum(dtype=torch.float32) for levels in model(batch) for level in levels)

    def full(model: nn.Module, batch: Tensor) -> Callable[[], Tensor]:
        return lambda: total(model(batch, samples, mode="loss"))

    table: dict[str, Run] = {}
    inputs_last = inputs.to(memory_format=torch.channels_last)
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        table[f"bare network, {name}"] = step(ours, bare(ours, inputs), bf16)
        table[f"detcore, {name}"] = step(ours, full(ours, inputs), bf16)
        table[f"torchvision, {name}"] = step(theirs, lambda: total(theirs(images, targets)), bf16)
        table[f"bare network, {name}, channels_last"] = step(last, bare(last, inputs_last), bf16)
        table[f"detcore, {name}, channels_last"] = step(last, full(last, inputs_last), bf16)
    return table


def measure(table: dict[str, Run], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every round, in turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in table}
    for number in range(args.rounds + 1):
        for name, run in table.items():
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds: dict[str, list[float]], pairs: list[tuple[str, str]]) -> None:
    """A line a row, then the ratios of pairs: the median over rounds, the least and the greatest."""
    for name, values in seconds.items():
        print(f"{name:42} {statistics.median(values) * 1e3:9.1f} ms   (best {min(values) * 1e3:.1f})")
    for one, other in pairs:
        if one in seconds and other in seconds:
            ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{one} / {other}: {statistics.median(ratios):.3f}   ({spread})")


def chosen(table: dict[str, Run], args: argparse.Namespace) -> dict[str, Run]:
    return {
        name: run for name, run in table.items() if not args.only or any(word in name for word in args.only)
    }


def main(argv: list[str] | None = None) -> None:
    args = parser_of(__doc__).parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    height, width = args.size
    print(
        f"{args.config.stem}, {args.batch}x3x{height}x{width}, {args.boxes} boxes an image, {args.device}, ",
        end="",
    )
    print(f"{torch.get_num_threads()} threads, {args.rounds} rounds, torch {torch.__version__}")
    seconds = measure(chosen(rows(args), args), args)
    report(
        seconds,
        [
            ("detcore, float32", "bare network, float32"),
            ("detcore, float32", "torchvision, float32"),
            ("detcore, float32, channels_last", "bare network, float32, channels_last"),
            ("detcore, bfloat16", "bare network, bfloat16"),
            ("detcore, bfloat16", "torchvision, bfloat16"),
            ("detcore, bfloat16, channels_last", "bare network, bfloat16, channels_last"),
            ("detcore, float32", "detcore, bfloat16"),
            ("detcore, float32", "detcore, bfloat16, channels_last"),
        ],
    )


if __name__ == "__main__":
    main()
