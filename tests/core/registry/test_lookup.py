import sys
import threading

import pytest

from detcore.errors import PluginError, RegistryError
from detcore.registry import MODELS, TASK_UTILS, default_scope
from detcore.registry.core import USER
from detcore.registry.examine import Examination
from detcore.registry.lookup import NameNotFoundError


class Mine:
    pass


class Other:
    pass


def refusal(name, **keywords):
    with pytest.raises(RegistryError) as caught:
        MODELS.get(name, **keywords)
    return caught.value


def test_a_class_or_function_is_its_own_type(scopes):
    assert MODELS.get(Mine) is Mine
    assert MODELS.get(len) is len


def test_plain_names_go_through_the_standard_scopes_in_order(scopes):
    scopes.add("models", A="collections:OrderedDict")
    scopes.add("backbones", A="collections:Counter", B="collections:Counter")
    assert MODELS.get("A").__name__ == "OrderedDict"
    assert MODELS.get("B").__name__ == "Counter"


def test_the_default_scope_comes_before_the_standard_scopes(scopes):
    scopes.add("models", A="collections:OrderedDict")
    scopes.add("mmdet", A="collections:Counter")
    assert MODELS.get("A").__name__ == "OrderedDict"
    assert MODELS.get("A", default_scope="mmdet").__name__ == "Counter"
    assert MODELS.get("models.A", default_scope="mmdet").__name__ == "OrderedDict"


def test_other_plugins_need_their_scope_so_that_installing_one_changes_no_config(scopes):
    scopes.add("timm", EfficientNet="collections:Counter")
    assert "did you mean 'timm.EfficientNet'?" in str(refusal("EfficientNet"))
    assert MODELS.get("timm.EfficientNet").__name__ == "Counter"


def test_a_name_absent_only_without_another_scope_is_told_with_that_scope_where_it_is_there(scopes):
    stand_in = scopes.add("mmdet")
    stand_in.alias("models", "SoftTeacher", "semi.SoftTeacher")
    for table in (stand_in, scopes.add("mmcls")):
        table.absent("models", "SoftTeacher", "det-semi has it")
    assert str(refusal("SoftTeacher")) == "there is no 'SoftTeacher' in MODELS: det-semi has it"
    scopes.add("semi", SoftTeacher="collections:Counter")
    assert "did you mean 'semi.SoftTeacher'?" in str(refusal("SoftTeacher"))
    assert MODELS.get("SoftTeacher", default_scope="mmdet").__name__ == "Counter"


def test_what_a_user_registered_comes_before_the_standard_scopes(scopes):
    MODELS.register_module(name="A", module=Mine)
    scopes.add("models", A="collections:Counter")
    assert MODELS.get("A") is Mine


def test_a_name_of_the_user_and_of_the_default_scope_is_ambiguous_unless_forced(scopes):
    scopes.add("mmdet", A="collections:Counter")
    MODELS.register_module(name="A", module=Mine)
    assert "write 'mmdet.A'" in str(refusal("A", default_scope="mmdet"))
    MODELS.register_module(name="A", module=Mine, force=True)
    assert MODELS.get("A", default_scope="mmdet") is Mine
    assert MODELS.get("mmdet.A").__name__ == "Counter"


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "torch.nn.Conv2d", "colorsys.rgb_to_hsv"])
def test_a_dotted_string_is_never_an_import_path(scopes, name):
    sys.modules.pop("colorsys", None)
    assert "never an import path" in str(refusal(name))
    assert "colorsys" not in sys.modules


def test_a_scope_that_is_not_installed_is_named_with_its_pip_line(scopes):
    assert "timm (not installed: pip install det-timm)" in str(refusal("timm.EfficientNet"))


def test_where_the_scope_is_not_installed_no_similar_name_is_offered_instead_of_its_pip_line(scopes):
    scopes.add("models", EfficientNetV9="collections:Counter")
    with pytest.raises(NameNotFoundError) as caught:
        MODELS.get("timm.EfficientNet")
    assert caught.value.candidates
    problem = Examination().unknown_name(MODELS, caught.value, {"type": "timm.EfficientNet"}, "model")
    assert "timm (not installed: pip install det-timm)" in str(problem)
    assert "did you mean" not in str(problem)


def test_a_default_scope_that_is_not_installed_is_an_error_and_not_passed_over(scopes):
    scopes.add("models", A="collections:Counter")
    assert "default scope 'timm' first, which is not installed: pip install det-timm" in str(
        refusal("A", default_scope="timm")
    )


def test_the_message_lists_scopes_with_their_state_and_close_names_of_all_scopes(scopes):
    scopes.add("models", RetinaNet="collections:Counter")
    scopes.add("far", RetinaNeXt="collections:Counter")
    scopes.broken["backbones"] = ImportError("no torch")
    MODELS.register_module(name="Retina", module=Mine)
    text = str(refusal("retinanett"))
    mine = len(MODELS.registered_names(USER))
    for part in (f"your modules ({mine} names)", "models (1 names)", "backbones (failed: no torch)",
                 "datasets (not installed)", "'RetinaNet'", "'far.RetinaNeXt'"):
        assert part in text


def test_a_name_of_another_registry_is_recognised(scopes):
    scopes.add("models", "task_utils", AnchorGenerator="collections:Counter")
    assert "'AnchorGenerator' is one of TASK_UTILS" in str(refusal("AnchorGenerator"))
    assert "'AnchorGenerator' is one of TASK_UTILS" in str(refusal("models.AnchorGenerator"))


def test_the_known_package_that_provides_a_name_is_told(scopes):
    assert "det-timm provides it" in str(refusal("TIMMBackbone"))


def test_a_broken_scope_is_a_hard_error_where_it_is_named_and_chains_its_cause(scopes):
    scopes.broken["timm"] = ImportError("no timm")
    scopes.add("models", A="collections:Counter")
    for name, scope in (("timm.A", None), ("A", "timm")):
        with pytest.raises(PluginError) as caught:
            MODELS.get(name, default_scope=scope)
        assert caught.value.__cause__ is scopes.broken["timm"]


def test_a_name_that_a_broken_standard_scope_may_hold_chains_its_cause(scopes):
    scopes.broken["models"] = ImportError("no torch")
    assert refusal("RetinaNet").__cause__.__cause__ is scopes.broken["models"]


def test_a_component_is_imported_when_it_is_asked_for_and_not_before(scopes, tmp_path, monkeypatch):
    (tmp_path / "lazy_component_module.py").write_text("class A: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    scopes.add("models", A="lazy_component_module:A", Wrong="lazy_component_module:Missing")
    refusal("NoSuchName")
    assert "lazy_component_module" not in sys.modules
    assert MODELS.get("A") is sys.modules["lazy_component_module"].A
    with pytest.raises(PluginError, match=r"lazy_component_module:Missing.*AttributeError") as caught:
        MODELS.get("Wrong")
    assert isinstance(caught.value.__cause__, AttributeError)
    del sys.modules["lazy_component_module"]


def _resolve(name):
    if name == "Explodes":
        raise ValueError("boom")
    return {"Made": Mine}.get(name)


def _names():
    return ["Made"]


def test_a_resolver_makes_names_that_the_table_lacks(scopes):
    table = scopes.add("timm", Listed="collections:Counter")
    table.resolver("models", f"{__name__}:_resolve", names=f"{__name__}:_names")
    sys.modules[__name__] = sys.modules.get(__name__) or _this_module()
    assert MODELS.get("timm.Made") is Mine
    assert MODELS.get("timm.Listed").__name__ == "Counter"
    assert "did you mean 'timm.Made'" in str(refusal("timm.Mode"))
    assert "1 names and a resolver" in str(refusal("timm.Nothing"))
    with pytest.raises(ValueError, match="boom") as caught:
        MODELS.get("timm.Explodes")
    assert "resolved timm.Explodes" in caught.value.__notes__[0]


def _this_module():
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


def test_registries_do_not_share_names(scopes):
    scopes.add("models", "task_utils", A="collections:Counter")
    assert "A" in TASK_UTILS
    assert "A" not in MODELS


@pytest.mark.parametrize("name", [None, 3, "", {"a": 1}, ["x"]])
def test_anything_but_a_name_or_a_class_is_refused(scopes, name):
    assert "must be a name or a class" in str(refusal(name))


def test_the_default_scope_belongs_to_one_thread_and_one_block(scopes):
    scopes.add("models", A="collections:OrderedDict")
    scopes.add("mmdet", A="collections:Counter")
    seen = []
    with default_scope("mmdet"):
        thread = threading.Thread(target=lambda: seen.append(MODELS.get("A").__name__))
        thread.start()
        thread.join()
        seen.append(MODELS.get("A").__name__)
    seen.append(MODELS.get("A").__name__)
    assert seen == ["OrderedDict", "Counter", "OrderedDict"]
