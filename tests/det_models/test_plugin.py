import importlib
import subprocess
import sys

import pytest
from det_models.plugin import detcore_components

from detcore.registry import MODELS, TASK_UTILS


class Table:
    def __init__(self):
        self.entries = []

    def add_many(self, registry, components):
        assert list(components) == sorted(components)
        self.entries += [(registry, name, target) for name, target in components.items()]


TABLE = Table()
detcore_components(TABLE)


@pytest.mark.parametrize(("registry", "name", "target"), TABLE.entries)
def test_every_name_leads_to_the_class_of_that_name(registry, name, target):
    module, attribute = target.split(":")
    component = getattr(importlib.import_module(module), attribute)
    assert component.__name__ == name
    assert component.__doc__
    assert {"models": MODELS, "task_utils": TASK_UTILS}[registry].get(name) is component


def test_reading_the_table_imports_no_torch():
    code = "import sys, det_models.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
