"""Messages about what a config may not hold, with file, line and the offending text."""
import ast

from detcore.config.values import ConfigFileError, LimitError
from detcore.errors import ConfigError

HINT = "a config is data (--trust-config runs a file as Python)"
MISTAKES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, LimitError, ConfigError)
"""What evaluating wrong input raises; everything else is a bug of ours and passes."""

_WHAT: dict[type[ast.AST], str] = {
    ast.Lambda: "a function (lambda)",
    ast.NamedExpr: "an assignment within an expression (:=)",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.GeneratorExp: "a generator outside of a call (make it a list)",
    ast.Starred: "a star here",
    ast.Slice: "a slice here",
    ast.MatMult: "@",
    ast.Import: "an import",
    ast.ImportFrom: "an import",
    ast.FunctionDef: "a function",
    ast.AsyncFunctionDef: "a function",
    ast.ClassDef: "a class",
    ast.While: "while",
    ast.With: "with",
    ast.AsyncWith: "with",
    ast.AsyncFor: "async",
    ast.Try: "try",
    ast.TryStar: "try",
    ast.Raise: "raise",
    ast.Assert: "assert",
    ast.Global: "global",
    ast.Nonlocal: "nonlocal",
    ast.Return: "return",
    ast.Match: "match",
}


def error_at(file: str, node: ast.AST, reason: str) -> ConfigFileError:
    """An error at a node of a file; quotes the source where it is short."""
    text = ""
    if isinstance(node, ast.expr) and sum(1 for _ in ast.walk(node)) < 30:
        try:
            text = ast.unparse(node)
        except (RecursionError, ValueError):
            text = ""
    shown = f": {text}" if 0 < len(text) <= 70 and "\n" not in text and text not in reason else ""
    return ConfigFileError(file, getattr(node, "lineno", 0), reason + shown)


def refused(file: str, node: ast.AST, at: ast.AST | None = None) -> ConfigFileError:
    """The error for a kind of syntax that a config may not hold; ``at`` says where, if the node does not."""
    what = _WHAT.get(type(node), type(node).__name__)
    return error_at(file, at or node, f"{what} is not allowed: {HINT}")


def describe(error: Exception) -> str:
    """One line about a Python error, for people who wrote no Python."""
    if isinstance(error, KeyError):
        return f"no key {error}"
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    return str(error) or type(error).__name__
