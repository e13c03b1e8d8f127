"""Masks as run lengths and as polygons, and back."""

import tracemalloc

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.structures.mask import (
    BitmapMasks,
    PolygonMasks,
    decode_masks,
    encode_mask,
    encode_masks,
    mask_polygons,
    masks_polygons,
    polygon_to_bitmap,
)

SHAPE = (60, 80)


def drawn(name):
    mask = np.zeros(SHAPE, np.uint8)
    if name == "ring":
        cv2.circle(mask, (30, 30), 20, 1, -1)
        cv2.circle(mask, (33, 28), 10, 0, -1)
    elif name == "two holes":
        mask[5:50, 5:70] = 1
        mask[10:20, 10:30] = mask[25:45, 40:60] = 0
    elif name == "diagonal":
        cv2.line(mask, (5, 5), (60, 40), 1, 1)
    elif name == "dot":
        mask[7, 9] = 1
    elif name == "small disc":
        cv2.circle(mask, (10, 10), 4, 1, -1)
    elif name == "corners":
        mask[:3, :4] = mask[57:, 77:] = 1
    elif name == "full":
        mask[:] = 1
    elif name == "star":
        radii = zip(np.arange(10) * np.pi / 5, [25, 9] * 5, strict=True)
        points = [(40 + radius * np.cos(angle), 30 + radius * np.sin(angle)) for angle, radius in radii]
        cv2.fillPoly(mask, [np.array(points).round().astype(np.int32)], 1)
    return mask


SHAPES = ["ring", "two holes", "diagonal", "dot", "small disc", "corners", "full", "star"]


@pytest.mark.parametrize("name", [*SHAPES, "nothing"])
def test_run_lengths_are_those_of_pycocotools(name):
    mask = drawn(name)
    encoded = encode_mask(mask)
    assert encoded["counts"] == coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    assert encoded["size"] == list(SHAPE)
    assert encode_mask(mask.astype(bool)) == encoded
    assert np.array_equal(decode_masks([encoded], *SHAPE)[0], mask)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_of_any_mask(height, width, seed, share):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    assert encode_mask(mask)["counts"] == coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


def test_every_kind_of_masks_is_encoded():
    masks = np.stack([drawn("ring"), drawn("nothing")])
    want = [encode_mask(mask) for mask in masks]
    polygons = PolygonMasks([[np.array([5.0, 5, 30, 5, 30, 40])]], *SHAPE)
    assert encode_masks(torch.from_numpy(masks).bool()) == want
    assert encode_masks(BitmapMasks(masks, *SHAPE)) == want
    assert encode_masks(polygons) == [encode_mask(polygons.to_ndarray()[0])]
    as_bytes = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    assert encode_masks(as_bytes) == want
    plain = {"size": [2, 3], "counts": [1, 2, 3]}
    assert np.array_equal(decode_masks(encode_masks([plain]), 2, 3)[0], [[0, 1, 0], [1, 0, 0]])
    assert encode_masks(torch.zeros(0, 5, 6)) == []
    assert decode_masks([], 5, 6).shape == (0, 5, 6)


def test_encoding_copies_the_box_not_the_image():
    masks = torch.zeros(20, 1000, 1000, dtype=torch.bool)
    masks[:, 300:500, 400:450] = True
    encode_masks(masks[:1])
    tracemalloc.start()
    encoded = encode_masks(masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert coco_mask.area(encoded[7]) == 10_000
    assert peak < 500_000


@pytest.mark.parametrize("name", SHAPES)
def test_polygons_fill_to_the_mask_again(name):
    mask = drawn(name)
    polygons = mask_polygons(mask)
    filled = polygon_to_bitmap([np.array(polygon) for polygon in polygons], *SHAPE)
    assert (filled & (mask > 0)).sum() / (filled | (mask > 0)).sum() >= 0.95
    exact = polygon_to_bitmap([np.array(p) for p in mask_polygons(mask, tolerance=0)], *SHAPE)
    assert (exact != mask).sum() <= 0.02 * mask.sum()
    assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)


def test_straight_edges_have_corners_only():
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:30, 20:50] = 1
    (polygon,) = mask_polygons(mask)
    corners = {tuple(point) for point in np.reshape(polygon, (-1, 2)).tolist()}
    assert corners == {(20.0, 10.0), (50.0, 10.0), (50.0, 30.0), (20.0, 30.0)}
    assert len(polygon) == 8


def test_a_mask_without_pixels_has_no_polygons():
    assert mask_polygons(np.zeros(SHAPE, np.uint8)) == []
    stack = torch.from_numpy(np.stack([drawn("nothing"), drawn("corners")]))
    assert [len(polygons) for polygons in masks_polygons(stack)] == [0, 2]
    assert masks_polygons(torch.zeros(0, *SHAPE)) == []
