"""A tiny detector, data set, metric and hook for tests of the engine; loaded as a user's module."""
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from detcore.data.transforms.compose import Compose
from detcore.engine.hooks import Hook
from detcore.evaluation import Metric
from detcore.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from detcore.structures import DetDataSample, InstanceData


@DATASETS.register_module()
class ToyDataset:
    """Pictures of noise whose brightness is their label; augmented at random.

    Args:
        length: Number of samples.
        noisy: Whether samples are augmented.
        bad: Index of a sample that makes the loss infinite.
        stuck: Index of a sample that never comes.
    """

    def __init__(self, length=16, noisy=True, bad=None, stuck=None, classes=("dark", "bright")):
        self.length, self.noisy, self.bad, self.stuck = length, noisy, bad, stuck
        self.metainfo = {"classes": classes}

    def __len__(self):
        return self.length

    def full_init(self):
        """Nothing to do."""

    def get_data_info(self, idx):
        return {"img_path": f"img_{idx}.png", "img_id": idx, "height": 8, "width": 8}

    def get_cat_ids(self, idx):
        return [idx % 2]

    def __getitem__(self, idx):
        if idx == self.stuck:
            import time

            time.sleep(1000)
        generator = torch.Generator().manual_seed(idx)
        image = torch.rand(3, 8, 8, generator=generator) + idx % 2
        if self.noisy:
            image = image + 0.1 * torch.randn(3, 8, 8) + np.random.rand() + random.random()
        if idx == self.bad:
            image = image * float("inf")
        sample = DetDataSample(
            metainfo={
                "img_id": idx,
                "img_path": f"img_{idx}.png",
                "ori_shape": (8, 8),
                "img_shape": (8, 8),
                "scale_factor": (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(labels=torch.tensor([idx % 2]))
        return {"inputs": image, "data_samples": sample}


@TRANSFORMS.register_module()
class ToyBrighten:
    """Adds to the picture, more or less.

    Args:
        by: How much.
    """

    def __init__(self, by):
        self.by = by

    def __call__(self, results):
        return {"inputs": results["inputs"] + self.by * (1 + 0.1 * np.random.rand())}


@TRANSFORMS.register_module()
class ToyBrightenAll(ToyBrighten):
    """The same for a sample with annotations."""

    def __call__(self, results):
        return {**results, **super().__call__(results)}


@DATASETS.register_module()
class ToyPiped(ToyDataset):
    """Toy pictures that go through a pipeline."""

    def __init__(self, pipeline: Annotated[Sequence[Callable], TRANSFORMS], **settings):
        super().__init__(**settings)
        self.pipeline = Compose(pipeline)

    def __getitem__(self, idx):
        sample = super().__getitem__(idx)
        return {**sample, **self.pipeline({"inputs": sample["inputs"]})}


@DATASETS.register_module()
class ToyMix:
    """Adds two pictures of a data set, until it is told to skip that."""

    def __init__(self, dataset: Annotated[Any, DATASETS]):
        self.dataset, self.metainfo, self.skipped = dataset, dataset.metainfo, ()

    def __len__(self):
        return len(self.dataset)

    def full_init(self):
        """Nothing to do."""

    def update_skip_type_keys(self, keys):
        self.skipped = keys

    def __getitem__(self, idx):
        sample = self.dataset[idx]
        if "MixUp" not in self.skipped:
            other = self.dataset[int(np.random.randint(len(self)))]
            sample["inputs"] = sample["inputs"] + 5 * other["inputs"]
        return sample


class Preprocessor(nn.Module):
    """Stacks the pictures."""

    def forward(self, data, training=False):
        return {"inputs": torch.stack(list(data["inputs"])).float(), "data_samples": data["data_samples"]}


@MODELS.register_module()
class ToyDetector(nn.Module):
    """A convolution, a batch norm, dropout and a linear layer.

    Args:
        width: Channels.
        dropout: Probability; draws from torch's generator.
        num_classes: Outputs.
    """

    def __init__(self, width=4, dropout=0.2, num_classes=2, norm=True):
        super().__init__()
        self.data_preprocessor = Preprocessor()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        self.num_classes = num_classes

    def init_weights(self):
        nn.init.normal_(self.head.weight, std=0.1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        features = torch.relu(self.norm(self.conv(inputs))).mean((2, 3))
        scores = self.head(self.drop(features))
        if mode == "loss":
            scores = scores * (1 + 0.01 * np.random.rand() + 0.01 * random.random())
            labels = torch.cat([sample.gt_instances.labels for sample in data_samples])
            return {
                "loss_cls": functional.cross_entropy(scores, labels),
                "loss_size": 0.01 * scores.pow(2).mean(),
                "acc": (scores.argmax(1) == labels).float().mean(),
            }
        if mode == "predict":
            for sample, row in zip(data_samples, scores.softmax(1), strict=True):
                sample.pred_instances = InstanceData(
                    bboxes=torch.tensor([[1.0, 1.0, 5.0, 5.0]]),
                    scores=row.max()[None],
                    labels=row.argmax()[None],
                )
            return data_samples
        return scores


@MODELS.register_module()
class ToyYOLOX(ToyDetector):
    """Has a loss more while ``bbox_head.use_l1`` is set."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.bbox_head = nn.Identity()
        self.bbox_head.use_l1 = False

    def forward(self, inputs, data_samples=None, mode="tensor"):
        result = super().forward(inputs, data_samples, mode)
        if mode == "loss" and self.bbox_head.use_l1:
            result["loss_l1"] = self.head.weight.abs().mean()
        return result


@METRICS.register_module()
class ToyMetric(Metric):
    """Share of pictures whose label was found."""

    default_prefix = "toy"

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            right = int(sample["pred_instances"]["labels"][0]) == int(sample["gt_instances"]["labels"][0])
            self.results.append(
                {
                    "id": sample["img_id"],
                    "right": right,
                    "score": float(sample["pred_instances"]["scores"][0]),
                }
            )

    def compute_metrics(self, results):
        return {
            "acc": sum(entry["right"] for entry in results) / len(results),
            "score": sum(entry["score"] for entry in results) / len(results),
            "count": len(results),
        }


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends a signal to its own process at one point of a run.

    Args:
        step: Zero-based step.
        point: before_train_iter, after_train_iter, val, before_save, writing or after_save.
        number: The signal; SIGKILL by default.
        times: How often it is sent.
    """

    priority = "LOWEST"

    def __init__(self, step, point="after_train_iter", number=int(signal.SIGKILL), times=1):
        self.step, self.point, self.number, self.times = step, point, number, times

    def _fire(self, runner, point):
        if point == self.point and runner.iter >= self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
            self.point = "never"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._fire(runner, "before_train_iter")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._fire(runner, "after_train_iter")

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._fire(runner, "val")

    def before_save_checkpoint(self, runner, checkpoint):
        self._fire(runner, "before_save")
        if self.point == "writing" and runner.iter >= self.step:
            _kill_while_writing(Path(runner.work_dir), self.number)

    def after_save_checkpoint(self, runner, checkpoint):
        self._fire(runner, "after_save")


def _kill_while_writing(folder, number):
    """Send the signal as soon as a file in the folder is synced to disk, before it is renamed."""
    sync = os.fsync

    def kill(descriptor):
        os.kill(os.getpid(), number)
        return sync(descriptor)

    os.fsync = kill


@HOOKS.register_module()
class CountingHook(Hook):
    """Counts steps, and remembers the count over a resume."""

    def __init__(self):
        self.count = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@HOOKS.register_module()
class BrightnessHook(Hook):
    """Writes the mean brightness of each step's pictures, and who loaded them."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        mean = float(torch.stack(list(data_batch["inputs"])).mean())
        self.seen.append((runner.epoch, mean, sorted(outputs)))


@HOOKS.register_module()
class ParametersHook(Hook):
    """Writes each process's parameters at the end, and what it was shown."""

    def __init__(self):
        self.images = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.images.append([sample.img_id for sample in data_batch["data_samples"]])

    def after_train(self, runner):
        state = {name: value.clone() for name, value in runner.model.state_dict().items()}
        torch.save({"state": state, "images": self.images}, Path(runner.work_dir) / f"rank_{runner.rank}.pt")
