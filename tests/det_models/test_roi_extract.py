"""Which feature map a region is pooled from, and what comes out."""

import pytest
import torch
from det_models.roi_extract import BaseRoIExtractor, SingleRoIExtractor
from torch import nn

from detcore.errors import ConfigError
from detcore.ops import roi_align
from detcore.registry import MODELS

STRIDES = [4, 8, 16, 32]


def extractor(**given):
    return MODELS.build(
        {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2},
            "out_channels": 6,
            "featmap_strides": STRIDES,
            **given,
        }
    )


@pytest.fixture
def maps():
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, 6, 256 // stride, 320 // stride, generator=random) for stride in STRIDES]


def square(side, image=0):
    return [image, 3.0, 5.0, 3.0 + side, 5.0 + side]


@pytest.mark.parametrize(
    ("side", "level"),
    [
        (1, 0),
        (56, 0),
        (111, 0),
        (111.9, 0),
        (112, 1),
        (223, 1),
        (223.8, 1),
        (224, 2),
        (447, 2),
        (448, 3),
        (1e4, 3),
        (0, 0),
    ],
)
def test_levels_change_where_the_side_doubles(side, level):
    assert extractor().map_roi_levels(torch.tensor([square(side)]), 4).tolist() == [level]


def test_width_and_height_count_by_their_product():
    rois = torch.tensor([[0, 0, 0, 448.0, 28.0], [0, 0, 0, 28.0, 448.0], [0, 0, 0, 448.0, 28.1]])
    assert extractor().map_roi_levels(rois, 4).tolist() == [1, 1, 1]  # sqrt(448 * 28) is 112
    assert extractor(finest_scale=113).map_roi_levels(rois[:2], 4).tolist() == [0, 0]
    assert extractor().map_roi_levels(torch.tensor([square(1e4)]), 2).tolist() == [1]


def test_each_region_is_pooled_from_its_level_and_image(maps):
    rois = torch.tensor([square(300, 1), square(20), square(120), square(60, 1), square(230)])
    pooled = extractor()(maps, rois)
    for row, roi, level in zip(pooled, rois, (2, 0, 1, 0, 2), strict=True):
        want = roi_align(maps[level], roi[None], 7, 1 / STRIDES[level], 2)[0]
        torch.testing.assert_close(row, want, rtol=1e-5, atol=1e-5)


def test_levels_beyond_the_strides_are_not_looked_at(maps):
    rois = torch.tensor([square(300, 1), square(20)])
    want = extractor()(maps, rois)
    assert torch.equal(extractor()([*maps, torch.full((2, 6, 4, 5), torch.nan)], rois), want)
    assert extractor().num_inputs == 4


def test_one_level_takes_all_regions(maps):
    rois = torch.tensor([square(300, 1), square(20)])
    pooled = extractor(featmap_strides=[16])(maps[2:3], rois)
    torch.testing.assert_close(pooled, roi_align(maps[2], rois, 7, 1 / 16, 2), rtol=1e-5, atol=1e-5)


def test_enlarged_regions_stay_on_their_level(maps):
    roi = torch.tensor([square(100)])  # level 0; 130 alone would be of level 1
    pooled = extractor()(maps, roi, roi_scale_factor=1.3)
    wide = torch.tensor([[0, 3 - 15.0, 5 - 15.0, 103 + 15.0, 105 + 15.0]])
    torch.testing.assert_close(extractor().roi_rescale(roi, 1.3), wide)
    torch.testing.assert_close(pooled, roi_align(maps[0], wide, 7, 1 / 4, 2), rtol=1e-5, atol=1e-5)


def test_no_regions_give_no_features_but_a_gradient_for_every_map(maps):
    maps = [each.requires_grad_() for each in maps]
    for rois in (torch.zeros(0, 5), torch.tensor([square(20)])):
        pooled = extractor()(maps, rois)
        assert pooled.shape == (len(rois), 6, 7, 7)
        gradients = torch.autograd.grad(pooled.sum(), maps)  # a map that takes no part would be an error
        assert all(not gradient.any() for gradient in gradients[len(rois) :])


def test_regions_may_be_rectangles_of_cells():
    made = extractor(roi_layer={"type": "RoIAlign", "output_size": (3, 5)})
    assert made.output_size == (3, 5)
    maps = [torch.rand(1, 6, 32 // stride, 32 // stride) for stride in STRIDES]
    assert made(maps, torch.tensor([square(20)])).shape == (1, 6, 3, 5)


@pytest.mark.parametrize(
    "given", [{"featmap_strides": []}, {"roi_layer": {"type": "RoIAlign", "output_sise": 7}}]
)
def test_mistakes_are_named_when_built(given):
    with pytest.raises(
        (ValueError, ConfigError), match=r"at least one feature map, got none|output_sise.*output_size"
    ):
        extractor(**given)


def test_fewer_maps_than_strides_are_named(maps):
    with pytest.raises(ValueError, match=r"pools from 4 feature maps \(strides \[4, 8, 16, 32\]\), got 3"):
        extractor()(maps[:3], torch.tensor([square(20)]))


def test_a_users_extractor_may_build_its_layers_from_a_config(maps):
    class Sum(BaseRoIExtractor):
        """Of all levels, in the manual's form: it takes the layer's config."""

        def __init__(self, roi_layer: dict, out_channels: int, featmap_strides: list) -> None:
            super().__init__(roi_layer, out_channels, featmap_strides)

        def forward(self, feats, rois, roi_scale_factor=None):
            return sum(layer(each, rois) for layer, each in zip(self.roi_layers, feats, strict=True))

    made = extractor(type=Sum)
    assert isinstance(made.roi_layers, nn.ModuleList)
    assert [layer.spatial_scale for layer in made.roi_layers] == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    rois = torch.tensor([square(60, 1)])
    want = sum(roi_align(m, rois, 7, 1 / s, 2) for m, s in zip(maps, STRIDES, strict=True))
    torch.testing.assert_close(made(maps, rois), want, rtol=1e-5, atol=1e-5)
    assert issubclass(SingleRoIExtractor, BaseRoIExtractor)
