"""ConvNeXt beside timm's, which took the authors' weights; and weights as MMPretrain keeps them."""

import pytest
import timm
import torch

from detcore.registry import MODELS

# Timm's name of a part, and ours.
NAMES = (
    (".conv_dw.", ".depthwise_conv."),
    (".mlp.fc1.", ".pointwise_conv1."),
    (".mlp.fc2.", ".pointwise_conv2."),
    (".mlp.grn.weight", ".grn.gamma"),
    (".mlp.grn.bias", ".grn.beta"),
    (".blocks.", "."),
)
ATTO = {"arch": "atto", "linear_pw_conv": False}
SMALL = {"type": "ConvNeXt", "arch": {"depths": (1, 2), "channels": (8, 16)}, "out_indices": (0, 1)}


def from_timm(state):
    """Weights of timm's classifier by our names, without those of its last norm and layer."""
    ours = {}
    for name, value in state.items():
        if name.startswith("head."):
            continue
        new = name.replace("stem.", "downsample_layers.0.")
        if ".downsample." in new:
            _, stage, _, rest = new.split(".", 3)
            new = f"downsample_layers.{stage}.{rest}"
        for theirs, our in NAMES:
            new = new.replace(theirs, our)
        ours[new] = value
    return ours


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_convnext", {"arch": {"depths": (1, 2, 4, 2), "channels": (24, 32, 48, 64)}}),
        ("convnext_atto", ATTO),
        ("convnextv2_atto", {**ATTO, "use_grn": True, "layer_scale_init_value": 0}),
    ],
)
def test_maps_are_those_of_timm(name, options):
    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # layer scale starts from next to nothing
            parameter.add_(torch.randn_like(parameter) * 0.05)
    ours = MODELS.build({"type": "ConvNeXt", **options}).eval()
    state = from_timm(theirs.state_dict())
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert missing == ["norm3.weight", "norm3.bias"]
    assert unexpected == []
    image = torch.rand(2, 3, 96, 70)
    with torch.no_grad():
        want = theirs.forward_features(image)
        want = torch.nn.functional.layer_norm(want.movedim(1, -1), want.shape[1:2], eps=1e-6).movedim(-1, 1)
        (got,) = ours(image)
    assert torch.allclose(got, want, atol=2e-4 * want.abs().max())
    assert got.is_contiguous()


def test_linear_layers_and_convolutions_give_the_same():
    torch.manual_seed(0)
    linear = MODELS.build({**SMALL, "layer_scale_init_value": 1.0, "use_grn": True})
    conv = MODELS.build({**SMALL, "layer_scale_init_value": 1.0, "use_grn": True, "linear_pw_conv": False})
    with torch.no_grad():
        for name, value in linear.named_parameters():
            if ".grn." in name:
                value.normal_()
    state = {
        name: value[..., None, None] if "pointwise" in name and value.dim() == 2 else value
        for name, value in linear.state_dict().items()
    }
    conv.load_state_dict(state)
    image = torch.rand(2, 3, 64, 48)
    for one, other in zip(linear(image), conv(image), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("scope", ["", "mmpretrain."])
def test_weights_of_a_classifier_of_mmpretrain_start_a_detectors_backbone(tmp_path, scope):
    torch.manual_seed(0)
    source = MODELS.build({**SMALL, "out_indices": -1})
    state = {f"backbone.{name}": torch.rand_like(value) for name, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "head.fc.weight": torch.rand(10, 16)}}, tmp_path / "classifier.pth")
    pretrained = {
        "type": "Pretrained", "checkpoint": str(tmp_path / "classifier.pth"), "prefix": "backbone."
    }  # fmt: skip
    net = MODELS.build({**SMALL, "type": f"{scope}ConvNeXt", "init_cfg": pretrained})
    net.init_weights()
    own = net.state_dict()
    for name in source.state_dict():
        assert torch.equal(own[name], state[f"backbone.{name}"]), name
    assert torch.equal(own["norm0.weight"], torch.ones(8))


def test_outputs_are_counted_from_the_last_stage_too_and_come_in_order():
    net = MODELS.build({**SMALL, "out_indices": (-1, 0)})
    assert (net.out_channels, net.out_strides) == ((8, 16), (4, 8))
    assert MODELS.build({**SMALL, "out_indices": -1, "stem_patch_size": 2}).out_strides == (4,)


def test_samples_go_past_blocks_more_often_towards_the_end():
    net = MODELS.build({"type": "ConvNeXt", "arch": "atto", "drop_path_rate": 0.3})
    rates = [block.drop_path.drop_prob for stage in net.stages for block in stage]
    assert rates == pytest.approx([0.3 * number / 11 for number in range(12)])


def test_a_map_that_no_vector_is_made_of_may_say_so():
    net = MODELS.build({**SMALL, "out_indices": 0, "gap_before_final_norm": True})
    assert net.out_channels == (8,)
