"""What stands between double braces: ``{{ fileBasename }}``, ``{{_base_.x}}``, ``{{$NAME:default}}``."""

import ast
import copy
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcore.config.document import closest
from detcore.config.values import Budget, a_kind, measure
from detcore.errors import ConfigError

# {{ fileDirname }}, {{_base_.model.neck}}, {{$HOME:/root}}, and {{'{{'}} for two literal braces.
PLACEHOLDER = re.compile(
    r"\{\{\s*(?:(?P<file>file(?:Dirname|Basename|BasenameNoExtension|Extname))"
    r"|_base_\.(?P<base>\w+(?:\.\w+)*)"
    r"|['\"]?\$(?P<env>\w+)\s*:\s*(?P<default>[^\s'\"{}]*)(?:\s*['\"])?"
    r"|(?P<brace>'\{\{'))\s*\}\}"
)

# The closing quotes are optional: an open string is skipped once, not tried again at each of its characters.
_STRING = r"(?s:\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z))|\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?"
_LEXEME = re.compile(rf"(?P<skip>{_STRING}|\#[^\n]*)|(?P<bare>\{{\{{\s*\$\w+\s*:[^\s'\"{{}}]*\s*\}}\}})")
_MARKUP = re.compile(
    rf"(?m)(?P<lead>(?:^|[:,\[{{-])[ \t]*)(?P<bare>{PLACEHOLDER.pattern})(?=\s*(?:$|[,\]}}\#]))"
)

_SECRET = re.compile(r"secret|token|passw|credential|private|auth|(api|access)_?key|_key$", re.IGNORECASE)
logger = logging.getLogger(__name__)


class Placeholders:
    """Replaces placeholders in the strings of one file.

    Args:
        path: The file; ``fileDirname`` and its kin are about it.
        base: The merged bases, for ``{{_base_.x}}``.
        budget: Pays for the values that are copied in.
        env: Receives the environment variables that were used.
        secrets: Whether variables whose names look like secrets may be read. A stranger's config could send
            them away within the address of a checkpoint, so only a trusted one may.
    """

    def __init__(
        self, path: Path, base: Mapping[str, Any], budget: Budget, env: dict[str, str], secrets: bool = False
    ) -> None:
        self.file = {
            "fileDirname": path.parent.as_posix(),
            "fileBasename": path.name,
            "fileBasenameNoExtension": path.stem,
            "fileExtname": path.suffix,
        }
        self.base = base
        self.budget = budget
        self.env = env
        self.secrets = secrets

    def fill(self, text: str) -> Any:
        """Replace every placeholder of a string; one that is the whole string keeps its value's type.

        Raises:
            ConfigError: ``_base_`` has no such key, the variable is not set and has no default, or a dict or
                list stands within a longer text.
        """
        whole = PLACEHOLDER.fullmatch(text)
        if whole and whole["base"]:
            return self._base_value(whole["base"])
        if whole and whole["env"]:
            return literal_or_text(self._variable(whole["env"], whole["default"]))
        return PLACEHOLDER.sub(self._as_text, text)

    def bare(self, text: str) -> Any:
        """The value of what stood within double braces outside of a string: ``num={{_base_.num}}``.

        Raises:
            ConfigError: It is none of the placeholders.
        """
        whole = PLACEHOLDER.fullmatch("{{" + text + "}}")
        if whole is None or whole["brace"]:
            shown = "{{" + (text if len(text) <= 40 else text[:37] + "...") + "}}"
            raise ConfigError(f"{shown} is no placeholder: use _base_.key, '$NAME:default' or fileBasename")
        return self.fill(whole[0])

    def _as_text(self, match: re.Match[str]) -> str:
        if match["brace"]:
            return "{{"
        if match["file"]:
            return self.file[match["file"]]
        if match["env"]:
            return self._variable(match["env"], match["default"])
        value = self._base_value(match["base"])
        if isinstance(value, (dict, list, tuple, set)):
            raise ConfigError(
                f"{match[0]} is {a_kind(value)} and cannot stand within a longer string"
            )
        return str(value)

    def _variable(self, name: str, default: str) -> str:
        if not self.secrets and _SECRET.search(name):
            raise ConfigError(f"{name} looks like a secret, closed to configs (--trust-config allows it)")
        value = os.environ.get(name)
        if value is None:
            if not default:
                raise ConfigError(
                    f"the environment variable {name} is not set and {{{{${name}:...}}}} gives no default"
                )
            return default
        if name not in self.env:
            logger.info("the config uses the environment variable %s", name)
        self.env[name] = value
        self.budget.charge(len(value))
        return value

    def _base_value(self, dotted: str) -> Any:
        value = follow(self.base, dotted, "_base_")
        measure(value, self.budget)
        return copied(value)


def copied(value: Any) -> Any:
    """A copy of plain data; dicts keep their class."""
    return copy.deepcopy(value)


def follow(root: Any, dotted: str, name: str) -> Any:
    """The value at a dotted path through dicts and lists.

    Raises:
        ConfigError: There is nothing at that path; names the part that is missing and the closest key.
    """
    value, done = root, name
    for part in dotted.split("."):
        if isinstance(value, Mapping):
            if part not in value:
                raise ConfigError(f"{done or 'the config'} has no key {part!r}{closest(part, value)}")
            value = value[part]
        elif isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            size = f" of length {len(value)}" if isinstance(value, (list, tuple)) else ""
            raise ConfigError(f"{done} is {a_kind(value)}{size} and has no {part!r}")
        done = f"{done}.{part}" if done else part
    return value


def literal_or_text(text: str) -> Any:
    """A number, bool, None, list or tuple where the text is one in Python's notation, else the text."""
    if len(text) <= 10_000:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return text
        if isinstance(value, (str, int, float, bool, list, tuple, dict, type(None))):
            return value
    return text


def quote_bare_variables(source: str) -> str:
    """``num = {{$N:80}}`` is no Python: put the variable in quotes, outside of strings and comments."""

    def quoted(match: re.Match[str]) -> str:
        return match["skip"] or "{{'" + match["bare"][2:-2].strip() + "'}}"

    return _LEXEME.sub(quoted, source)


def quote_bare_markup(source: str) -> str:
    """``a: {{_base_.x}}`` is a mapping to YAML and an error to JSON: make it a string, to be replaced."""

    def quoted(match: re.Match[str]) -> str:
        inner = match["bare"].replace('"', "'").replace("'$", "$")
        return f'{match["lead"]}"{inner}"'

    return _MARKUP.sub(quoted, source)
