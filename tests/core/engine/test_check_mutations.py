"""How many misspelt words of the shipped configs the check notices, and how often it knows the right one."""
import pytest

from detcore.config import Config
from tests.core.engine.mutations import outcomes, share


@pytest.fixture(scope="module")
def shipped(root):
    whole = [Config.fromfile(file) for file in sorted((root / "configs").glob("*/*.py"))]
    return [cfg for cfg in whole if "model" in cfg and "train_dataloader" in cfg]


def test_misspelt_words_are_caught_and_the_right_one_is_suggested_first(shipped):
    found = outcomes(shipped, 100, seed=1)
    missed = [each for each in found if not each.caught]
    misled = [each for each in found if not each.suggested]
    assert share(found, "caught") >= 0.95, missed
    assert share(found, "suggested") >= 0.90, misled
