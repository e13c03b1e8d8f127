"""Reads from the sources of MMDetection, mmengine and mmcv which names they register and what these take.

    python tests/parity/reference_names.py SITE [SITE ...] > plugins/det_mmdet/reference_names.json

Each SITE is a folder that holds unpacked wheels. Sources are parsed, never imported.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("mmdet", "mmengine", "mmcv")
ANYTHING = "*"  # among the arguments: others are taken, too


class Sources:
    """Classes of all packages by name, and what registers them."""

    def __init__(self, sites: list[Path]) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        self.owner: dict[str, str] = {}
        self.registered: list[tuple[str, str, str, str]] = []  # package, registry, name, class
        for package in PACKAGES:
            for site in sites:
                for path in sorted((site / package).rglob("*.py")):
                    if not {"testing", ".mim"} & {*path.parts}:
                        self._read(package, ast.parse(path.read_text(encoding="utf-8")))

    def _read(self, package: str, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                # Names that two packages share (transforms) are kept apart; a base is looked up nearby first.
                self.classes[f"{package}.{node.name}"] = node
                for registry, name in _decorated(node):
                    self.registered.append((package, registry, name or node.name, node.name))
            elif isinstance(node, ast.Call) and (found := _called(node)) is not None:
                self.registered.append((package, *found))

    def arguments(self, package: str, name: str) -> list[str] | None:
        """What the constructor takes by name; None where it is not among the sources, or takes anything."""
        if name.startswith("MMCV_"):  # how mmdet imports mmcv's class of the same name
            package, name = "mmcv", name.removeprefix("MMCV_")
        node = next(
            (
                self.classes[f"{each}.{name}"]
                for each in (package, *PACKAGES)
                if f"{each}.{name}" in self.classes
            ),
            None,
        )
        if node is None:
            return None
        functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        init = next((each for each in functions if each.name == "__init__"), None)
        bases = [base for base in map(_last_name, node.bases) if base and base not in ("object", "ABC")]
        if init is None:
            for base in bases:
                inherited = self.arguments(package, base) if base != name else None
                if inherited is not None:
                    return inherited
            return None if bases else []
        given = [each.arg for each in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)][1:]
        if init.args.kwarg is None:
            return given
        if not _hands_on(init, init.args.kwarg.arg):
            return [*given, ANYTHING]
        other = {"mmdet": "mmcv", "mmcv": "mmcv", "mmengine": "mmengine"}[package]
        nearby = {base: other if base == name else package for base in bases}
        known = [each for base in bases if (each := self.arguments(nearby[base], base)) is not None]
        # `super(Parent, self)` may pass a parent over, so all of them count.
        return list(dict.fromkeys([*given, *(each for one in known for each in one)])) if known else None


def _hands_on(init: ast.FunctionDef, keywords: str) -> bool:
    """Whether `**keywords` goes to a parent's constructor."""
    calls = (node for node in ast.walk(init) if isinstance(node, ast.Call))
    return any(
        isinstance(call.func, ast.Attribute)
        and call.func.attr == "__init__"
        and any(each.arg is None and _last_name(each.value) == keywords for each in call.keywords)
        for call in calls
    )


def _decorated(node: ast.ClassDef) -> Iterator[tuple[str, str | None]]:
    for decorator in node.decorator_list:
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        if not (isinstance(function, ast.Attribute) and function.attr == "register_module"):
            continue
        registry = _last_name(function.value)
        names: list[str | None] = [None]
        if isinstance(decorator, ast.Call):
            named = [each.value for each in decorator.keywords if each.arg == "name"]
            for value in (*decorator.args, *named):
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    names = [value.value]
                elif isinstance(value, ast.List):
                    names = [each.value for each in value.elts if isinstance(each, ast.Constant)]
        for name in names:
            yield registry, name


def _called(node: ast.Call) -> tuple[str, str, str] | None:
    """``X.register_module('Name', module=cls)`` as ``(registry, name, class)``."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "register_module"):
        return None
    given = {each.arg: each.value for each in node.keywords}
    named = node.args[0] if node.args else given.get("name")
    module = _last_name(given["module"]) if "module" in given else ""
    name = named.value if isinstance(named, ast.Constant) else module
    return (_last_name(node.func.value), name, module) if module and name else None


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def read(sites: list[Path]) -> dict[str, dict[str, dict[str, list[str] | None]]]:
    """Package -> registry -> name -> names of its arguments, or None where they cannot be told."""
    sources = Sources(sites)
    found: dict[str, dict[str, dict[str, list[str] | None]]] = {package: {} for package in PACKAGES}
    for package, registry, name, component in sources.registered:
        found[package].setdefault(registry.lower(), {})[name] = sources.arguments(package, component)
    return found


def as_text(found: dict[str, dict[str, dict[str, list[str] | None]]]) -> str:
    """JSON with one name a line, sorted."""
    packages = []
    for package, registries in found.items():
        inner = []
        for registry in sorted(registries):
            names = sorted(registries[registry].items())
            lines = ",\n".join(f"   {json.dumps(name)}: {json.dumps(known)}" for name, known in names)
            inner.append(f"  {json.dumps(registry)}: {{\n{lines}\n  }}")
        packages.append(f" {json.dumps(package)}: {{\n" + ",\n".join(inner) + "\n }")
    return "{\n" + ",\n".join(packages) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(as_text(read([Path(each) for each in sys.argv[1:]])))
