"""What ``detcore predict`` does once its arguments are known."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from detcore.apis import DetInferencer
from detcore.apis.inferencer import Prediction
from detcore.config import parse_cfg_options
from detcore.visualization.backends import write_image

_LEAST_SIDE = 400  # pixels of a written picture's shorter side


def predict(
    inputs: list[str],
    *,
    config: str | None,
    checkpoint: str,
    out_dir: str,
    score_thr: float,
    device: str | None,
    batch_size: int,
    json_file: str | None,
    polygons: bool,
    no_images: bool,
    skip_bad: bool,
    cfg_options: tuple[str, ...],
    trust_config: bool,
) -> None:
    """Predict, draw, write; one line on the terminal for each image."""
    inferencer = DetInferencer(
        config, checkpoint, device, cfg_options=parse_cfg_options(cfg_options), trust=trust_config
    )
    classes = inferencer.model.dataset_meta.get("classes") or ()
    skipped: list[str] = []
    seen = 0
    with _json_lines(json_file) as lines:
        found_ones = inferencer.iterate(
            inputs, batch_size, on_bad_image="skip" if skip_bad else "raise", skipped=skipped
        )
        for found in found_ones:
            seen += 1
            record = found.as_dict(score_thr, polygons)
            if lines is not None:
                names = [_class_name(label, classes) for label in record["labels"]]
                lines.write(json.dumps({**record, "classes": names}) + "\n")
            line = f"{found.path}: {_counted(record['labels'], classes)}"
            if not no_images:
                picture = Path(out_dir) / "vis" / found.file_name
                write_image(picture, inferencer.draw(found, score_thr, scale=_scale(found)))
                line += f" -> {picture}"
            click.echo(line, err=json_file == "-")
    if skipped:
        click.echo(f"{len(skipped)} of {seen + len(skipped)} images could not be read", err=True)


@contextlib.contextmanager
def _json_lines(name: str | None) -> Iterator[TextIO | None]:
    if name is None:
        yield None
    elif name == "-":
        yield sys.stdout
    else:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with Path(name).open("w", encoding="utf-8") as file:
            yield file


def _scale(found: Prediction) -> int:
    """By how much to enlarge a picture so that labels leave something of it."""
    side = _LEAST_SIDE if found.image is None else min(found.image.shape[:2])
    return max(1, -(-_LEAST_SIDE // side))


def _counted(labels: list[int], classes: Any) -> str:
    counts = Counter(_class_name(label, classes) for label in labels)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"


def _class_name(label: int, classes: Any) -> str:
    return str(classes[label]) if label < len(classes) else f"class {label}"
