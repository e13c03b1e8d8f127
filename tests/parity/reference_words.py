"""Reads from the configs of MMDetection which words stand where no component's signature describes them.

    python tests/parity/reference_words.py CONFIGS > plugins/det_mmdet/reference_words.json

CONFIGS is the folder `mmdet/.mim/configs` of an unpacked wheel. The result maps a key to the keys of dicts
without `type` under it, `KEY.type` to types there that are no component's name, and the empty key to free
variables at the top level, each in the order of how many configs write them.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from det_mmdet.names import reference_names

from detcore.config import Config
from detcore.engine.settings import KNOWN_KEYS
from detcore.errors import ConfigError

Words = dict[str, Counter[str]]
# Dicts whose keys are a project's own names, and settings of other programs.
FREE = {"caption_prompt", "detector", "label_map_file", "specific_key_path"}
CLASSIFIERS = ("mmcls", "mmpretrain")
HELPER = re.compile(r"[a-z_]+[a-z]$")
PLACE = re.compile(r"\w*(\.type)?")


def read(paths: Iterable[Path]) -> Words:
    """Words by place, counted once a config."""
    words: Words = defaultdict(Counter)
    takes = {name: known for _, _, name, known in reference_names()}
    for path in paths:
        try:
            cfg = Config.fromfile(path)
        except ConfigError:
            continue
        found: set[tuple[str, str]] = set()
        for key, value in cfg.items():
            if key not in KNOWN_KEYS and HELPER.match(key):
                found.add(("", key))
            _walk(value, key, takes, found)
        for place, word in found:
            if PLACE.fullmatch(place) and "." not in word:
                words[place][word] += 1
    return words


def _walk(value: Any, key: str, takes: dict[str, Any], found: set[tuple[str, str]]) -> None:
    if isinstance(value, list | tuple):
        for each in value:
            _walk(each, key, takes, found)
    if not isinstance(value, dict) or key in FREE or value.get("_scope_") in CLASSIFIERS:
        return
    kind = value.get("type")
    name = kind.rpartition(".")[2] if isinstance(kind, str) else None
    if name is not None and name not in takes and "." not in str(kind):
        found.add((f"{key}.type", name))
    for inner, each in value.items():
        if not str(inner).startswith("_") and (name is None or (takes.get(name) is None and inner != "type")):
            found.add((key, inner))
        _walk(each, inner, takes, found)


def as_text(words: Words) -> str:
    """JSON with one place a line, sorted; free variables of a single config are left out."""
    lines = []
    for place in sorted(words):
        known = [word for word, count in words[place].most_common() if place or count > 1]
        known.sort(key=lambda word: (-words[place][word], word))
        lines.append(f" {json.dumps(place)}: {json.dumps(known)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(as_text(read(sorted(Path(sys.argv[1]).rglob("*.py")))))
