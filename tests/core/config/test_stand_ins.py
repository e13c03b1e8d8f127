"""``package::x.py``: the package's own configs, or ours in their place where a plugin says so."""

import pytest

from detcore.config import Config
from detcore.errors import ConfigError

NAME = "retinanet/retinanet_r18_fpn_1x_coco.py"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, with a plugin that lets detcore's configs stand in for ``mine::``."""
    info = tmp_path / "det_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: det-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[detcore.configs]\nmine = detcore\n[detcore.plugins]\nmine = det_mine.plugin\nother = det_mine.x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_ours_stand_in_with_the_scope_of_the_package(site):
    config = Config.fromfile(f"mine::{NAME}")
    shipped = Config.fromfile(f"detcore::{NAME}")
    assert config.model == {**shipped.model, "_scope_": "mine"}
    assert config.train_pipeline[0]._scope_ == "mine"
    assert config.train_cfg.max_epochs == shipped.train_cfg.max_epochs


def test_they_are_bases_in_either_style(site):
    (site / "a.py").write_text(f"_base_ = 'mine::{NAME}'\nmodel = dict(backbone=dict(depth=34))")
    (site / "b.py").write_text(
        "with read_base():\n    from mine.configs.retinanet.retinanet_r18_fpn_1x_coco import *\n"
        "model.backbone.depth = 34"
    )
    config = Config.fromfile(site / "a.py")
    assert config.model._scope_ == "mine"
    assert config.model.backbone.depth == 34
    assert Config.fromfile(site / "b.py") == config


def test_the_packages_own_come_first(site):
    own = site / "mine" / ".mim" / "configs" / "retinanet"
    own.mkdir(parents=True)
    (site / "mine" / "__init__.py").write_text("raise SystemExit('imported')")
    (own / NAME.rpartition("/")[2]).write_text("model = dict(type='Own')")
    assert Config.fromfile(f"mine::{NAME}").to_dict() == {"model": {"type": "Own"}}
    with pytest.raises(ConfigError, match=r"mine::retinanet/x\.py is not there"):
        Config.fromfile("mine::retinanet/x.py")


def test_a_config_that_we_do_not_have_is_told_with_the_closest_name_and_where_it_is(site):
    message = r"mine::retinanet/retinanet_r18_fpn_1y_coco\.py is not among .*pip install --no-deps mine.*"
    with pytest.raises(
        ConfigError, match=message + r"did you mean 'retinanet/retinanet_r18_fpn_1x_coco\.py'"
    ):
        Config.fromfile("mine::retinanet/retinanet_r18_fpn_1y_coco.py")
    with pytest.raises(ConfigError, match="leads out of the configs of mine"):
        Config.fromfile("mine::../pyproject.py")


def test_only_packages_that_a_plugin_serves_are_named_for_installation(site):
    with pytest.raises(ConfigError, match=r"brings configs for other::.*pip install --no-deps other"):
        Config.fromfile("other::x.py")
    with pytest.raises(ConfigError, match=r"brings configs for stranger::") as caught:
        Config.fromfile("stranger::x.py")
    assert "pip" not in str(caught.value)
