"""The names of the four standard scopes, as the installed packages give them."""
import pytest

from detcore.plugins import host
from detcore.registry.scopes import STANDARD_SCOPES


def names(scope):
    if scope not in host().scopes():
        pytest.skip(f"{scope} is not installed")
    return {(registry, name) for registry, name, _ in host().table(scope)}


def test_the_names_of_the_standard_scopes_are_disjoint():
    taken: dict[tuple[str, str], str] = {}
    for scope in STANDARD_SCOPES:
        for key in names(scope):
            assert key not in taken, f"{key} is in {taken[key]} and in {scope}"
            taken[key] = scope


def test_the_cores_table_is_sorted():
    table = host().table("detcore")
    assert list(table._references) == sorted(table._references)
    for registry, references in table._references.items():
        assert list(references) == sorted(references), registry


@pytest.mark.parametrize("scope", STANDARD_SCOPES)
def test_every_name_of_a_standard_scope_can_be_imported(scope):
    if scope not in host().scopes():
        pytest.skip(f"{scope} is not installed")
    for _, _, reference in host().table(scope):
        assert callable(reference.load())
