"""Transforms without randomness, held against the recorded results of the reference."""
import importlib.util
import json

import pytest

from detcore.registry import TRANSFORMS
from detcore.structures.mask import BitmapMasks, PolygonMasks

NAMES = (
    "AutoContrast", "Brightness", "Color", "ColorTransform", "Contrast", "Equalize", "FilterAnnotations",
    "FixShapeResize", "Invert", "Pad", "Posterize", "RandomFlip", "Resize", "Rotate", "SegRescale",
    "Sharpness", "ShearX", "ShearY", "Solarize", "SolarizeAdd", "TranslateX", "TranslateY",
)  # fmt: skip


@pytest.mark.shared
def test_every_record_is_looked_at(shared):
    records = json.loads(shared("golden/transforms.json").read_text())
    assert {record["cfg"]["type"] for record in records} == set(NAMES)


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_results_equal_the_reference(shared, name):
    spec = importlib.util.spec_from_file_location("check_transforms", shared("golden/check_transforms.py"))
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    records = json.loads(shared("golden/transforms.json").read_text())
    chosen = [record for record in records if record["cfg"]["type"] == name]
    assert len(chosen) >= 2
    for record in chosen:
        given = check.results(record["masks"], lambda boxes: boxes, BitmapMasks, PolygonMasks)
        out = TRANSFORMS.build(check.tuples(record["cfg"]))(given)
        assert check.differences(check.digest(out), record["out"]) == [], (record["name"], record["masks"])
