"""What every argument of the backbone means, and what it refuses."""

import copy
import inspect
import logging
import pickle

import pytest
import timm
import torch

from det_timm import zoo
from det_timm.backbone import TIMMBackbone
from detcore.engine.check import check_config
from detcore.errors import ConfigError
from detcore.registry import MODELS

KINDS = {  # of timm's wrappers around a model -> a small model
    "FeatureListNet": "resnet18",
    "EfficientNetFeatures": "efficientnet_b0",
    "MobileNetV3Features": "mobilenetv3_small_050",
    "HighResolutionNetFeatures": "hrnet_w18_small",
    "FeatureGetterNet": "vit_tiny_patch16_224",
    "FeatureHookNet": "pit_ti_224",
}
PLAIN = {"pyramid": False}


def run(backbone, size=(64, 64), channels=3):
    torch.manual_seed(3)
    return backbone(torch.rand(2, channels, *size))


def size_of(name):
    return (224, 224) if name.startswith("pit") else (64, 64)


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_the_examples_are_of_all_of_timms_wrappers(kind, name):
    assert type(zoo.on_meta(name, features_only=True)).__name__ == kind


def test_the_whole_model_gives_its_last_map_as_mmpretrain_does():
    whole = MODELS.build({"type": "mmpretrain.TIMMBackbone", "model_name": "efficientnet_b0"})
    model = timm.create_model("efficientnet_b0").eval()
    model.reset_classifier(0, "")
    model.load_state_dict(whole.timm_model.state_dict(), strict=True)
    (ours,) = run(whole.eval())
    torch.manual_seed(3)
    assert torch.equal(ours, model(torch.rand(2, 3, 64, 64)))
    assert (whole.out_channels, whole.out_strides) == ((1280,), (32,))


def test_the_last_map_of_a_whole_swin_is_channels_first():
    whole = TIMMBackbone("swin_tiny_patch4_window7_224", features_only=False).eval()
    assert run(whole)[0].shape == (2, 768, 2, 2)


def test_mmpretrains_backbone_gives_all_maps_where_none_are_chosen():
    theirs = MODELS.build({"type": "mmcls.TIMMBackbone", "model_name": "resnet18", "features_only": True})
    assert theirs.out_strides == (2, 4, 8, 16, 32)
    assert TIMMBackbone("resnet18").out_strides == (4, 8, 16, 32)
    names = timm.create_model("resnet18", features_only=True).state_dict().keys()
    assert list(theirs.state_dict()) == [f"timm_model.{name}" for name in names]


@pytest.mark.parametrize(
    ("chosen", "strides"), [((-1,), (32,)), ((-2, -1), (16, 32)), ([1, -1], (4, 32)), (2, (8,))]
)
def test_maps_are_counted_from_the_finest_or_from_the_coarsest(chosen, strides):
    backbone = TIMMBackbone("resnet18", out_indices=chosen)
    assert backbone.out_strides == strides
    assert [64 // each.shape[2] for each in run(backbone)] == list(strides)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_pyramid_is_made_of_one_to_four_maps(number):
    chosen = (2, 5, 8, 11)[-number:]
    backbone = TIMMBackbone("vit_tiny_patch16_224", out_indices=chosen)
    maps = run(backbone)
    assert [64 / each.shape[2] for each in maps] == list(backbone.out_strides)
    assert [each.shape[1] for each in maps] == list(backbone.out_channels)
    assert backbone.out_strides == (4, 8, 16, 32)[: 4 if number == 1 else number]


def test_more_than_four_maps_of_a_plain_transformer_stay_as_they_are():
    assert TIMMBackbone("vit_tiny_patch16_224", out_indices=(1, 3, 5, 7, 9)).out_strides == (16,) * 5


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_images_of_other_channels(name, channels):
    assert run(TIMMBackbone(name, in_channels=channels), channels=channels)[0].shape[2] == 16


@pytest.mark.parametrize("name", [*KINDS.values(), "swin_tiny_patch4_window7_224"])
def test_activations_computed_again_give_the_same_gradients(name):
    torch.manual_seed(0)
    if name.startswith("hrnet"):  # timm cannot
        with pytest.raises(ConfigError, match="with_cp=False"):
            TIMMBackbone(name, with_cp=True)
        return
    again = TIMMBackbone(name, with_cp=True, **PLAIN).train()
    kept = TIMMBackbone(name, **PLAIN).train()
    kept.load_state_dict(again.state_dict())
    for backbone in (kept, again):
        torch.manual_seed(4)
        sum(each.square().mean() for each in run(backbone, size_of(name))).backward()
    checked = 0
    for ours, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-5)
            checked += 1
    assert checked > 20


FAMILIES = [
    "swin_tiny_patch4_window7_224", "convnext_atto", "regnetx_002", "xcit_nano_12_p16_224", "mvitv2_tiny",
    "twins_svt_small", "deit_tiny_distilled_patch16_224", "mobilevit_xxs", "pvt_v2_b0", "coat_mini",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        *((name, None) for name in KINDS.values()),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in FAMILIES),
        ("efficientnet_b0", (1, 2)),
        ("hrnet_w18_small", (1, 2)),
        ("vit_tiny_patch16_224", (3, 5)),
        ("crossvit_tiny_240", (1,)),
        pytest.param("coat_mini", (3,), marks=pytest.mark.slow),
    ],
)
def test_every_parameter_that_trains_has_a_gradient(name, chosen):
    with torch.device("meta"):
        backbone = TIMMBackbone(name, out_indices=chosen).train()
    size = 240 if name.startswith("crossvit") else 224
    sum(each.mean() for each in backbone(torch.rand(2, 3, size, size, device="meta"))).backward()
    assert not [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert sum(p.requires_grad for p in backbone.parameters()) > 20


@pytest.mark.parametrize("name", KINDS.values())
def test_frozen_stages_stay_as_they_are_and_those_behind_them_train(name):
    if name == "pit_ti_224":
        with pytest.raises(ConfigError, match="does not tell the stages"):
            TIMMBackbone(name, frozen_stages=0)
        return
    stem, more = (TIMMBackbone(name, frozen_stages=number, **PLAIN) for number in (0, 1))
    assert 0 < count_frozen(stem) < count_frozen(more) < len(list(more.parameters()))
    names = {n for n, p in stem.named_parameters() if not p.requires_grad}
    first = next(n for n, _ in stem.named_parameters())
    assert first in names
    if name.startswith("vit"):
        assert "timm_model.model.pos_embed" in names
    with pytest.raises(ConfigError, match="has stages 0 to"):
        TIMMBackbone(name, frozen_stages=99)


def count_frozen(backbone):
    return sum(not each.requires_grad for each in backbone.parameters())


def test_nothing_is_dropped_in_frozen_stages():
    backbone = TIMMBackbone("convnext_atto", frozen_stages=1, drop_path_rate=0.5).train()
    dropping = {name: m.training for name, m in backbone.named_modules() if type(m).__name__ == "DropPath"}
    assert not any(training for name, training in dropping.items() if "stages_0" in name)
    assert all(training for name, training in dropping.items() if "stages_3" in name)


def test_models_whose_stages_timm_does_not_tell_are_counted_by_their_parts():
    backbone = TIMMBackbone("poolformer_s12", frozen_stages=1)
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "stages_0", "stages_1"}


def test_batch_norms_stay_in_evaluation_where_asked_for():
    norms = [
        m for m in TIMMBackbone("resnet18", norm_eval=True).train().modules() if hasattr(m, "running_mean")
    ]
    assert norms
    assert not any(each.training for each in norms)
    assert TIMMBackbone("resnet18").train().timm_model.bn1.training


@pytest.mark.parametrize("name", KINDS.values())
def test_a_backbone_is_copied_and_pickled(name):
    backbone = TIMMBackbone(name).eval()
    maps = run(backbone, size_of(name))
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        again = run(twin, size_of(name))
        assert all(torch.equal(one, two) for one, two in zip(maps, again, strict=True))
        with torch.no_grad():
            next(twin.parameters()).add_(1)
        assert not torch.equal(next(twin.parameters()), next(backbone.parameters()))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_pixels_may_lie_channels_last(name):
    backbone = TIMMBackbone(name).eval()
    image = torch.rand(2, 3, 64, 96)
    pairs = zip(backbone(image), backbone(image.contiguous(memory_format=torch.channels_last)), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_an_argument_of_the_model_arrives_and_an_unknown_one_names_its_neighbours():
    assert len(TIMMBackbone("vit_tiny_patch16_224", depth=6).timm_model.model.blocks) == 6
    with pytest.raises(ConfigError, match=r"drop_path_rat.*did you mean 'drop_path_rate'"):
        TIMMBackbone("resnet18", drop_path_rat=0.1)
    with pytest.raises(ConfigError, match=r"frozen_stage'; did you mean 'frozen_stages'"):
        TIMMBackbone("resnet18", frozen_stage=1)
    with pytest.raises(ConfigError, match="write in_channels"):
        TIMMBackbone("resnet18", in_chans=1)


def test_the_backbones_own_arguments_are_all_offered():
    model_name, *own, kwargs = inspect.signature(TIMMBackbone).parameters
    assert (model_name, kwargs) == ("model_name", "kwargs")
    assert list(zoo.BACKBONE_ARGUMENTS) == own


@pytest.mark.parametrize("norm", ["BN", "batchnorm2d"])
def test_a_norm_layer_goes_by_the_registrys_name_or_by_timms(norm):
    backbone = TIMMBackbone("resnet18", norm_layer=norm)
    assert type(backbone.timm_model.bn1).__name__ == "BatchNorm2d"


def test_a_name_that_timm_has_given_up_is_followed_with_one_warning(caplog):
    zoo._renamed.cache_clear()
    with caplog.at_level(logging.WARNING):
        first = TIMMBackbone("tv_resnet50")
        MODELS.build({"type": "timm.tv_resnet50"})
    assert first.model_name == "resnet50.tv_in1k"
    assert [each.message for each in caplog.records] == [
        "timm calls the model 'tv_resnet50' 'resnet50.tv_in1k' today"
    ]


@pytest.mark.parametrize(
    "name", ["timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18"]
)
def test_names_as_the_hub_spells_them(name):
    assert TIMMBackbone(name).model_name.startswith("resnet18")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"pretrained": "resnet18.pth"}, "pretrained must be True or False.*checkpoint_path"),
    ({"checkpoint_path": None}, "checkpoint_path must be a string"),
    ({"checkpoint_path": "a.pth", "init_cfg": {"type": "Pretrained", "checkpoint": "b.pth"}}, "give one of"),
    ({"out_indices": "12"}, "must be integers"),
    ({"out_indices": ()}, "must be integers"),
    ({"out_indices": (1, True)}, "no map True"),
    ({"out_indices": (1.0,)}, "no map 1.0"),
    ({"out_indices": (1, 1)}, "must ascend"),
    ({"out_indices": (-9,)}, "no map -9"),
    ({"out_indices": (1,), "features_only": False}, "chooses maps of features_only=True"),
    ({"frozen_stages": -2}, "frozen_stages must be -1 or more"),
    ({"frozen_stages": "1"}, "frozen_stages must be -1 or more"),
    ({"model_name": None}, "no model None"),
    ({"model_name": "vit_tiny_patch16_224", "features_only": False}, r"gives no map but \(2, 197, 192\)"),
    ({"model_name": "hf-hub:somebody/net"}, "no model 'hf-hub:somebody/net'"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TIMMBackbone(**{"model_name": "resnet18", **arguments})


def test_a_neck_of_other_channels_is_found_before_anything_is_built():
    model = {
        "type": "RetinaNet",
        "backbone": {"type": "timm.efficientnet_b1"},
        "neck": {"type": "FPN", "in_channels": [24, 40, 112, 321], "out_channels": 256, "num_outs": 5},
        "bbox_head": {"type": "RetinaHead", "num_classes": 3, "in_channels": 256},
    }
    found = [each for each in check_config({"model": model}) if "in_channels" in each.path]
    assert "gives maps of [24, 40, 112, 320] channels" in found[0].message
    for told in ([24, 40, 112, 320], None, "auto"):
        model["neck"]["in_channels"] = told
        assert not [each for each in check_config({"model": model}) if "in_channels" in each.path]


def test_building_draws_the_same_weights_each_time():
    torch.manual_seed(5)
    first = TIMMBackbone("vit_tiny_patch16_224").state_dict()
    torch.manual_seed(5)
    second = TIMMBackbone("vit_tiny_patch16_224").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_it_compiles_without_a_break(name):
    backbone = TIMMBackbone(name).eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for one, two in zip(run(backbone), run(compiled), strict=True):
        torch.testing.assert_close(one, two)
