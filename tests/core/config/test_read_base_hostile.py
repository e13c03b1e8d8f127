"""Pure-Python configs from strangers: refused with file and line, and nothing of them is imported or run."""

import os
import re
import sys

import pytest

from detcore.config import Config
from detcore.errors import ConfigError

BLOCK = "from mmengine.config import read_base\nwith read_base():\n    "
STAR = BLOCK + "from .base import *"

STATEMENTS = {
    "os_as_type": ("from os import system\nx = dict(type=system)", 1),
    "os_module_as_type": ("import os\nx = dict(type=os.system)", 1),
    "os_path": ("import os.path as osp", 1),
    "subprocess_called": ("a = 1\nfrom subprocess import run\nrun(['touch', 'CANARY'])", 2),
    "builtins": ("from builtins import eval as read", 1),
    "importlib": ("import importlib.util as u", 1),
    "several_at_once": ("import mmdet, os", 1),
    "in_a_loop": ("for i in range(1):\n    from os import system", 2),
    "future": ("from __future__ import annotations", 1),
    "called": ("from evil import run\nx = run('touch CANARY')", 2),
    "called_for_effect": ("from evil import run\nrun()", 2),
    "called_attribute": ("import evil\nx = evil.run()", 2),
    "called_class": ("from mmdet.models import RetinaNet\nmodel = RetinaNet(depth=1)", 2),
    "called_in_list": ("from evil import Run\nx = [Run(), 1]", 2),
    "called_in_comprehension": ("from evil import Run\nx = [Run(i) for i in range(3)]", 2),
    "mapped": ("from evil import run\nx = list(map(run, [1]))", 2),
    "takes_a_functions_name": ("from evil import run as dict\nx = dict(a=1)", 1),
    "takes_a_functions_name_len": ("import evil as len\nx = len('a')", 1),
    "takes_map": ("from evil import map", 1),
    "takes_base": ("from evil import run as _base_", 1),
    "takes_dunder": ("from evil import run as __builtins__", 1),
    "dunder_attribute": ("import evil\nx = dict(type=evil.__class__)", 2),
    "private_attribute": ("import evil\nx = dict(type=evil._run)", 2),
    "set_attribute": ("import evil\nevil.x = 1", 2),
    "delete_attribute": ("import evil\ndel evil.x", 2),
    "item": ("import evil\nx = evil['a']", 2),
    "module_as_value": ("import evil\nx = dict(type=evil)", 2),
    "constant_as_value": ("import evil\nx = dict(classes=evil.CLASSES)", 2),
    "function_as_value": ("from evil import things\nx = dict(a=[dict(b=things)])", 2),
    "value_of_torch": ("import torch\nx = torch.float32", 2),
    "as_key": ("from evil import Run\nx = {Run: 1}", 2),
    "unpacked": ("from evil import Run\nx = dict(**Run)", 2),
    "looped": ("from evil import Run\nfor x in Run:\n    pass", 2),
    "added": ("from evil import Run\nx = Run + 'a'", 2),
    "formatted": ("from evil import Run\nx = f'{Run:>9}'", 2),
    "star": ("from evil import *", 1),
    "star_of_torch": ("from torch.nn import *", 1),
    "relative": ("from .evil import Run", 1),
    "relative_star": ("from .base import *", 1),
    "relative_package": ("from . import evil", 1),
}
BLOCKS = {
    "star_of_os": (BLOCK + "from os import *", 3),
    "name_of_os": (BLOCK + "from os.path import join", 3),
    "import_statement": (BLOCK + "import base", 3),
    "other_statement": (BLOCK + "x = 1", 3),
    "call_in_block": (BLOCK + "open('CANARY', 'w')", 3),
    "if_in_block": (BLOCK + "if True:\n        from .base import *", 3),
    "try_in_block": (BLOCK + "try:\n        from .base import *\n    except ImportError:\n        pass", 3),
    "nested_block": (BLOCK + "with read_base():\n        from .base import *", 3),
    "package": (BLOCK + "from . import base", 3),
    "bare_package": (BLOCK + "from mmdet import *", 3),
    "not_a_config": (BLOCK + "from torch.nn import *", 3),
    "not_a_config_of_a_plugin": (BLOCK + "from det_models.plugin import *", 3),
    "not_a_config_of_detcore": (BLOCK + "from detcore.config.load import *", 3),
    "unknown_package": (BLOCK + "from nobody.configs.x import *", 3),
    "missing": (BLOCK + "from .bas import *", 3),
    "missing_name": (BLOCK + "from .base import modle", 3),
    "takes_a_functions_name": (BLOCK + "from .base import model as dict", 3),
    "takes_base": (BLOCK + "from .base import model as _base_", 3),
    "itself": (BLOCK + "from .config import *", 3),
    "circle": (BLOCK + "from .circle import *", 1),
    "outside": (BLOCK + "from ...outside.secret import *", 3),
    "far_outside": (BLOCK + "from ............etc.passwd import *", 3),
    "link": (BLOCK + "from .link import *", 3),
    "through_linked_folder": (BLOCK + "from .linked.secret import *", 3),
    "package_that_is_a_link": (BLOCK + "from linked.secret import *", 3),
    "hidden_by_link": (BLOCK + "from .veiled import *", 3),
    "fifo": (BLOCK + "from .pipe import *", 3),
    "folder": (BLOCK + "from .folder import *", 3),
    "binary": (BLOCK + "from .binary import *", 3),
    "runs_code": (BLOCK + "from .runs import *", 1),
    "other_manager": ("with open('CANARY', 'w'):\n    from .base import *", 1),
    "two_managers": ("with read_base(), open('CANARY', 'w'):\n    from .base import *", 1),
    "manager_with_arguments": ("with read_base(open('CANARY', 'w')):\n    from .base import *", 1),
    "manager_kept": ("with read_base() as x:\n    from .base import *", 1),
    "manager_not_called": ("with read_base:\n    from .base import *", 1),
    "manager_of_a_module": ("with os.system(read_base):\n    from .base import *", 1),
    "in_an_if": ("if True:\n    with read_base():\n        from .base import *", 2),
    "in_a_loop": ("for i in range(2):\n    with read_base():\n        from .base import *", 2),
    "async": ("async def f():\n    async with read_base():\n        from .base import *", 1),
    "early_form_with_else": ("if '_base_':\n    from .base import *\nelse:\n    x = 1", 1),
    "early_form_with_code": ("if '_base_':\n    import os", 2),
    "merge_of_text": (BLOCK + "from .base import *\nmodel.merge('x')", 4),
    "merge_of_itself": (BLOCK + "from .base import *\nmodel.a = model\nmodel.merge(dict(b=1))", 5),
    "merge_bomb": (STAR + "\na = [1]\n" + "a = [a] * 9\n" * 9 + "model.merge(dict(a=a))", 14),
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """A project with things that an import must not reach, and packages that must not be imported."""
    folder = tmp_path / "project"
    outside = tmp_path / "outside"
    (folder / "folder.py").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    outside.mkdir()
    (folder / "pyproject.toml").write_text("")
    (folder / "base.py").write_text("model = dict(a=1)")
    (folder / "circle.py").write_text("with read_base(): from .config import *")
    (folder / "runs.py").write_text("open('CANARY', 'w')".replace("CANARY", str(tmp_path / "canary")))
    for secret in (outside / "secret.py", folder / ".hidden/secret.py"):
        secret.write_text("secret = 1")
    (folder / "link.py").symlink_to(outside / "secret.py")
    (folder / "veiled.py").symlink_to(folder / ".hidden/secret.py")
    (folder / "linked").symlink_to(outside)
    (folder / "binary.py").write_bytes(b"x = 1\n\x80\x04\x95")
    os.mkfifo(folder / "pipe.py")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nrun = things = Run = print")
    return folder


@pytest.mark.parametrize("name", [*STATEMENTS, *(f"block_{name}" for name in BLOCKS)])
def test_it_is_refused_with_its_line_and_nothing_is_run(name, project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    source, line = BLOCKS[name[6:]] if name.startswith("block_") else STATEMENTS[name]
    canary = project.parent / "canary"
    path = project / "config.py"
    path.write_text(source.replace("CANARY", str(canary)))
    with pytest.raises(ConfigError) as caught:
        Config.fromfile(path)
    message = str(caught.value)
    assert not canary.exists()
    assert "evil" not in sys.modules
    assert "secret = 1" not in message
    found = re.match(r".*?\.py:(\d+): ", message)
    assert found, message
    assert int(found[1]) == line, message
    assert len(message) < 700


def test_there_are_more_than_sixty_of_them():
    assert len(STATEMENTS) + len(BLOCKS) > 60


def test_a_tree_of_imports_ends(tmp_path):
    for i in range(25):
        (tmp_path / f"f{i}.py").write_text(
            f"with read_base():\n    from .f{i + 1} import *\n    from .f{i + 1}x import *"
        )
        (tmp_path / f"f{i + 1}x.py").write_text(f"with read_base():\n    from .f{i + 1} import *")
    (tmp_path / "f25.py").write_text("")
    with pytest.raises(ConfigError, match="at most"):
        Config.fromfile(tmp_path / "f0.py")


def test_what_a_stranger_names_for_import_needs_the_users_trust(tmp_path, monkeypatch):
    from detcore.plugins.user_modules import load_user_modules

    canary = tmp_path / "canary"
    (tmp_path / "evil_heads.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "x.py").write_text("from evil_heads import MyHead\nmodel = dict(type=MyHead)")
    config = Config.fromfile(tmp_path / "x.py")
    assert config.model == {"type": "MyHead"}
    with pytest.raises(ConfigError, match=r"evil_heads.*--trust-config"):
        load_user_modules(config.custom_imports.imports, trusted=False)
    assert not canary.exists()
