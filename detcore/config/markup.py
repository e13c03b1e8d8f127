"""YAML and JSON configs: the same data as in a Python file, in bounded time and memory."""

import json
from typing import Any

from detcore.config.json_lines import key_lines
from detcore.config.placeholders import Placeholders, quote_bare_markup
from detcore.config.values import MAX_DEPTH, Budget, ConfigFileError, LimitError, Table, a_kind, check_key
from detcore.errors import ConfigError


def read_markup(source: str, file: str, suffix: str, budget: Budget) -> Table:
    """Parse a YAML or JSON config; placeholders are still in its strings.

    Raises:
        ConfigFileError: It is malformed, too deep, too large, or holds more than data.
    """
    if "{{" in source:
        source = quote_bare_markup(source)
    value = _read_json(source, file) if suffix == ".json" else _read_yaml(source, file, budget)
    if value is None:
        value = Table()
    if not isinstance(value, dict):
        raise ConfigFileError(
            file, 1, f"a config is a mapping of keys to values, got {a_kind(value)}"
        )
    for key in value:
        if not isinstance(key, str):
            raise ConfigFileError(file, 0, f"top-level keys must be strings, got {key!r}")
    value.pop("$schema", None)  # tells an editor what to check the file by
    return Table(value) if not isinstance(value, Table) else value


def _read_json(source: str, file: str) -> Any:
    objects = key_lines(source)

    def unique(pairs: list[tuple[str, Any]]) -> Table:
        table = Table(pairs)
        for (key, _), line in zip(pairs, next(objects), strict=True):
            if key in table.lines:
                raise ConfigFileError(file, line, f"the key {key!r} stands twice in one object")
            table.lines[key] = (file, line)
        return table

    try:
        return json.loads(source, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigFileError(file, error.lineno, f"not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigFileError(file, 0, "nested too deeply to be a config") from None
    except ValueError as error:  # an over-long integer
        raise ConfigFileError(file, 0, f"not valid JSON: {error}") from None


def _read_yaml(source: str, file: str, budget: Budget) -> Any:
    import yaml

    from detcore.config.yaml_format import safe_loader

    try:
        loader_class = safe_loader(file, budget)
        _check_events(source, loader_class, budget)
        # A subclass of yaml's SafeLoader: plain data only, tags that name Python objects are refused.
        loader = loader_class(source)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigFileError(
            file, mark.line + 1 if mark else 0, f"not valid YAML: {error.problem}"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigFileError(file, 0, f"not valid YAML: {str(error).splitlines()[0]}") from None
    except (LimitError, RecursionError) as error:
        raise ConfigFileError(file, 0, str(error) or "nested too deeply to be a config") from None
    except (ValueError, OverflowError) as error:
        raise ConfigFileError(file, 0, f"not valid YAML: {error}") from None


def _check_events(source: str, loader_class: Any, budget: Budget) -> None:
    """Walk the document's events before anything is built, so that depth is known while it is harmless."""
    import yaml

    depth = 0
    for event in yaml.parse(source, Loader=loader_class):
        budget.charge(4)
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                line = getattr(event.start_mark, "line", 0) + 1
                raise LimitError(f"nested more than {MAX_DEPTH} levels deep (line {line})")
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            depth -= 1


def fill_placeholders(value: Any, placeholders: Placeholders, file: str, depth: int = 0) -> Any:
    """A copy of parsed markup with ``{{ ... }}`` replaced in all strings; keeps the lines of keys.

    Args:
        value: What the parser gave.
        placeholders: What to replace, and who pays.
        file: The file, as messages name it.
        depth: Level of nesting of the value.

    Raises:
        ConfigError: A placeholder names what is not there.
        LimitError: Shared or nested parts make it too large.
    """
    if type(value) is str:
        return placeholders.fill(value) if "{{" in value else value
    if not isinstance(value, (list, dict)):
        return value
    if depth > MAX_DEPTH:
        raise LimitError(f"a value is nested more than {MAX_DEPTH} levels deep, or holds itself")
    placeholders.budget.charge(len(value) + 1)
    if isinstance(value, list):
        return [fill_placeholders(item, placeholders, file, depth + 1) for item in value]
    twin = Table()
    lines = value.lines if isinstance(value, Table) else {}
    for key, item in value.items():
        try:
            new_key = placeholders.fill(key) if type(key) is str and "{{" in key else key
            check_key(new_key, placeholders.budget)
            twin[new_key] = fill_placeholders(item, placeholders, file, depth + 1)
        except ConfigFileError:
            raise
        except ConfigError as error:
            raise ConfigFileError(*lines.get(key, (file, 0)), f"{key}: {error}") from None
        if key in lines:
            twin.lines[new_key] = lines[key]
    return twin
