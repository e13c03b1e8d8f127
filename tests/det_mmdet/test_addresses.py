"""Names of OpenMMLab's weights mean the addresses at which it published them."""

import pytest

from detcore.errors import CheckpointError
from detcore.plugins import host
from detcore.weights.fetch import addresses_of, wanted_prefix
from detcore.weights.mirrors import with_mirrors

THIRD_PARTY = "https://download.openmmlab.com/pretrain/third_party"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("open-mmlab://detectron2/resnet50_caffe", f"{THIRD_PARTY}/resnet50_msra-5891d200.pth"),
        ("openmmlab://resnext101_64x4d", f"{THIRD_PARTY}/resnext101_64x4d-ee2c6f71.pth"),
        ("open-mmlab://resnet50_caffe", f"{THIRD_PARTY}/resnet50_caffe-788b5fa3.pth"),  # its name before 2020
        ("open-mmlab://jhu/resnet50_gn_ws", f"{THIRD_PARTY}/resnet50_gn_ws-15beedd8.pth"),
        ("jhu://resnet50_gn_ws", f"{THIRD_PARTY}/resnet50_gn_ws-15beedd8.pth"),
        (
            "mmcls://resnet18",
            "https://download.openmmlab.com/mmclassification/v0/resnet/resnet18_8xb32_in1k_20210831-fbbb1da6.pth",
        ),
    ],
)
def test_names_mean_their_published_addresses(name, address):
    assert addresses_of(name) == [address]


def test_of_classification_models_the_backbone_is_meant():
    assert wanted_prefix("mmcls://resnet18") == "backbone."
    assert wanted_prefix("open-mmlab://resnext101_64x4d") == ""


def test_unknown_names_say_what_is_close():
    with pytest.raises(CheckpointError, match=r"close names: open-mmlab://detectron2/resnet50_caffe"):
        addresses_of("open-mmlab://detectron2/resnet50_cafe")
    with pytest.raises(CheckpointError, match=r"open-mmlab://resnet50: .*mmcls://resnet50.*torchvision://"):
        addresses_of("open-mmlab://resnet50")
    with pytest.raises(CheckpointError, match=r"there are .*resnet18"):
        addresses_of("mmcls://zzz")


def test_every_host_of_openmmlab_stands_in_for_the_others():
    places = with_mirrors(["http://download.openmmlab.com/mmdetection/v2.0/x/x-0123abcd.pth"])
    assert len(places) == 6  # the address itself, and five hosts
    assert all(place.endswith("/mmdetection/v2.0/x/x-0123abcd.pth") for place in places)
    old = "https://s3.ap-northeast-2.amazonaws.com/open-mmlab/mmdetection/v2.0/x-0123abcd.pth"
    assert "https://download.openmmlab.com/mmdetection/v2.0/x-0123abcd.pth" in with_mirrors([old])


def test_the_plugin_tells_them_once_though_it_serves_several_scopes():
    told = [table.scope for table in host().checkpoints() if table.schemes or table.zoos or table.mirrors]
    assert told == ["mmdet"]
