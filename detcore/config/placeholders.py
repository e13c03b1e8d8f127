"""What stands between double braces in a config, ``{{ fileBasename }}``, and ``${key}`` references."""

import ast
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detcore.config.document import closest
from detcore.config.values import Budget, ConfigFileError, LimitError, Origin, measure
from detcore.errors import ConfigError

# {{ fileDirname }}, {{_base_.model.neck}}, {{$HOME:/root}}, and {{'{{'}} for two literal braces.
PLACEHOLDER = re.compile(
    r"\{\{\s*(?:(?P<file>file(?:Dirname|Basename|BasenameNoExtension|Extname))"
    r"|_base_\.(?P<base>\w+(?:\.\w+)*)"
    r"|['\"]?\$(?P<env>\w+)\s*:\s*(?P<default>[^\s'\"{}]*)(?:\s*['\"])?"
    r"|(?P<brace>'\{\{'))\s*\}\}"
)
REFERENCE = re.compile(r"(?<!\$)(\$+)\{([A-Za-z_]\w*(?:\.\w+)*)\}")

# The closing quotes are optional: an open string is skipped once, not tried again at each of its characters.
_STRING = r"(?s:\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z))|\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?"
_LEXEME = re.compile(rf"(?P<skip>{_STRING}|\#[^\n]*)|(?P<bare>\{{\{{\s*\$\w+\s*:[^\s'\"{{}}]*\s*\}}\}})")
_MARKUP = re.compile(
    rf"(?m)(?P<lead>(?:^|[:,\[{{-])[ \t]*)(?P<bare>{PLACEHOLDER.pattern})(?=\s*(?:$|[,\]}}\#]))"
)

MAX_CHAIN = 50
_SECRET = re.compile(r"secret|token|passw|credential|private|auth|(api|access)_?key|_key$", re.IGNORECASE)
logger = logging.getLogger(__name__)


class Placeholders:
    """Replaces placeholders in the strings of one file.

    Args:
        path: The file; ``fileDirname`` and its kin are about it.
        base: The merged bases, for ``{{_base_.x}}``.
        budget: Pays for the values that are copied in.
        env: Receives the environment variables that were used.
        secrets: Whether variables whose names look like secrets may be read. A stranger's config could
            send them away within the address of a checkpoint, so only a trusted one may.
    """

    def __init__(
        self, path: Path, base: Mapping[str, Any], budget: Budget, env: dict[str, str], *, secrets: bool = False
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
                f"{match[0]} is a {type(value).__name__} and cannot stand within a longer string"
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
    import copy

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
            raise ConfigError(f"{done} is a {type(value).__name__}{size} and has no {part!r}")
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


class References:
    """Replaces ``${model.neck.num_outs}`` in the strings of a whole config by the value of that key.

    A reference that is the whole string keeps the value's type. ``$${key}`` is the text ``${key}``.

    Args:
        root: The config that keys are looked up in.
        budget: Pays for what is copied in, so that references to references stay bounded.
    """

    def __init__(self, root: Mapping[str, Any], budget: Budget) -> None:
        self.root = root
        self.budget = budget
        self.chain: list[str] = []

    def resolve(self, value: Any, where: Callable[[Any, Any], Origin] | None = None) -> Any:
        """A copy of the value with all references replaced; a value without any is given back as it is.

        Args:
            value: Any plain data.
            where: Gives the origin of a key of a dict, for messages.

        Raises:
            ConfigError: Unknown key, a circle of references, or a dict or list within a longer text.
        """
        kind = type(value)
        if kind is str:
            return self._text(value) if "${" in value else value
        if kind is list or kind is tuple:
            parts = [self.resolve(item, where) for item in value]
            return value if all(new is old for new, old in zip(parts, value, strict=True)) else kind(parts)
        if isinstance(value, dict):
            return self._mapping(value, where)
        return value

    def _mapping(self, value: dict[Any, Any], where: Callable[[Any, Any], Origin] | None) -> Any:
        changed = {}
        for key, item in value.items():
            try:
                new = self.resolve(item, where)
            except (ConfigError, LimitError) as error:
                if where is None or isinstance(error, ConfigFileError):
                    raise
                raise ConfigFileError(*where(value, key), str(error)) from None
            if new is not item:
                changed[key] = new
        if not changed:
            return value
        twin = value.copy()
        twin.update(changed)
        return twin

    def _text(self, text: str) -> Any:
        self.budget.charge(len(text))
        whole = REFERENCE.fullmatch(text)
        if whole and len(whole[1]) == 1:
            return copied(self._lookup(whole[2]))
        return REFERENCE.sub(self._inline, text)

    def _inline(self, match: re.Match[str]) -> str:
        if len(match[1]) > 1:
            return match[0][1:]
        value = self._lookup(match[2])
        if isinstance(value, (dict, list, tuple, set)):
            raise ConfigError(
                f"{match[0]} is a {type(value).__name__} and cannot stand within a longer string"
            )
        return str(value)

    def _lookup(self, dotted: str) -> Any:
        if dotted in self.chain:
            circle = " -> ".join([*self.chain[self.chain.index(dotted) :], dotted])
            raise ConfigError(f"${{...}} references go in a circle: {circle}")
        if len(self.chain) > MAX_CHAIN:
            raise ConfigError(f"more than {MAX_CHAIN} ${{...}} references lead to one another")
        self.chain.append(dotted)
        try:
            try:
                found = follow(self.root, dotted, "")
            except ConfigError as error:
                raise ConfigError(
                    f"${{{dotted}}}: {error} (write $${{{dotted}}} for the text itself)"
                ) from None
            value = self.resolve(found)
        finally:
            self.chain.pop()
        measure(value, self.budget)
        return value
