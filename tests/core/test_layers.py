"""The walls of the house: which package may import which, read from the sources themselves."""
import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each layer may import itself and those before it. Layers on one line may import each other only
# where ALLOWED_ASIDE says so.
LAYERS: list[set[str]] = [
    {"errors"},
    {"structures", "registry"},
    {"config", "plugins"},
    {"weights"},
    {"nn", "ops", "data", "evaluation", "visualization"},
    {"engine"},
    {"apis"},
    {"cli"},
    {"testing"},
]
ALLOWED_ASIDE = {
    ("plugins", "config"),  # never the other way round
    ("nn", "ops"),  # layers are built over operators
}
# Small modules that sit in a room's layer without being its package.
SAME_ROOM = {"components": "registry", "hookspecs": "plugins"}
PLUGIN_PACKAGES = {"det_models", "det_backbones", "det_datasets", "det_mmdet", "det_timm", "det_semi"}
TORCH_FREE = {"errors", "registry", "components", "hookspecs", "plugins", "config"}


def sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def imported_modules(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package.split(".")
                base = base[: len(base) - (node.level - 1)]
                yield node.lineno, ".".join([*base, node.module] if node.module else base)
            elif node.module == "detcore":
                for alias in node.names:
                    yield node.lineno, f"detcore.{alias.name}"
            elif node.module:
                yield node.lineno, node.module


def room(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "detcore" or len(parts) < 2 or parts[1].startswith("_"):
        return None
    return SAME_ROOM.get(parts[1], parts[1])


def layer_of(name: str) -> int | None:
    for index, names in enumerate(LAYERS):
        if name in names:
            return index
    return None


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1])


def test_core_imports_only_leftwards() -> None:
    wrong = []
    for path in sources(ROOT / "detcore"):
        own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own is None or (path.parent == ROOT / "detcore" and path.name == "__init__.py"):
            continue
        own_layer = layer_of(own)
        assert own_layer is not None, f"{path.relative_to(ROOT)} belongs to no layer: add it to LAYERS"
        for line, module in imported_modules(path, package_of(path)):
            other = room(module)
            other_layer = layer_of(other) if other else None
            if other is None or other_layer is None or other == own or (own, other) in ALLOWED_ASIDE:
                continue
            if other_layer >= own_layer:
                wrong.append(f"{path.relative_to(ROOT)}:{line} ({own}) imports {module}")
    assert not wrong, "\n".join(wrong)


def test_core_never_imports_a_plugin() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(ROOT / "detcore")
        for line, module in imported_modules(path, package_of(path))
        if module.split(".")[0] in PLUGIN_PACKAGES
    ]
    assert not wrong, "\n".join(wrong)


PACKAGES = sorted(path for path in (*(ROOT / "plugins").iterdir(), *ROOT.glob("det_*")) if path.is_dir())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_plugin_packages_never_import_one_another(package: Path) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(package)
        for line, module in imported_modules(path, package.name)
        if module.split(".")[0] in PLUGIN_PACKAGES - {package.name}
    ]
    assert not wrong, "\n".join(wrong)


def test_start_up_modules_import_no_heavy_library() -> None:
    heavy = {"torch", "torchvision", "numpy", "cv2", "pycocotools"}
    wrong = []
    for path in sources(ROOT / "detcore"):
        relative = path.relative_to(ROOT / "detcore")
        if relative.parts[0].removesuffix(".py") not in TORCH_FREE:
            continue
        wrong += [
            f"detcore/{relative}:{line} imports {module}"
            for line, module in imported_modules(path, package_of(path))
            if module.split(".")[0] in heavy
        ]
    assert not wrong, "\n".join(wrong)
