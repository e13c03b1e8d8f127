"""Damaged configs give a ConfigError or a config, and never another exception."""
import random
import time

import pytest

from detcore.config import Config, shipped_configs
from detcore.config.pretty import to_text
from detcore.errors import ConfigError

PIECES = [
    *"()[]{},:='\"\\\n\t .*-+%#@&|<>$!?0a_\x00ä\ud7ff",
    *("{{", "}}", "${", "_base_", "**", "//", "<<", ">>", "dict(", "f'", "{{_base_.model}}", "${model}"),
    *("__class__", ".pop()", "!!", "1e999", "%s", ":=", "...", "'''"),
    *("for x in ", " if ", " else ", "lambda: ", "import ", "del ", "yield ", "not "),
    *("&a ", "*a ", "<<: ", "- ", "\n  ", '"""', "9" * 50),
]


def mutated(text, rng):
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + text[at + rng.randint(1, 12) :]
        elif kind == 1:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif kind == 2:
            text = text[:at] + rng.choice(PIECES) + text[at + 1 :]
        else:
            other = rng.randrange(len(text))
            text = text[:at] + text[other : other + rng.randint(1, 40)] + text[at:]
    return text


@pytest.mark.parametrize("suffix", [".py", ".yaml", ".json"])
def test_random_damage_is_a_config_error_at_worst(suffix):
    rng = random.Random(20)
    source = (shipped_configs() / "common/lsj-200e_coco-detection.py").read_text()
    if suffix != ".py":
        config = Config.fromfile(shipped_configs() / "retinanet/retinanet_r18_fpn_1x_coco.py")
        source = to_text(config.to_dict(), suffix)
    source = source.replace("'../", "'detcore::")
    refused = 0
    for _ in range(250):
        text = mutated(source, rng)
        start = time.process_time()
        try:
            Config.fromstring(text, suffix)
        except ConfigError:
            refused += 1
        assert time.process_time() - start < 1.0, text
    assert 20 < refused < 250
