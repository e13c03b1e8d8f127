"""Configs in pure Python: ``with read_base()`` and imported classes, understood as data."""

import sys
import textwrap

import pytest

from detcore.config import Config
from detcore.config.document import origins_of
from detcore.errors import ConfigError

FILES = {
    "_base_/models/net.py": """
        from mmdet.models import FPN, RetinaNet
        from mmengine.model.weight_init import PretrainedInit
        from torch.nn import BatchNorm2d
        model = dict(
            type=RetinaNet,
            backbone=dict(
                norm_cfg=dict(type=BatchNorm2d), init_cfg=dict(type=PretrainedInit, checkpoint='x')),
            neck=dict(type=FPN, out=[1, 2]))
        """,
    "_base_/data.py": """
        from mmcv.transforms import LoadImageFromFile
        from mmdet.datasets import CocoDataset
        dataset_type = CocoDataset
        root = 'data/'
        _hidden = 5
        pipeline = [dict(type=LoadImageFromFile)]
        val = dict(dataset=dict(type=dataset_type, root=root, pipeline=pipeline), workers=2)
        test = val
        """,
    "_base_/schedule.py": """
        from torch.optim.sgd import SGD
        optim = dict(optimizer=dict(type=SGD, lr=0.02))
        train_cfg = dict(epochs=12)
        """,
    "net/child.py": """
        from mmengine.config import read_base

        with read_base():
            from .._base_.models.net import *
            from .._base_.data import *
            from .._base_.schedule import optim, train_cfg as t
        from torch.optim import AdamW

        optim.update(dict(optimizer=dict(type=AdamW, lr=1e-4)))
        """,
}
EXPECTED = {
    "model": {
        "type": "mmdet.RetinaNet",
        "backbone": {
            "norm_cfg": {"type": "BN"},
            "init_cfg": {"type": "mmengine.PretrainedInit", "checkpoint": "x"},
        },
        "neck": {"type": "mmdet.FPN", "out": [1, 2]},
    },
    "dataset_type": "mmdet.CocoDataset",
    "root": "data/",
    "_hidden": 5,
    "pipeline": [{"type": "mmcv.LoadImageFromFile"}],
    "val": {
        "dataset": {
            "type": "mmdet.CocoDataset", "root": "data/", "pipeline": [{"type": "mmcv.LoadImageFromFile"}]
        },
        "workers": 2,
    },
    "optim": {"optimizer": {"type": "AdamW", "lr": 1e-4}},
    "t": {"epochs": 12},
}  # fmt: skip
EXPECTED["test"] = EXPECTED["val"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write the files above and some more, and read the last one, as data and trusted."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "pyproject.toml").write_text("")

    def write(sources=None, trust=False):
        for name, source in {**FILES, **(sources or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        config = Config.fromfile(path, trust=trust)
        if not trust:
            assert Config.fromfile(path, trust=True) == config
            assert Config.fromstring(config.pretty_text) == config
        return config

    return write


def read_base(*imports):
    return "with read_base():\n" + "".join(f"    {each}\n" for each in imports)


def test_star_imports_chains_and_imported_classes_come_out_as_data(files):
    assert files().to_dict() == EXPECTED


def test_nothing_is_imported(files, monkeypatch):
    imported, real = [], __import__

    def recording(name, *args, **kwargs):
        imported.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("builtins.__import__", recording)
    files()
    assert imported
    assert not [name for name in imported if name.partition(".")[0] in ("mmdet", "mmengine", "mmcv", "torch")]


def test_imported_names_vanish_and_reach_the_files_that_import_this_one(files):
    source = read_base("from .child import *") + "part = dict(type=RetinaNet)\nalias = FPN"
    config = files({"net/x.py": source})
    assert config.part == {"type": "mmdet.RetinaNet"}
    assert config.alias == "mmdet.FPN"
    assert not {"RetinaNet", "FPN", "AdamW", "CocoDataset", "read_base"} & set(config)
    config = files({"net/x.py": read_base("from .child import RetinaNet as R, t") + "part = dict(type=R)"})
    assert config.to_dict() == {"t": {"epochs": 12}, "part": {"type": "mmdet.RetinaNet"}}


def test_a_later_name_replaces_the_whole_value(files):
    blocks = read_base("from .child import *", "from .a import *")
    config = files({"net/a.py": "model = dict(a=1)", "net/x.py": blocks + "val = dict(b=2)"})
    assert config.model == {"a": 1}
    assert config.val == {"b": 2}
    config = files({"net/x.py": "model = 1\nfirst = t\n" + read_base("from .child import *")})
    assert config.model == 1, "what the file itself says holds, wherever the block stands"
    assert config.first == {"epochs": 12}


def test_changes_stay_with_the_file_that_makes_them(files):
    change = "model.neck.out.append(3)\nval.dataset.root = 'else/'"
    imports = ["from .a import model as changed, val", "from .child import model"]
    imports += ["from .child import model as same"]
    config = files(
        {
            "net/a.py": read_base("from .child import *") + change,
            "net/x.py": read_base(*imports) + "model.neck.new = 1",
        }
    )
    assert config.changed.neck.out == [1, 2, 3]
    assert config.model.neck == config.same.neck == {"type": "mmdet.FPN", "out": [1, 2], "new": 1}
    assert config.val.dataset.root == "else/"
    config.model.neck.out.append(4)
    assert config.same.neck.out == [1, 2]


def test_update_merges_imported_dicts_and_merge_can_delete(files):
    config = files(
        {
            "net/x.py": read_base("from .child import *")
            + """
val.update(dict(workers=0, dataset=dict(root='b/')))
model.merge(dict(backbone=dict(_delete_=True, depth=18), neck=dict(out=[5]), head=dict(_delete_=True, k=1)))
model.head.update(dict(k=dict(z=1)))
model.head.update(dict(k=dict(y=2)))
late = [1]
model.neck.update(late=late)
late.append(2)
""".replace("\n\n", "\n")
        }
    )
    assert config.val == {"dataset": {**EXPECTED["val"]["dataset"], "root": "b/"}, "workers": 0}
    assert config.model.to_dict() == {
        "type": "mmdet.RetinaNet",
        "backbone": {"depth": 18},
        "neck": {"type": "mmdet.FPN", "out": [5], "late": [1]},
        "head": {"k": {"z": 1, "y": 2}},
    }


def test_merge_is_not_a_method_of_own_dicts(files):
    with pytest.raises(ConfigError, match=r"x\.py:2: merge is a method of values that come from a base"):
        files({"x.py": "a = dict(b=1)\na.merge(dict(c=1))"})


@pytest.mark.parametrize(
    ("imports", "used", "text"),
    [
        ("import torch.nn as nn", "nn.GroupNorm", "GN"),
        ("import torch", "torch.nn.SyncBatchNorm", "SyncBN"),
        ("from torch import nn", "nn.Conv2d", "Conv2d"),
        ("from torch.nn.modules.activation import SiLU", "SiLU", "SiLU"),
        ("from torch.nn import Mish as M", "M", "Mish"),
        ("from torch.nn import Upsample", "Upsample", "Upsample"),
        ("import mmdet.models\nimport mmdet.datasets.transforms as T", "mmdet.models.DINO", "mmdet.DINO"),
        ("import mmdet.datasets.transforms as T", "T.Resize", "mmdet.Resize"),
        ("from mmcv.ops import nms", "nms", "nms"),
        ("from detcore.data import BaseDetDataset as B", "B", "detcore.BaseDetDataset"),
        ("from det_models.fpn import FPN", "FPN", "models.FPN"),
        ("if True:\n    from mmdet.models import FPN", "FPN", "mmdet.FPN"),
    ],
)
def test_an_import_becomes_the_name_that_the_registry_knows(imports, used, text, files):
    config = files({"x.py": f"{imports}\nx = dict(type={used})"})
    assert config.to_dict() == {"x": {"type": text}}


def test_the_users_own_modules_are_named_for_import_and_wait_for_trust(files):
    source, expected = (
        "custom_imports = dict(imports='first', allow_failed_imports=True)\n"
        "from my_pkg import MyHead as H, unused\nimport my_pkg.necks as n\nfrom my_pkg import losses\n"
        "model = dict(head=dict(type=H), neck=[dict(type=n.MyNeck)], loss=dict(type=losses.Loss))",
        {
            "custom_imports": {
                "allow_failed_imports": True, "imports": ["first", "my_pkg", "my_pkg.necks", "my_pkg.losses"]
            },
            "model": {"head": {"type": "MyHead"}, "neck": [{"type": "MyNeck"}], "loss": {"type": "Loss"}},
        },
    )  # fmt: skip
    config = files({"x.py": source})
    assert config.to_dict() == expected
    assert origins_of(config.custom_imports)["imports"][1] == 2
    assert "my_pkg" not in sys.modules
    config = files({"x.py": "from my_pkg.heads import MyHead\nhead = dict(type='Other')"})
    assert "custom_imports" not in config, "what is not used is not imported"
    config = files({"y.py": "_base_ = 'x.py'\nhead = dict(_delete_=True)", "x.py": source.splitlines()[1]})
    assert "custom_imports" not in config


@pytest.mark.parametrize("listed", ["['a']", "'a'", "dict(imports=['a'])", "dict(imports='a')"])
def test_every_form_of_custom_imports_takes_a_module_more(listed, files):
    source = f"from my_pkg import MyHead\ncustom_imports = {listed}\nx = MyHead"
    config = files({"x.py": source})
    assert config.custom_imports == {"allow_failed_imports": False, "imports": ["a", "my_pkg"]}
    with pytest.raises(
        ConfigError, match=r"x\.py:2: custom_imports\.imports is a list of modules, got an int"
    ):
        files({"x.py": "from my_pkg import MyHead\ncustom_imports = dict(imports=1)\nx = MyHead"})


def test_both_styles_mix_in_either_direction(files):
    old = "_base_ = 'new.py'\nmodel = dict(neck=dict(out=[9]), head='{{_base_.t.epochs}}')\n"
    old += "kind = _base_.model.type"
    config = files({"net/new.py": read_base("from .child import *"), "net/old.py": old})
    assert config.model.neck == {"type": "mmdet.FPN", "out": [9]}
    assert config.model.head == 12
    assert config.kind == "mmdet.RetinaNet"
    newer = read_base("from .old import *") + "model.neck.update(k=1)"
    assert files({"net/newer.py": newer}).model.neck == {"type": "mmdet.FPN", "out": [9], "k": 1}
    both = "_base_ = './yaml.yaml'\n" + read_base("from .child import model, t")
    both += "t.epochs = 3\ny = _base_.y"
    config = files({"net/yaml.yaml": "y: {a: 1}\nt: {extra: 2}", "net/both.py": both})
    assert config.t == {"epochs": 3, "extra": 2}
    assert config.y == {"a": 1}


def test_the_form_of_early_files_is_known(files):
    config = files({"net/x.py": "if '_base_':\n    from .child import *\nt.epochs = 1"})
    assert config.to_dict() == {**EXPECTED, "t": {"epochs": 1}}


def test_a_module_of_the_project_and_one_of_an_installed_package_are_found(files):
    source = read_base("from projects.mine.configs.a import *", "from strangers.configs.sub.b import b")
    config = files(
        {
            "projects/mine/configs/a.py": "a = 1",
            "site/strangers/__init__.py": "raise SystemExit('imported')",
            "site/strangers/configs/sub/b.py": read_base("from ..c import c") + "b = c + 1",
            "site/strangers/configs/c.py": "c = 5",
            "configs/x.py": source,
        }
    )
    assert config.to_dict() == {"a": 1, "b": 6}


def test_shipped_configs_stand_in_for_those_of_a_package_that_is_not_installed(files):
    name = "mmdet.configs.retinanet.retinanet_r50_caffe_fpn_1x_coco"
    config = files({"x.py": read_base(f"from {name} import model, train_cfg")})
    shipped = Config.fromfile("detcore::retinanet/retinanet_r50-caffe_fpn_1x_coco.py")
    assert config.model == {**shipped.model, "_scope_": "mmdet"}
    with pytest.raises(ConfigError, match=r"x\.py:2: from mmdet\.configs\.nope import: .*pip install.*mmdet"):
        files({"x.py": read_base("from mmdet.configs.nope import *")})


def test_every_key_remembers_where_it_was_written(files):
    config = files({"net/x.py": read_base("from .child import *") + "t.new = 1\nroot = 'b/'"})

    def at(part, key):
        file, line = origins_of(part)[key]
        return file.rpartition("/")[2], line

    assert at(config._tree, "model") == ("net.py", 5)
    assert at(config.model.neck, "out") == ("net.py", 9)
    assert at(config.optim.optimizer, "type") == ("child.py", 10)
    assert at(config.t, "new") == ("x.py", 3)
    assert at(config._tree, "root") == ("x.py", 4)


def test_overrides_and_references_come_after_the_names(files, tmp_path):
    files({"net/x.py": read_base("from .child import *") + "kind = '${model.type}'\nroot2 = '${root}'"})
    config = Config.fromfile(tmp_path / "net/x.py", cfg_options={"root": "c/", "model.neck.type": "Other"})
    assert (config.kind, config.root2, config.model.neck.type) == ("mmdet.RetinaNet", "c/", "Other")


def test_a_trusted_file_that_is_more_than_data_keeps_names_of_components(files):
    source = read_base("from .child import *") + textwrap.dedent(
        """
        import math
        import torch.nn as nn
        from mmdet.models import DINO
        import functools, mmengine
        t.epochs = math.floor(7.5)
        val.update(dict(dataset=dict(root='b/')))
        model.merge(dict(neck=dict(_delete_=True, norm=dict(type=nn.LayerNorm), type=DINO)))
        model.neck.update(norm=dict(eps=1))
        kind = RetinaNet
        """
    )
    config = files({"net/x.py": source}, trust=True)
    assert config.t == {"epochs": 7}
    assert config.val == {"dataset": {**EXPECTED["val"]["dataset"], "root": "b/"}, "workers": 2}
    assert config.model.neck == {"norm": {"type": "LN", "eps": 1}, "type": "mmdet.DINO"}
    assert config.kind == "mmdet.RetinaNet"
    assert not {"math", "nn", "DINO", "functools", "mmengine", "RetinaNet"} & set(config)
    with pytest.raises(ConfigError, match=r"net/x\.py:4: an import is not allowed.*\(math\)"):
        files({"net/x.py": source})


def test_a_trusted_file_runs_once_however_many_files_import_it(files, tmp_path):
    count = f"with open({str(tmp_path / 'count')!r}, 'a') as f:\n    f.write('x')\ndel f\n"
    more = "import math\nx = math.floor(1.5)"
    chain = {
        "net/a.py": count,
        "net/b.py": read_base("from .a import *") + more,
        "net/c.py": read_base("from .b import *") + more,
    }
    files(chain, trust=True)
    assert (tmp_path / "count").read_text() == "x"


def test_a_called_import_of_a_trusted_file_is_imported(files):
    config = files({"x.py": "import torch\nx = torch.nn.Identity().training\ny = torch.nn.ReLU"}, trust=True)
    assert config.to_dict() == {"x": True, "y": "ReLU"}
