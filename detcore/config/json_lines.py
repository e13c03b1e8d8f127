"""On which line of a JSON text each key stands, which Python's parser does not tell."""

import re
from collections.abc import Iterator

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}:\n]')


def key_lines(source: str) -> Iterator[list[int]]:
    """The lines of the keys of each object, objects in the order in which they end, as the parser meets them.

    Args:
        source: The text; it is read no further than to the end of the object that was asked for, so that it
            may be wrong from there on.
    """
    unfinished: list[list[int]] = []
    line = string_line = 1
    for match in _TOKEN.finditer(source):
        token = match[0][0]
        if token == "\n":
            line += 1
        elif token == '"':
            string_line = line
        elif token == "{":
            unfinished.append([])
        elif token == ":":
            unfinished[-1].append(string_line)
        else:
            yield unfinished.pop()
