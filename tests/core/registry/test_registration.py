import copy
import pickle

import pytest

from detcore.errors import PluginError, RegistryError
from detcore.registry import HOOKS, LOSSES, MODELS, Registry
from detcore.registry.scopes import ComponentTable


class Head:
    pass


class Neck:
    pass


def loss(pred):
    return pred


def test_the_decorator_registers_under_the_components_own_name(scopes):
    assert MODELS.register_module()(Head) is Head
    assert MODELS.register_module()(loss) is loss
    assert MODELS.get("Head") is Head
    assert MODELS.get("loss") is loss


def test_names_can_be_given_one_or_several(scopes):
    MODELS.register_module(name="A")(Head)
    MODELS.register_module(name=["B", "C"])(Head)
    assert all(MODELS.get(name) is Head for name in "ABC")
    assert "Head" not in MODELS


def test_it_works_without_parentheses_and_as_a_plain_call(scopes):
    assert MODELS.register_module(Head) is Head
    assert MODELS.register_module(name="N", module=Neck) is Neck
    assert MODELS.get("Head") is Head
    assert MODELS.get("N") is Neck


def test_a_taken_name_is_refused_and_both_owners_are_named(scopes):
    MODELS.register_module(name="A", module=Head)
    with pytest.raises(RegistryError, match=r"registered twice: by .*:Head and by .*:Neck"):
        MODELS.register_module(name="A", module=Neck)
    MODELS.register_module(name="A", module=Neck, force=True)
    assert MODELS.get("A") is Neck


def test_the_same_class_defined_anew_replaces_itself(scopes):
    def cell():
        class Anew:
            pass

        return Anew

    MODELS.register_module(module=cell())
    second = MODELS.register_module(module=cell())
    assert MODELS.get("Anew") is second


def test_shadowing_a_standard_name_needs_force(scopes):
    scopes.add("backbones", ResNet="collections:Counter")
    with pytest.raises(RegistryError, match="scope 'backbones' has already"):
        MODELS.register_module(name="ResNet", module=Head)
    MODELS.register_module(name="ResNet", module=Head, force=True)
    assert MODELS.get("ResNet") is Head
    assert MODELS.get("backbones.ResNet").__name__ == "Counter"


def test_a_component_of_a_plugins_package_goes_to_the_plugins_scope(scopes):
    scopes.add("mine")
    scopes.packages[Head.__module__] = ["mine"]
    MODELS.register_module(module=Head)
    assert MODELS.get("mine.Head") is Head
    with pytest.raises(RegistryError):
        MODELS.get("Head")


def test_the_decorator_does_nothing_where_the_table_names_the_same_object(scopes):
    scopes.add("mine", Head=f"{Head.__module__}:Head")
    scopes.packages[Head.__module__] = ["mine", "also_mine"]
    MODELS.register_module(module=Head)
    assert MODELS.registered("mine", "Head") is None


def test_a_name_that_table_and_decorator_give_to_two_objects_is_refused(scopes):
    scopes.add("mine", Head="collections:Counter")
    scopes.packages[Head.__module__] = ["mine"]
    MODELS.register_module(module=Head)
    with pytest.raises(RegistryError, match=r"stands twice in scope 'mine'.*collections:Counter.*:Head"):
        MODELS.get("mine.Head")


def test_a_package_of_several_scopes_must_use_its_table(scopes):
    scopes.packages[Head.__module__] = ["mmdet", "mmcv"]
    with pytest.raises(RegistryError, match="serves the scopes mmdet, mmcv"):
        MODELS.register_module(module=Head)


@pytest.mark.parametrize("name", ["a.b", "", [3]])
def test_malformed_names_are_refused(scopes, name):
    with pytest.raises(RegistryError, match="without a dot"):
        MODELS.register_module(name=name or [""], module=Head)


def test_only_what_can_be_called_is_registered(scopes):
    with pytest.raises(RegistryError, match="only classes and functions"):
        MODELS.register_module()(3)


def test_losses_are_models():
    assert LOSSES is MODELS


def test_a_registry_stays_itself_in_copies_and_pickles():
    assert copy.deepcopy(MODELS) is MODELS
    assert pickle.loads(pickle.dumps(HOOKS)) is HOOKS


def test_a_registrys_name_is_taken_once():
    with pytest.raises(RegistryError, match="already a registry 'models'"):
        Registry("models")


class TestTables:
    def table(self):
        table = ComponentTable("mine", "det-mine 1.2")
        table.add("models", "A", "pkg.mod:A")
        return table

    def test_a_name_given_twice_names_both_targets_and_the_distribution(self):
        with pytest.raises(PluginError, match=r"det-mine 1\.2.*'A' twice: 'pkg.mod:A' and 'pkg.mod:B'"):
            self.table().add("models", "A", "pkg.mod:B")

    def test_an_override_is_explicit_and_listed(self):
        table = self.table()
        table.add("models", "A", "pkg.mod:B", override=True)
        assert table.get("models", "A").target == "pkg.mod:B"
        assert table.overrides == [("models", "A", "pkg.mod:A", "pkg.mod:B")]

    def test_an_override_of_nothing_is_a_mistake(self):
        with pytest.raises(PluginError, match="overrides nothing"):
            self.table().add("models", "B", "pkg.mod:B", override=True)

    def test_an_unknown_registry_is_refused_with_the_known_ones(self):
        with pytest.raises(PluginError, match=r"no registry 'model'; known: .*models"):
            self.table().add("model", "B", "pkg.mod:B")

    @pytest.mark.parametrize("target", ["pkg.mod", "pkg.mod.B", ":B", "pkg:", "pkg mod:B", 3])
    def test_a_malformed_target_is_refused(self, target):
        with pytest.raises(PluginError, match=r"not of the form 'package\.module:attribute'"):
            self.table().add("models", "B", target)

    def test_a_name_with_a_dot_is_refused(self):
        with pytest.raises(PluginError, match="without a dot"):
            self.table().add("models", "timm.B", "pkg.mod:B")
