"""Published models of MMDetection are found by their configs and by the other names that they have."""

import pytest

from detcore.errors import CheckpointError
from detcore.weights.cache import checksum_in
from detcore.weights.fetch import addresses_of, published_model

RETINANET = (
    "https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_1x_coco/"
    "retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth"
)


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::retinanet/retinanet_r50_fpn_1x_coco",
        "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
        "mmdet::retinanet_r50_fpn_1x_coco",
    ],
)
def test_a_config_means_its_weights(name):
    assert addresses_of(name) == [RETINANET]


def test_a_plain_name_finds_config_and_weights():
    model = published_model("retinanet_r50_fpn_1x_coco")
    assert model.config == "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    assert model.addresses == [RETINANET]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("rtmdet-s", "rtmdet/rtmdet_s_8xb32-300e_coco.py"),
        ("RTMDet-S", "rtmdet/rtmdet_s_8xb32-300e_coco.py"),
        ("yolox_s_8x8_300e_coco", "yolox/yolox_s_8xb8-300e_coco.py"),
        ("faster-rcnn_r50_fpn_gn_ws-all_1x_coco", "gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py"),
    ],
)
def test_other_names_of_a_model_are_known(name, config):
    assert published_model(name).config == f"mmdet::{config}"


def test_weights_on_other_hosts_keep_their_address():
    [address] = published_model("mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco").addresses
    assert address.startswith("https://github.com/")
    assert checksum_in(address) == "5486e051"


def test_unknown_models_say_what_is_close():
    with pytest.raises(CheckpointError, match=r"no weights of that name; close.*retinanet_r50_fpn_1x_coco"):
        published_model("mmdet::retinanet_r50_fpn_1x_cocoo")
    with pytest.raises(CheckpointError, match="no weights of that name"):
        published_model("mmdet::fcos/retinanet_r50_fpn_1x_coco")
