"""The table of docs/migrate-code.md is what ``detcore migrate`` does, and every new line imports."""

import ast
import re

import pytest
from det_mmdet.imports import GONE, MODULES, find_move, moves, why_not
from det_mmdet.migrate import migrate_text

ROW = re.compile(r"^\| `((?:from|import) [^`]+)` \| `((?:from|import) [^`]+)` \|$", re.MULTILINE)


def rows(root):
    return ROW.findall((root / "docs" / "migrate-code.md").read_text(encoding="utf-8"))


def imported(text):
    """``(module, name, bound name)`` of everything that a text imports, in no order."""
    nodes = ast.parse(text).body
    return {(node.module, alias.name, alias.asname) for node in nodes for alias in node.names}


def test_each_line_is_changed_as_the_table_says(root):
    for old, new in rows(root):
        done = migrate_text(old)
        assert not done.remarks, old
        assert imported(done.text) == imported(new), old


def test_each_new_line_imports(root):
    for _, new in rows(root):
        exec(compile(new, new, "exec"), {})


def test_the_table_holds_every_name_that_has_moved(root):
    listed = {
        (node.module, alias.name)
        for old, _ in rows(root)
        for node in ast.parse(old).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {(move.old, move.name) for move in moves()} <= listed
    whole = {old for old, _ in rows(root)}
    for name in MODULES:
        parent, _, last = name.rpartition(".")
        assert (f"from {parent} import {last}" if parent else f"import {name}") in whole


def test_the_page_says_what_became_of_each_name_that_is_gone(root):
    page = (root / "docs" / "migrate-code.md").read_text(encoding="utf-8")
    for name, instead in GONE.items():
        assert re.search(rf"\| [^|]*`{name}`[^|]* \| {re.escape(instead)} \|", page), name


def test_no_name_is_both_moved_and_gone():
    assert not {move.name for move in moves()} & set(GONE)


@pytest.mark.parametrize("module", ["mmdet.models", "mmdet.models.necks", "mmdet.models.necks.fpn"])
def test_packages_on_the_way_name_a_component_too(module):
    assert find_move(module, "FPN") == ("det_models.fpn", "FPN")


def test_the_closest_module_decides_where_a_name_stands_in_two():
    assert find_move("mmdet.structures.bbox.bbox_overlaps", "bbox_overlaps") == (
        "detcore.structures.bbox",
        "bbox_overlaps",
    )
    assert find_move("mmdet.evaluation.functional", "bbox_overlaps") is None
    assert find_move("mmcv.transforms.builder", "TRANSFORMS") == ("detcore.registry", "TRANSFORMS")


@pytest.mark.parametrize(
    ("module", "new"),
    [
        ("mmdet.models.layers", "det_backbones.residual"),
        ("mmdet.models.layers.res_layer", "det_backbones.residual"),
        ("mmdet.models.roi_heads", "det_backbones.shared_head"),
        ("mmdet.models.roi_heads.shared_heads.res_layer", "det_backbones.shared_head"),
        ("mmdet.models", "det_backbones.shared_head"),  # there, the second one hid the first
    ],
)
def test_of_two_classes_of_one_name_the_module_says_which(module, new):
    assert find_move(module, "ResLayer") == (new, "ResLayer")


def test_what_is_not_there_has_a_reason():
    assert why_not("mmdet.models", "DeepSORT") == "tracking and re-identification are not part of detcore"
    assert "drop the call" in why_not("mmdet.utils", "register_all_modules")
    assert why_not("mmdet.utils", "nonsense") == "not in the table of moved names"
