"""Rewrites the import lines of users' modules: from MMDetection's, mmengine's and mmcv's names to today's.

Only import statements are touched. What surrounds them (comments, blank lines, line ends, encoding) stays
byte for byte; a statement of which only some names are known is split, and the rest is reported.
"""

import ast
import contextlib
import functools
import importlib.util
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from det_mmdet.imports import MODULES, find_move, why_not
from detcore.errors import DataError

OLD = ("mmdet", "mmengine", "mmcv")
_WIDTH = 100  # a statement that would be longer is put in parentheses


@dataclass(frozen=True)
class Remark:
    """Something that is left to do by hand.

    Attributes:
        line: Line in the old text, from 1.
        text: What, and why.
    """

    line: int
    text: str


@dataclass
class Migration:
    """What became of one file's text.

    Attributes:
        text: The new text.
        remarks: What is left to do, by line.
    """

    text: str
    remarks: list[Remark] = field(default_factory=list)


def migrate_file(path: Path) -> tuple[str, Migration]:
    """The old text of a file, and the new one; nothing is written.

    Raises:
        DataError: The file cannot be read or is no Python.
    """
    try:
        text = path.read_bytes().decode(_encoding(path))
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        return text, migrate_text(text, path)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = getattr(error, "lineno", None) or 1
        raise DataError(f"{path}:{line}: is not valid Python: {getattr(error, 'msg', error)}") from error


def write_file(path: Path, text: str) -> None:
    """Replace a file's text, in the encoding that the file declares.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        path.write_bytes(text.encode(_encoding(path)))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def migrate_text(text: str, path: Path | None = None) -> Migration:
    """Rewrite the import statements of one module.

    Args:
        text: The module.
        path: Its file. Where that lies in MMDetection's tree (``mmdet/models/losses``), relative imports of
            what is not there are MMDetection's.

    Raises:
        SyntaxError: It is no Python.
    """
    tree = ast.parse(text)
    if _is_config(tree):
        return Migration(text)
    done = Migration(text)
    lines = io.StringIO(text, newline="").readlines()
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    # From the end, so that the places of those before stay valid.
    for node in sorted(statements, key=lambda each: (each.lineno, each.col_offset), reverse=True):
        new = list(_rewritten(node, path, tree, done.remarks))
        if new:
            _replace(lines, node, new)
    done.text = "".join(lines)
    done.remarks.sort(key=lambda remark: remark.line)
    return done


def _is_config(tree: ast.Module) -> bool:
    """Whether the module is a config in the pure Python style, which is read as it is."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "mmengine.config"
        and any(alias.name == "read_base" for alias in node.names)
        for node in tree.body
    )


def _rewritten(
    node: ast.Import | ast.ImportFrom, path: Path | None, tree: ast.Module, remarks: list[Remark]
) -> Iterator[str]:
    """The statements that take a statement's place; none where it stays as it is."""
    if isinstance(node, ast.Import):
        start, found = "import", list(_modules(node, tree, remarks))
    else:
        start = f"from {'.' * node.level}{node.module or ''} import"
        found = list(_names(node, path, remarks))
    if not any(moved for moved, _ in found):
        return
    groups: dict[str, list[str]] = {}
    for moved, written in found:
        module, _, name = moved.rpartition(":")
        groups.setdefault(module, []).append(name if moved else written)
    kept = groups.pop("", [])
    for module, names in groups.items():
        yield f"from {module} import {', '.join(names)}"
    if kept:
        yield f"{start} {', '.join(kept)}"


def _names(node: ast.ImportFrom, path: Path | None, remarks: list[Remark]) -> Iterator[tuple[str, str]]:
    """For each name of ``from x import a, b``: ``module:name`` of its new place or "", and its old text."""
    module = _absolute(node, path)
    for alias in node.names:
        written = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        if module.partition(".")[0] not in OLD:
            yield "", written
            continue
        bound = alias.asname or alias.name
        whole = MODULES.get(f"{module}.{alias.name}")
        move = tuple(whole.rsplit(".", 1)) if whole else find_move(module, alias.name)
        if move is None:
            remarks.append(Remark(node.lineno, f"{module}.{alias.name}: {why_not(module, alias.name)}"))
            yield "", written
            continue
        yield f"{move[0]}:{move[1]}" + ("" if move[1] == bound else f" as {bound}"), written


def _modules(node: ast.Import, tree: ast.Module, remarks: list[Remark]) -> Iterator[tuple[str, str]]:
    """The same for ``import a, b``."""
    for alias in node.names:
        written = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        package = alias.name.partition(".")[0]
        if package not in OLD:
            yield "", written
            continue
        # `import mmengine.fileio` binds `mmengine`.
        module = alias.name if alias.asname else package
        target = MODULES.get(module) if alias.name in MODULES else None
        if target is None:
            remarks.append(Remark(node.lineno, f"{alias.name}: import the names that are used, by `from`"))
            yield "", written
            continue
        bound = alias.asname or package
        used = sorted(_attributes(tree, bound) - _offered(module))
        if used:
            wanted = ", ".join(f"{bound}.{name}" for name in used)
            remarks.append(Remark(node.lineno, f"{alias.name}: has no {wanted} any more"))
            yield "", written
            continue
        parent, _, name = target.rpartition(".")
        yield f"{parent}:{name}" + ("" if name == bound else f" as {bound}"), written


def _attributes(tree: ast.Module, name: str) -> set[str]:
    """What the module asks of a name: ``b`` of every ``name.b``."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }


@functools.cache
def _offered(module: str) -> set[str]:
    """What the successor of a whole module has; its source is read, as importing it would import torch."""
    spec = importlib.util.find_spec(MODULES[module])
    assert spec is not None
    assert spec.origin is not None
    names: set[str] = set()
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _absolute(node: ast.ImportFrom, path: Path | None) -> str:
    """The module that is imported from; empty for relative imports that are not MMDetection's."""
    if not node.level:
        return node.module or ""
    if path is None:
        return ""
    inner = (node.module or "").split(".") if node.module else []
    folder = path.resolve().parents[node.level - 1]
    target = folder.joinpath(*inner)
    if target.with_suffix(".py").exists() or (target / "__init__.py").exists():
        return ""
    parts = folder.parts
    if "mmdet" not in parts:
        return ""
    start = len(parts) - 1 - parts[::-1].index("mmdet")
    return ".".join([*parts[start:], *inner])


def _replace(lines: list[str], node: ast.stmt, new: list[str]) -> None:
    """Put statements in a statement's place, with its indentation and the comments that stood within it."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset or 0 :].decode()
    newline = next((end for end in ("\r\n", "\n", "\r") if lines[first].endswith(end)), "\n")
    if before.strip() or after.lstrip().startswith(";"):  # shares its line with other statements
        lines[first : last + 1] = [before + "; ".join(new) + after]
        return
    comments = [before + text + newline for text in _comments(lines[first : last + 1])]
    whole = newline.join(_wrapped(before, statement, newline) for statement in new)
    lines[first : last + 1] = [*comments, whole + after]


def _comments(lines: list[str]) -> list[str]:
    """The comments within a statement of several lines; what stands behind it stays there anyway."""
    found = []
    with contextlib.suppress(tokenize.TokenError, IndentationError):  # the last line may be cut off
        for token in tokenize.generate_tokens(io.StringIO("".join(lines).lstrip(" \t")).readline):
            if token.type == tokenize.COMMENT and token.start[0] < len(lines):
                found.append(token.string)
    return found


def _wrapped(indent: str, statement: str, newline: str) -> str:
    if len(indent + statement) <= _WIDTH:
        return indent + statement
    start, _, names = statement.partition(" import ")
    inner = "".join(f"{indent}    {name},{newline}" for name in names.split(", "))
    return f"{indent}{start} import ({newline}{inner}{indent})"


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return tokenize.detect_encoding(file.readline)[0]
