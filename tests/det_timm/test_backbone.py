"""Models of timm as backbones: what comes out, what trains, what is refused."""

import copy
import logging

import pytest
import timm
import torch

from det_timm.backbone import TIMMBackbone
from det_timm.maps import plan_maps
from det_timm.zoo import class_of, default_variant
from detcore.config import Config
from detcore.errors import CheckpointError, ConfigError, RegistryError
from detcore.registry import MODELS


def outputs(backbone, size=(64, 96)):
    torch.manual_seed(0)
    return backbone.eval()(torch.rand(2, 3, *size))


@pytest.mark.parametrize(("kind", "name"), [
    ("timm.EfficientNet", "efficientnet_b0"),
    ("timm.efficientnet_b0", "efficientnet_b0"),
    ("timm.resnet18.a1_in1k", "resnet18.a1_in1k"),
    ("timm.TIMMBackbone", None),
    ("mmcls.TIMMBackbone", None),
    ("mmpretrain.TIMMBackbone", None),
])  # fmt: skip
def test_every_spelling_of_a_type_builds(kind, name):
    given = {} if name else {"model_name": "resnet18"}
    backbone = MODELS.build({"type": kind, **given})
    assert isinstance(backbone, TIMMBackbone)
    assert backbone.model_name == (name or "resnet18")


def test_a_class_takes_the_variant_that_is_named_and_no_other_classes():
    assert MODELS.build({"type": "timm.ResNet", "model_name": "resnet34"}).model_name == "resnet34"
    with pytest.raises(ConfigError, match=r"is of class 'EfficientNet'.*type='timm\.EfficientNet'"):
        MODELS.build({"type": "timm.ResNet", "model_name": "efficientnet_b0"})


REPRESENTATIVES = [
    "resnet18", "mobilenetv3_small_100", "swin_tiny_patch4_window7_224", "efficientnet_b0", "convnext_atto",
    "regnetx_002", "densenet121", "dla34", "hrnet_w18_small", "vgg11", "cspresnet50", "ghostnet_100",
    "mobilevit_xxs", "mobilenetv2_050", "pvt_v2_b0", "repvgg_a0", "res2net50_14w_8s", "resnest14d",
    "rexnet_100", "selecsls42", "seresnet18", "skresnet18", "edgenext_xx_small", "fastvit_t8", "hgnetv2_b0",
    "inception_next_atto", "mambaout_femto", "swinv2_tiny_window8_256", "tiny_vit_5m_224", "xception41",
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224",
    "xcit_nano_12_p16_224",
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [*REPRESENTATIVES[:3], *(pytest.param(each, marks=pytest.mark.slow) for each in REPRESENTATIVES[3:])],
)
def test_maps_are_those_of_timm(name):
    backbone = TIMMBackbone(name, pyramid=False)
    arguments = {key: value for key, value in backbone.arguments.items() if key != "in_chans"}
    chosen = {"out_indices": backbone.out_indices, **arguments}
    theirs = timm.create_model(name, features_only=True, **chosen).eval()
    theirs.load_state_dict(backbone.timm_model.state_dict())
    torch.manual_seed(0)
    image = torch.rand(2, 3, 64, 96)
    expected = theirs(image)
    assert len(expected) == len(backbone.out_channels)
    for ours, other in zip(backbone.eval()(image), expected, strict=True):
        other = other.permute(0, 3, 1, 2) if ours.shape != other.shape else other
        assert torch.equal(ours, other)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "hrnet_w18_small"]
)
def test_channels_and_strides_are_known_before_anything_is_computed(name):
    plan = plan_maps(name)
    backbone = TIMMBackbone(name)
    maps = outputs(backbone)
    assert [each.shape[1] for each in maps] == list(backbone.out_channels)
    assert [(64 / each.shape[2], 96 / each.shape[3]) for each in maps] == [
        (s, s) for s in backbone.out_strides
    ]
    assert plan.resampled == (name == "vit_tiny_patch16_224")


def test_a_plain_transformer_gives_four_scales_of_its_last_map_or_of_four_chosen_ones():
    last = TIMMBackbone("vit_tiny_patch16_224")
    four = TIMMBackbone("vit_tiny_patch16_224", out_indices=(2, 5, 8, 11))
    plain = TIMMBackbone("vit_tiny_patch16_224", out_indices=(5, 11), pyramid=False)
    assert last.out_strides == four.out_strides == (4, 8, 16, 32)
    assert plain.out_strides == (16, 16)
    assert [tuple(each.shape[2:]) for each in outputs(last)] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_transformer_takes_images_that_its_patches_do_not_divide(name):
    assert outputs(TIMMBackbone(name), (50, 70))[2].shape[2:] == (4, 5)


def test_frozen_stages_neither_train_nor_count_batches():
    backbone = TIMMBackbone("resnet18", frozen_stages=1).train()
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    before = backbone.timm_model.bn1.running_mean.clone()
    sum(each.mean() for each in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert torch.equal(backbone.timm_model.bn1.running_mean, before)
    assert backbone.timm_model.layer4[0].bn1.training


def test_activations_that_are_computed_again_give_the_same_gradients():
    torch.manual_seed(0)
    kept = TIMMBackbone("resnet18").train()
    again = TIMMBackbone("resnet18", with_cp=True).train()
    again.load_state_dict(kept.state_dict())
    image = torch.rand(2, 3, 64, 64)
    for backbone in (kept, again):
        sum(each.square().mean() for each in backbone(image)).backward()
    for ours, other in zip(kept.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
def test_depths_of_layers_grow_from_the_stem(name):
    backbone = TIMMBackbone(name)
    depths = backbone.layer_ids()
    assert set(depths) == {n for n, _ in backbone.named_parameters() if n.startswith("timm_model")}
    first = next(iter(depths.values()))
    assert first == 0
    assert max(depths.values()) >= 4


def test_other_channels_of_the_image():
    backbone = TIMMBackbone("resnet18", in_channels=5)
    assert backbone(torch.rand(1, 5, 64, 64))[0].shape == (1, 64, 16, 16)


def test_weights_of_the_whole_model_from_a_local_file(tmp_path):
    whole = timm.create_model("resnet18")
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    backbone = TIMMBackbone("resnet18", checkpoint_path=str(tmp_path / "resnet18.pth"))
    backbone.init_weights()
    assert torch.equal(backbone.timm_model.conv1.weight, whole.conv1.weight)
    assert torch.equal(backbone.timm_model.layer4[1].conv2.weight, whole.layer4[1].conv2.weight)


def test_safetensors_of_another_number_of_channels_are_adapted(tmp_path):
    from safetensors.torch import save_file

    whole = timm.create_model("resnet18")
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "resnet18.safetensors")
    backbone = TIMMBackbone("resnet18", in_channels=1, checkpoint_path=str(tmp_path / "resnet18.safetensors"))
    backbone.init_weights()
    torch.testing.assert_close(backbone.timm_model.conv1.weight, whole.conv1.weight.sum(1, keepdim=True))


def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path):
    torch.save(timm.create_model("efficientnet_b0").state_dict(), tmp_path / "other.pth")
    backbone = TIMMBackbone("resnet18", checkpoint_path=str(tmp_path / "other.pth"))
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(CheckpointError, match="resnet18"):
        backbone.init_weights()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_weights_that_cannot_be_reached_say_so(monkeypatch):
    monkeypatch.setenv("DETCORE_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="checkpoint_path"):
        TIMMBackbone("resnet18", pretrained=True).init_weights()


def test_a_detector_normalises_as_the_weights_expect(tmp_path, caplog):
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "w.pth")
    config = Config.fromfile("detcore::retinanet/retinanet_r50_fpn_1x_coco.py").model
    config.backbone = {"type": "timm.vit_tiny_patch16_224", "checkpoint_path": str(tmp_path / "w.pth")}
    config.neck.in_channels = [48, 96, 192, 192]
    with caplog.at_level(logging.WARNING):
        MODELS.build(config)
    assert "expect mean (127.5, 127.5, 127.5)" in caplog.text
    config.data_preprocessor = {"type": "DetDataPreprocessor", "pad_size_divisor": 32}
    detector = MODELS.build(config)
    assert detector.data_preprocessor.mean.flatten().tolist() == [127.5] * 3
    assert detector.data_preprocessor.turn_channels


@pytest.mark.parametrize(("arguments", "message"), [
    ({"model_name": "efficentnet_b0"}, "did you mean 'efficientnet_b0'"),
    ({"model_name": "resnet50.no_such_tag"}, r"resnet50\.a1_in1k"),
    ({"model_name": "resnet18", "out_indices": (1, 7)}, "no map 7; it has 0: stride 2"),
    ({"model_name": "resnet18", "out_indices": (3, 1)}, "must ascend"),
    ({"model_name": "resnet18", "pyramid": True}, "maps of one stride"),
    ({"model_name": "resnet18", "no_such_argument": 1}, "no_such_argument"),
    ({"model_name": "resnet18", "pretrained": True, "checkpoint_path": "x.pth"}, "one of pretrained"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TIMMBackbone(**arguments)


def test_an_unknown_type_names_close_ones():
    with pytest.raises((ConfigError, RegistryError), match=r"timm\.EfficientNet"):
        MODELS.build({"type": "timm.EficientNet"})


@pytest.mark.parametrize(
    "name", ["EfficientNet", "ResNet", "SwinTransformer", "VisionTransformer", "ConvNeXt"]
)
def test_the_model_that_a_class_means_is_of_that_class(name):
    assert class_of(default_variant(name)) == name


def test_a_model_that_rescales_its_input_by_itself_says_so():
    backbone = TIMMBackbone("crossvit_tiny_240").eval()
    assert backbone(torch.rand(1, 3, 240, 240))[0].shape[2:] == (20, 20)
    with pytest.raises(ConfigError, match="rescales images"):
        backbone(torch.rand(1, 3, 112, 112))
