"""What names of weights mean: addresses in their order, files, or an error that names what there is."""

import sys
import types
from contextlib import contextmanager

import pytest
import torch

from detcore.errors import CheckpointError, PluginError
from detcore.plugins import PluginHost, replace_host
from detcore.plugins.checkpoints import CheckpointTable, PublishedModel
from detcore.weights import fetch, load_state
from detcore.weights.fetch import addresses_of, published_model
from detcore.weights.mirrors import with_mirrors

from .conftest import PATIENT, named


def addresses(name):
    if name == "hub://gone":
        raise CheckpointError(f"{name}: no weights of that name")
    return [f"https://a.org/files/{name.partition('://')[2]}-0123abcd.pth"]


def published(name):
    if name != "zoo::small":
        raise CheckpointError(f"{name}: not published")
    return PublishedModel("models/small.py", ["https://a.org/files/small-0123abcd.pth"])


class Knowing(PluginHost):
    """A host whose one plugin knows ``hub://``, ``zoo::`` and a mirror."""

    def checkpoints(self):
        module = sys.modules.setdefault("knowing_plugin", types.ModuleType("knowing_plugin"))
        module.addresses, module.published = addresses, published
        table = CheckpointTable("knowing", "det-knowing 1.0")
        table.scheme("hub", "knowing_plugin:addresses")
        table.scheme("part", "knowing_plugin:addresses", prefix="backbone.")
        table.zoo("zoo", "knowing_plugin:published")
        table.mirror("https://a.org/files/", "https://b.org/", "https://old.org/x/")
        return [table]


@contextmanager
def hosted(host):
    before = replace_host(host)
    try:
        yield
    finally:
        replace_host(before)
        sys.modules.pop("knowing_plugin", None)


@pytest.fixture
def plugin():
    with hosted(Knowing()):
        yield


def test_paths_stay_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~/w.pth") == tmp_path / "w.pth"
    assert fetch(tmp_path / "a b.pth") == tmp_path / "a b.pth"
    assert fetch((tmp_path / "a b.pth").as_uri()) == tmp_path / "a b.pth"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo::odd.pth").touch()
    assert str(fetch("zoo::odd.pth")) == "zoo::odd.pth"


def test_addresses_are_downloaded(server, cache):
    server.files[f"/{named(b'x')}"] = b"x"
    assert fetch(f"{server.url}/{named(b'x')}", PATIENT) == cache / named(b"x")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("torchvision://resnet50", "resnet50-0676ba61.pth"),
        ("modelzoo://resnet50", "resnet50-0676ba61.pth"),
        ("torchvision://resnet50.IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
        ("torchvision://resnet50.default", "resnet50-11ad3fa6.pth"),
        ("torchvision://vgg16_bn", "vgg16_bn-6c64b313.pth"),
    ],
)
def test_torchvision_names_mean_its_published_files(name, file):
    assert addresses_of(name) == [f"https://download.pytorch.org/models/{file}"]


def test_unknown_names_of_torchvision_list_what_there_is():
    with pytest.raises(CheckpointError, match=r"no model 'resnet5'; there are resnet50"):
        fetch("torchvision://resnet5")
    with pytest.raises(CheckpointError, match=r"no weights 'v9'; there are imagenet1k_v1, imagenet1k_v2"):
        fetch("torchvision://resnet50.v9")


@pytest.mark.usefixtures("plugin")
def test_plugins_resolve_schemes_and_published_models():
    assert addresses_of("hub://x") == ["https://a.org/files/x-0123abcd.pth"]
    assert addresses_of("zoo::small") == ["https://a.org/files/small-0123abcd.pth"]
    assert published_model("small").config == "models/small.py"
    for name in ("hub://gone", "zoo::large", "large"):
        with pytest.raises(CheckpointError, match=r"no weights of that name|not published"):
            fetch(name) if name != "large" else published_model(name)


@pytest.mark.usefixtures("plugin")
def test_unknown_schemes_and_zoos_list_the_known_ones():
    with pytest.raises(CheckpointError, match=r"resolves huub://; there are file://.*hub://.*torchvision://"):
        fetch("huub://x")
    with pytest.raises(CheckpointError, match=r"published models of zoe; there is zoo::"):
        fetch("zoe::x")


def test_a_scheme_of_a_plugin_that_is_not_installed_names_its_pip_line():
    class Bare(PluginHost):
        def records(self):
            return {}

    with hosted(Bare()):
        for name in ("open-mmlab://detectron2/resnet50_caffe", "mmdet::retinanet_r50_fpn_1x_coco"):
            with pytest.raises(CheckpointError, match="pip install det-mmdet"):
                fetch(name)
        with pytest.raises(CheckpointError, match="no plugin here knows published models"):
            published_model("retinanet_r50_fpn_1x_coco")


def test_two_plugins_that_resolve_one_scheme_are_an_error():
    class Torn(Knowing):
        def checkpoints(self):
            return [*super().checkpoints(), *super().checkpoints()]

    with hosted(Torn()), pytest.raises(PluginError, match="both resolve hub://"):
        fetch("hub://x")


@pytest.mark.usefixtures("plugin")
def test_mirrors_come_in_order_the_users_first(monkeypatch):
    original = "https://a.org/files/d/x-0123abcd.pth"
    others = ["https://b.org/d/x-0123abcd.pth", "https://old.org/x/d/x-0123abcd.pth"]
    assert with_mirrors([original]) == [original, *others]
    assert with_mirrors([others[1]]) == [others[1], original, others[0]]
    assert with_mirrors(["http://b.org/y.pth"])[:2] == ["http://b.org/y.pth", "https://a.org/files/y.pth"]
    monkeypatch.setenv("DETCORE_WEIGHTS_MIRROR", "https://mine.org/base/, http://10.0.0.1")
    assert with_mirrors([original + "?Signature=secret"])[:3] == [
        "https://mine.org/base/files/d/x-0123abcd.pth",
        "http://10.0.0.1/files/d/x-0123abcd.pth",
        original + "?Signature=secret",
    ]
    monkeypatch.setenv("DETCORE_WEIGHTS_MIRROR", "mine.org")
    with pytest.raises(CheckpointError, match=r"must hold http\(s\) addresses, got mine.org"):
        with_mirrors([original])


def test_a_file_without_checksum_has_one_place_in_the_cache_whatever_mirror_it_came_from(
    server, cache, monkeypatch
):
    server.files["/mirror/d/latest.pth"] = b"x"
    monkeypatch.setenv("DETCORE_WEIGHTS_MIRROR", f"{server.url}/mirror")
    path = fetch("http://127.0.0.1:9/d/latest.pth", PATIENT)
    monkeypatch.delenv("DETCORE_WEIGHTS_MIRROR")
    assert fetch("http://127.0.0.1:9/d/latest.pth", PATIENT) == path


def test_mirrors_must_be_folders():
    table = CheckpointTable("x", "det-x 1.0")
    with pytest.raises(PluginError, match=r"must be folders, got \['https://a.org/files'\]"):
        table.mirror("https://a.org/files", "https://b.org/")


@pytest.mark.usefixtures("plugin")
def test_a_scheme_may_mean_a_part_of_its_files(cache):
    cache.mkdir(parents=True)
    torch.save({"backbone.a": torch.zeros(1), "head.b": torch.zeros(1)}, cache / "whole.pth")
    digest = named((cache / "whole.pth").read_bytes())[6:14]
    sys.modules.setdefault("knowing_plugin", types.ModuleType("knowing_plugin"))
    target = cache / f"x-{digest}.pth"
    (cache / "whole.pth").rename(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "addresses", lambda name: [f"https://a.org/files/x-{digest}.pth"])
        assert list(load_state("part://x")) == ["a"]
        assert list(load_state("hub://x")) == ["backbone.a", "head.b"]
