"""YAML configs: yaml's SafeLoader with lines, unique keys and bounded merges, and the dumper for it."""

import re
from typing import Any

import yaml

from detcore.config.values import Budget, LimitError, Table, check_key
from detcore.errors import ConfigError

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")


class _ConfigLoader(_Base):
    """Plain data only; a subclass per file knows its name and the budget."""

    file = ""
    budget = Budget()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolve ``<<: *base`` merges; a merge of merges may not grow without end."""
        merged: list[Any] = []
        own: list[Any] = []
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                own.append((key, value))
                continue
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in reversed(sources):
                if not isinstance(source, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, "<< needs a mapping", value.start_mark
                    )
                self.flatten_mapping(source)
                self.budget.charge(4 * len(source.value))  # each is copied, then built again
                merged.extend(source.value)
        node.value = merged + own

    def table(self, node: yaml.MappingNode) -> Any:
        """A mapping with the line of each key; in two steps, because a mapping may hold itself."""
        table = Table()
        yield table
        own = {id(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"}
        self.flatten_mapping(node)
        seen: set[Any] = set()
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            key = tuple(key) if isinstance(key, list) else key
            try:
                check_key(key, self.budget)
            except ConfigError as error:
                raise yaml.constructor.ConstructorError(None, None, str(error), key_node.start_mark) from None
            if key in seen and id(key_node) in own:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one mapping", key_node.start_mark
                )
            if id(key_node) in own:
                seen.add(key)
            table[key] = self.construct_object(value_node, deep=True)
            table.lines[key] = (self.file, key_node.start_mark.line + 1)


def _refuse(loader: Any, node: yaml.Node) -> Any:
    kind = str(node.tag).rpartition(":")[2]
    raise yaml.constructor.ConstructorError(None, None, f"{kind} is not config data", node.start_mark)


def safe_loader(file: str, budget: Budget) -> Any:
    """The loader class for one file.

    Args:
        file: As messages and origins name it.
        budget: Pays for what is built.
    """
    return type("ConfigLoader", (_ConfigLoader,), {"file": file, "budget": budget})


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    if len(node.value) > 400:
        raise LimitError("a number of more than 400 digits")
    return float(loader.construct_yaml_float(node))


def _int(loader: Any, node: yaml.ScalarNode) -> int:
    if len(node.value) > 1300:
        raise LimitError("a number of more than 1300 digits")
    return int(loader.construct_yaml_int(node))


class _ConfigDumper(yaml.SafeDumper):
    """Puts quotes around text that the loader would take for a number."""


def dump_yaml(plain: Any, width: int) -> str:
    """The text of plain data (dicts, lists and scalars), keys in their order."""
    options: dict[str, Any] = {"Dumper": _ConfigDumper, "sort_keys": False, "width": width}
    text: str = yaml.dump(plain, allow_unicode=True, **options)
    if any(mark in text for mark in "\x85\u2028\u2029\ufeff"):  # line breaks to YAML, read as spaces
        text = yaml.dump(plain, allow_unicode=False, **options)
    return text


def _setup() -> None:
    # 1e-4 is a number, a date is the text that was written, and there are no bytes.
    resolvers = {key: list(value) for key, value in _Base.yaml_implicit_resolvers.items()}
    for first, pairs in resolvers.items():
        resolvers[first] = [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    _ConfigLoader.yaml_implicit_resolvers = resolvers
    _ConfigLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    _ConfigDumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    _ConfigLoader.add_constructor("tag:yaml.org,2002:map", _ConfigLoader.table)
    _ConfigLoader.add_constructor("tag:yaml.org,2002:float", _float)
    _ConfigLoader.add_constructor("tag:yaml.org,2002:int", _int)
    for tag in ("binary", "timestamp", "omap", "pairs", "set"):
        _ConfigLoader.add_constructor(f"tag:yaml.org,2002:{tag}", _refuse)


_setup()
