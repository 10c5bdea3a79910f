"""The error classes of the package and the messages of the statements that create them, read from the source."""

import ast
import re
from collections import defaultdict
from functools import cache

from anthropic_proxy import errors
from anthropic_proxy.errors import ProxyError
from tests.support.paths import ROOT

PACKAGE = ROOT / "anthropic_proxy"


def error_classes() -> dict[str, type[ProxyError]]:
    """Return every class of the exception tree by name, in the order of the tree in the docstring of `errors`."""
    tree = re.findall(r"\w+", errors.__doc__ or "")
    found = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    classes = {name: kind for name, kind in found.items() if issubclass(kind, ProxyError)}
    return dict(sorted(classes.items(), key=lambda item: tree.index(item[0])))


@cache
def raised_messages() -> dict[str, frozenset[str]]:
    """Return class name → messages in the source. Variable pieces are `…`; messages without fixed text are omitted."""
    names = error_classes()
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                message = re.sub(r"…(?:\s*…)*", "…", _text(node.args[0])) if node.args else ""
                if re.search(r"[A-Za-z]{2}[^A-Za-z]+[A-Za-z]{2}", message):
                    found[node.func.id].add(" ".join(message.split()))
    return {name: frozenset(messages) for name, messages in found.items()}


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case _:
            return "…"
