import gzip
import hashlib
import json
import logging
import types

import pytest
import torch
import torchvision
from det_backbones.resnet import ResNet, ResNetV1d
from det_backbones.resnext import ResNeXt
from torch import nn

from detcore.errors import CheckpointError, ConfigError
from detcore.registry import MODELS

GN = {"type": "GN", "num_groups": 32}
WS = {"type": "ConvWS"}
DCN = {"type": "DCN", "deform_groups": 1, "fallback_on_stride": False}
DCN_V2 = {**DCN, "type": "DCNv2"}
C3_TO_C5 = {"stage_with_dcn": (False, True, True, True)}


def torchvision_maps(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    maps = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        maps.append(x)
    return maps


def without_classifier(model):
    return {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("training", [False, True])
def test_equals_torchvisions_with_equal_weights(depth, training):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")().train(training)
    net = ResNet(depth, norm_eval=False).train(training)
    net.load_state_dict(without_classifier(reference), strict=True)
    x = torch.rand(2, 3, 40, 64)
    for got, want in zip(net(x), torchvision_maps(reference, x), strict=True):
        assert torch.equal(got, want)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, reference.get_buffer(name)), name


@pytest.mark.parametrize(("depth", "name"), [(101, "resnet101"), (152, "resnet152")])
def test_deep_ones_have_torchvisions_parameters(depth, name):
    with torch.device("meta"):
        reference, net = getattr(torchvision.models, name)(), ResNet(depth)
    got = {k: v.shape for k, v in net.state_dict().items()}
    assert got == {k: v.shape for k, v in without_classifier(reference).items()}


def test_resnext_equals_torchvisions():
    torch.manual_seed(0)
    reference = torchvision.models.resnext50_32x4d().eval()
    net = ResNeXt(depth=50, groups=32, base_width=4).eval()
    net.load_state_dict(without_classifier(reference), strict=True)
    x = torch.rand(1, 3, 32, 32)
    for got, want in zip(net(x), torchvision_maps(reference, x), strict=True):
        assert torch.equal(got, want)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("record", "cfg"),
    [
        ("retinanet__retinanet_r50_fpn_1x_coco", {"depth": 50}),
        ("retinanet__retinanet_r18_fpn_1x_coco", {"depth": 18}),
        ("fcos__fcos_r50-caffe_fpn_gn-head_1x_coco", {"depth": 50, "style": "caffe"}),
        ("faster_rcnn__faster-rcnn_r50_fpn_1x_coco", {"depth": 50}),
        ("mask_rcnn__mask-rcnn_r50_fpn_1x_coco", {"depth": 50}),
        ("gn__mask-rcnn_r50_fpn_gn-all_2x_coco", {"depth": 50, "norm_cfg": GN}),
        ("gn+ws__faster-rcnn_r50_fpn_gn-ws-all_1x_coco", {"depth": 50, "norm_cfg": GN, "conv_cfg": WS}),
        ("dcn__faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco", {"depth": 50, "dcn": DCN, **C3_TO_C5}),
        ("dcnv2__faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco", {"depth": 50, "dcn": DCN_V2, **C3_TO_C5}),
    ],
)
def test_names_and_shapes_are_those_on_record(shared, record, cfg):
    path = shared(f"golden/records/{record}.json.gz")
    recorded = json.loads(gzip.decompress(path.read_bytes()))["state_dict"]
    want = [(k.removeprefix("backbone."), shape) for k, shape in recorded if k.startswith("backbone.")]
    assert [(k, list(v.shape)) for k, v in ResNet(**cfg).state_dict().items()] == want


def test_names_of_the_deep_stem_and_of_averaging_shortcuts():
    names = set(ResNetV1d(depth=18).state_dict())
    assert {"stem.0.weight", "stem.1.weight", "stem.3.weight", "stem.6.weight", "stem.7.bias"} <= names
    assert {"layer2.0.downsample.1.weight", "layer2.0.downsample.2.weight"} <= names
    assert not any(name.startswith(("conv1", "bn1")) for name in names)


def test_channels_and_strides_describe_the_maps():
    x = torch.rand(1, 3, 64, 96)
    for net in (
        ResNet(18, base_channels=8),
        ResNet(50, base_channels=4, out_indices=(1, 3)),
        ResNet(18, base_channels=8, num_stages=3, strides=(1, 2, 1), dilations=(1, 1, 2), out_indices=(2,)),
        ResNet(18, base_channels=8, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
        ResNetV1d(depth=18, base_channels=8, stem_channels=16, in_channels=3),
        ResNeXt(depth=50, groups=2, base_width=4, base_channels=8),
    ):
        maps = net.eval()(x)
        assert tuple(m.shape[1] for m in maps) == net.out_channels
        assert tuple(64 // m.shape[2] for m in maps) == net.out_strides
        assert tuple(96 // m.shape[3] for m in maps) == net.out_strides
    assert ResNet(18, in_channels=1, base_channels=8)(torch.rand(1, 1, 64, 64))[0].shape == (1, 8, 16, 16)


def test_style_says_where_the_stride_is():
    pytorch, caffe = ResNet(50, base_channels=4), ResNet(50, base_channels=4, style="caffe")
    assert (pytorch.layer2[0].conv1.stride, pytorch.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert (caffe.layer2[0].conv1.stride, caffe.layer2[0].conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize("make", [ResNet, ResNetV1d])
@pytest.mark.parametrize("frozen", [-1, 0, 1, 4])
def test_frozen_stages_do_not_train_and_record_no_graph(make, frozen):
    net = make(depth=18, base_channels=4, frozen_stages=frozen, norm_eval=False)
    net.train()
    stem = net.stem if make is ResNetV1d else net.conv1
    assert all(p.requires_grad != (frozen >= 0) for p in stem.parameters())
    for i in range(1, 5):
        stage = net.get_submodule(f"layer{i}")
        assert all(p.requires_grad != (i <= frozen) for p in stage.parameters())
        assert all(m.training != (i <= frozen) for m in stage.modules())
    maps = net(torch.rand(2, 3, 32, 32))
    assert [m.requires_grad for m in maps] == [i > frozen for i in range(1, 5)]


def test_norm_eval_keeps_averages_but_trains_weights():
    net = ResNet(18, base_channels=4, norm_eval=True).train()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms)
    assert all(m.weight.requires_grad for m in norms)
    assert net.conv1.training
    before = net.bn1.running_mean.clone()
    net(torch.rand(2, 3, 32, 32))[-1].sum().backward()
    assert torch.equal(net.bn1.running_mean, before)
    assert net.bn1.weight.grad is not None
    trained = ResNet(18, base_channels=4, norm_eval=False).train()
    trained(torch.rand(2, 3, 32, 32))
    assert not torch.equal(trained.bn1.running_mean, before)
    fixed = ResNet(18, base_channels=4, norm_cfg={"type": "BN", "requires_grad": False})
    assert not any(m.weight.requires_grad for m in fixed.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("depth", [18, 50])
def test_recomputing_activations_changes_nothing(depth):
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = ResNet(depth, base_channels=4, with_cp=with_cp, norm_eval=False, frozen_stages=1).train()
        torch.manual_seed(1)
        maps = net(torch.rand(2, 3, 64, 64))
        sum(m.square().mean() for m in maps).backward()
        grads = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
        results.append((maps, grads, dict(net.named_buffers())))
    (maps, grads, buffers), (maps_cp, grads_cp, buffers_cp) = results
    assert all(torch.equal(a, b) for a, b in zip(maps, maps_cp, strict=True))
    assert grads.keys() == grads_cp.keys()
    assert all(torch.allclose(grads[n], grads_cp[n], rtol=1e-4, atol=1e-6) for n in grads)
    assert all(torch.equal(buffers[n], buffers_cp[n]) for n in buffers)


def test_blocks_start_as_identities():
    for depth, last in ((18, "bn2"), (50, "bn3")):
        net = ResNet(depth, base_channels=4)
        net.init_weights()
        assert net.layer1[1].get_submodule(last).weight.abs().max() == 0
        assert net.layer1[1].bn1.weight.min() == 1
        plain = ResNet(depth, base_channels=4, zero_init_residual=False)
        plain.init_weights()
        assert plain.layer1[1].get_submodule(last).weight.min() == 1
        assert plain.conv1.weight.std().item() == pytest.approx((2 / (4 * 49)) ** 0.5, rel=0.1)
    grouped = ResNet(18, norm_cfg={"type": "GN", "num_groups": 2}, base_channels=4)
    grouped.init_weights()
    assert grouped.layer1[0].gn2.weight.abs().max() == 0


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Weights for ResNet-18, with made-up values, as if published by torchvision and downloaded by torch."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETCORE_OFFLINE", "1")
    model = torchvision.models.resnet18()
    file = tmp_path / "checkpoints" / "resnet18.pth"
    file.parent.mkdir()
    torch.save(model.state_dict(), file)
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.rename(file.with_name(f"resnet18-{digits}.pth"))
    address = f"https://download.pytorch.org/models/resnet18-{digits}.pth"
    first = types.SimpleNamespace(url=address)
    weights = types.SimpleNamespace(__members__={"IMAGENET1K_V1": first})
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
    return model


@pytest.mark.parametrize("way", [
    {"init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet18"}},
    {"pretrained": "torchvision://resnet18"},
])
def test_torchvisions_weights_load_whole_and_quietly(published, caplog, way):
    net = MODELS.build({"type": "ResNet", "depth": 18, **way})
    with caplog.at_level(logging.INFO, "detcore.weights.load_into"):
        net.init_weights()
    state = net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in without_classifier(published).items())
    [record] = caplog.records
    assert record.message == "torchvision://resnet18 into ResNet: all 120 names loaded"
    assert record.levelname == "INFO"


def test_weights_of_another_depth_are_refused(published):
    with pytest.raises(CheckpointError, match=r"torchvision://resnet18 does not fit ResNet"):
        ResNet(50, pretrained="torchvision://resnet18").init_weights()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, r"depth \[18, 34, 50, 101, 152\], got 20"),
        ({"depth": 18, "num_stages": 5}, "num_stages"),
        ({"depth": 18, "num_stages": 3}, "strides"),
        ({"depth": 18, "out_indices": (4,)}, "among 0 to 3"),
        ({"depth": 18, "out_indices": ()}, "out_indices"),
        ({"depth": 18, "style": "tensorflow"}, "'tensorflow'"),
        ({"depth": 18, "frozen_stages": 5}, "frozen_stages"),
        ({"depth": 18, "pretrained": "a", "init_cfg": {"type": "Pretrained", "checkpoint": "b"}}, "not both"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)


def test_typos_in_the_config_are_found_with_their_path():
    cfg = {"type": "ResNet", "depth": 18, "frozen_stage": 1, "norm_cfg": {"type": "BN", "require_grad": True}}
    with pytest.raises(ConfigError, match=r"(?s)frozen_stage.*did you mean 'frozen_stages'.*require_grad"):
        MODELS.build(cfg, path="model.backbone")


def test_variants_take_the_arguments_of_the_base_and_refuse_others():
    for cfg in ({"type": "ResNetV1d", "depth": 18}, {"type": "ResNeXt", "depth": 50, "groups": 32}):
        assert MODELS.check({**cfg, "frozen_stages": 1}) == []
        assert [p.path for p in MODELS.check({**cfg, "frozen": 1})] == ["frozen"]


def test_layout_and_autocast_are_kept_through_the_stages():
    net = ResNet(50, base_channels=8).to(memory_format=torch.channels_last).eval()
    x = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        maps = net(x)
    for each in maps:
        assert each.dtype == torch.bfloat16
        assert each.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("groups", "width", "parameters", "trained"),
    [(32, 4, 42_128_704, 41_913_344), (64, 4, 81_406_272, 81_003_520)],
)
def test_resnext_101_has_the_references_parameters(groups, width, parameters, trained):
    with torch.device("meta"):
        net = ResNeXt(depth=101, groups=groups, base_width=width, frozen_stages=1)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == trained
