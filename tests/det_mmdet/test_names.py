"""The names of MMDetection, mmengine and mmcv mean our components, or say why there is none."""

import pytest

from detcore.errors import RegistryError
from detcore.registry import DATA_SAMPLERS, HOOKS, MODELS, TRANSFORMS, default_scope
from detcore.registry.core import REGISTRIES
from detcore.registry.scopes import STANDARD_SCOPES, source

OURS = [(MODELS, "RetinaNet"), (DATA_SAMPLERS, "DefaultSampler"), (MODELS, "BN")]


@pytest.mark.parametrize("scope", ["mmdet", "mmengine", "mmcv"])
@pytest.mark.parametrize(("registry", "name"), OURS)
def test_a_name_of_openmmlab_is_the_component_of_that_name(scope, registry, name):
    assert registry.get(f"{scope}.{name}") is registry.get(name)
    assert registry.get(name, default_scope=scope) is registry.get(name)


def test_every_component_of_the_reference_that_we_have_is_reached_through_its_scope():
    table, reached = source().table("mmdet"), 0
    for registry in REGISTRIES.values():
        for scope in STANDARD_SCOPES:
            for name in source().table(scope).names(registry.name):
                if table.alias_of(registry.name, name):
                    assert registry.get(f"mmdet.{name}") is registry.get(f"{scope}.{name}")
                    reached += 1
    assert reached > 150


@pytest.mark.parametrize(("registry", "name", "reason"), [
    (MODELS, "mmdet.ByteTrack", "tracking"),
    (MODELS, "GroundingDINO", "language"),
    (MODELS, "CornerNet", "does not have it yet"),
    (HOOKS, "NPUProfilerHook", "ProfilerHook"),
    (TRANSFORMS, "Albu", "does not have it yet"),
    (MODELS, "mmpretrain.ResNet", "det-timm"),
])  # fmt: skip
def test_what_is_not_there_says_why(registry, name, reason):
    with pytest.raises(RegistryError, match=reason):
        registry.get(name)


def test_users_own_components_answer_to_the_scope_of_the_package_that_they_were_written_for():
    class HeadOfAUser:
        pass

    MODELS.register_module(module=HeadOfAUser)
    try:
        assert MODELS.get("mmdet.HeadOfAUser") is HeadOfAUser
        with default_scope("mmdet"):
            assert MODELS.get("HeadOfAUser") is HeadOfAUser
    finally:
        MODELS.forget(lambda scope, made: made.component is HeadOfAUser)


def test_names_with_the_modules_of_their_classes_as_mmengine_writes_them_out():
    assert MODELS.get("mmdet.models.detectors.retinanet.RetinaNet") is MODELS.get("RetinaNet")
    with pytest.raises(RegistryError, match="does not have it yet"):
        MODELS.get("mmdet.models.detectors.lad.LAD")
    with pytest.raises(RegistryError, match="no 'models"):
        MODELS.get("models.retinanet.RetinaNet")  # only in scopes that stand in for a package


def test_an_unknown_name_tells_how_many_the_scope_knows():
    with pytest.raises(RegistryError, match=r"searched: mmdet \([1-9]\d+ names\)"):
        MODELS.get("mmdet.NobodyHasThis")
