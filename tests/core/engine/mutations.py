"""Misspells one word of a config, as a hand on a keyboard does, and asks whether the check notices."""
import copy
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from detcore.config import Config
from detcore.engine.check import CheckOptions, check_config

OPTIONS = CheckOptions(files=False, networks=False)


@dataclass(frozen=True)
class Outcome:
    """What came of one misspelt word."""

    path: str
    right: str
    wrong: str
    caught: bool
    suggested: bool
    told: str


def misspell(word: str, rng: random.Random) -> str:
    """The word with one letter inserted, left out, replaced, or two swapped."""
    while True:
        at, letter = rng.randrange(len(word)), rng.choice(string.ascii_lowercase)
        wrong = {
            "insert": word[:at] + letter + word[at:],
            "delete": word[:at] + word[at + 1 :],
            "replace": word[:at] + letter + word[at + 1 :],
            "swap": word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        }[rng.choice(["insert", "delete", "replace", "swap"])]
        if wrong and wrong != word:
            return wrong


def words(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """All keys of a config, and all its types: the path, and whether the value is meant."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str):
                yield (*path, key), False
            if key == "type" and isinstance(inner, str):
                yield (*path, key), True
            yield from words(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from words(inner, (*path, index))


def outcomes(configs: list[Config], number: int, seed: int = 0) -> list[Outcome]:
    """Misspell ``number`` words of the configs, one at a time, the configs taking turns."""
    rng = random.Random(seed)
    before = [_told(Config(cfg.to_dict())) for cfg in configs]
    places = [list(words(cfg.to_dict())) for cfg in configs]
    found = []
    for turn in range(number):
        which = turn % len(configs)
        path, is_value = rng.choice(places[which])
        found.append(_outcome(configs[which], path, is_value, before[which], rng))
    return found


def _outcome(
    cfg: Config, path: tuple[Any, ...], is_value: bool, before: list[str], rng: random.Random
) -> Outcome:
    tree = copy.deepcopy(cfg.to_dict())
    owner: Any = tree
    for key in path[:-1]:
        owner = owner[key]
    right = owner[path[-1]] if is_value else path[-1]
    wrong = misspell(right, rng)
    while not is_value and wrong in owner:
        wrong = misspell(right, rng)
    if is_value:
        owner[path[-1]] = wrong
    else:
        items = [(wrong if key == right else key, value) for key, value in owner.items()]
        owner.clear()
        owner.update(items)
    new = [each for each in _told(Config(tree)) if each not in before]
    told = new[0] if new else ""
    first = re.search(r"did you mean '([^']+)'", told)
    suggested = first is not None and first.group(1).rpartition(".")[2] == right.rpartition(".")[2]
    return Outcome(".".join(map(str, path)), right, wrong, bool(new), suggested, told)


def _told(cfg: Config) -> list[str]:
    """The problems, without the further places where the same one shows."""
    return [re.sub(r" \(also at [^)]*\)", "", str(each)) for each in check_config(cfg, options=OPTIONS)]


def share(found: list[Outcome], what: str) -> float:
    """Share of outcomes that have a quality: ``caught`` or ``suggested``."""
    return sum(getattr(each, what) for each in found) / len(found)
