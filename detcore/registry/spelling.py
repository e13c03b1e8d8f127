"""Which known name a misspelt one was probably meant to be."""
from collections import Counter
from collections.abc import Iterable

FAR = 99.0


def distance(word: str, name: str, limit: float = FAR) -> float:
    """Slips of the pen between two words: letters left out, added, changed, or two swapped.

    A letter in the other case counts half (optimal string alignment otherwise).

    Args:
        word: One word.
        name: The other.
        limit: From here on the exact number is of no interest.

    Returns:
        The number; `FAR` where it exceeds ``limit``.
    """
    if abs(len(word) - len(name)) > limit:
        return FAR
    if (Counter(word.lower()) - Counter(name.lower())).total() > limit:
        return FAR
    before: list[float] = []
    row = [float(i) for i in range(len(name) + 1)]
    for i, letter in enumerate(word):
        earlier, before, row = before, row, [i + 1.0]
        for j, other in enumerate(name):
            change = 0.0 if letter == other else 0.5 if letter.lower() == other.lower() else 1.0
            best = min(before[j + 1] + 1, row[j] + 1, before[j] + change)
            if i and j and letter == name[j - 1] and word[i - 1] == other:
                best = min(best, earlier[j - 1] + 1)
            row.append(best)
        if min(row) > limit:
            return FAR
    return row[-1] if row[-1] <= limit else FAR


def ranked(word: str, names: Iterable[str]) -> list[tuple[float, str]]:
    """Names that ``word`` may have been meant to be, with their distances, nearest first.

    Args:
        word: What was written.
        names: What there is; among equals their order stays.
    """
    limit = max(1.0, min(5.0, len(word) / 3))
    others = (name for name in dict.fromkeys(names) if {*word.lower()} & {*name.lower()})
    near = [(min(distance(word[:80], name, limit), _beginning(word, name)), name) for name in others]
    return sorted((each for each in near if each[0] <= limit), key=lambda each: each[0])


def _beginning(word: str, name: str) -> float:
    """The beginning of a longer name is a way to misremember it."""
    short, long = sorted((word.lower(), name.lower()), key=len)
    return 2.0 if len(short) > 3 and long.startswith(short) and len(long) > len(short) + 1 else FAR


def slip(word: str, names: Iterable[str]) -> str | None:
    """The name that ``word`` most likely is a slip of, or None: for places where other names may be right.

    Names that differ in digits or in a plural's ``s`` only are taken for different names.
    """
    if len(word) < 2:
        return None
    names = list(names)
    limit = 1.0 if len(word) < 13 else 2.0
    for found, name in ranked(word, names):
        if found <= limit and len(name) > 1 and word != name and not _variants(word, name):
            return name
    return next((name for name in names if name != word and name.lower() == word.lower()), None)


def _variants(word: str, name: str) -> bool:
    plain = [each.rstrip("s").translate(_DIGITS) for each in (word, name)]
    return plain[0] == plain[1]


_DIGITS = {ord(digit): None for digit in "0123456789"}
