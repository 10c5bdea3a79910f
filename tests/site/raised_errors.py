"""The error classes of the package and the messages of the statements that create them, read from the source."""

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from anthropic_proxy import errors
from anthropic_proxy.errors import ConfigurationError, MissingExtra, ProxyError, require_package
from tests.support.paths import ROOT

PACKAGE = ROOT / "anthropic_proxy"
_BUILDERS = {
    "build_protocol_error": ("UpstreamProtocolError", "…", ""),
    "build_call_error": ("UpstreamProtocolError", "… sent a tool call that cannot be run: ", "broken-call"),
    "backup_error": ("ConfigurationError", "", "ledger-backup"),
    "field_error": ("InvalidRequest", "", "virtual-key-fields"),
    "parameter_error": ("InvalidRequest", "", "ledger-parameter"),
    "request_error": ("InvalidRequest", "", "administration-request"),
    "build_forced_tool_error": ("UnsupportedFeature", "tool_choice: … cannot be forced to call ", "forced-tool"),
}
"""Function that creates errors → class of the error, text before the last argument, code."""


@cache
def error_classes() -> dict[str, type[ProxyError]]:
    """Return every subclass of `ProxyError` in the package by name, in the order of the tree in `errors.__doc__`.

    Classes with status 0 are left out, because no client and no user receives them.
    """
    found: dict[str, type[ProxyError]] = {"ProxyError": ProxyError}
    defined = [
        (path, node) for path, tree in _trees().items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    while added := [
        (path, node.name) for path, node in defined if node.name not in found and _base_names(node) & found.keys()
    ]:
        found |= {name: getattr(importlib.import_module(_module_name(path)), name) for path, name in added}
    described = re.findall(r"\w+", errors.__doc__ or "")
    received = {name: kind for name, kind in found.items() if kind.status}
    return dict(sorted(received.items(), key=lambda item: described.index(item[0])))


def raised_messages() -> dict[tuple[str, str], list[str]]:
    """Return (class name, code) → messages, in the order of the source, with `…` for each variable piece.

    Messages without fixed text are omitted.
    """
    return _read_messages(has_remedy=True)


def raised_texts() -> dict[tuple[str, str], list[str]]:
    """As `raised_messages`, without the remedies that only administrators read."""
    return _read_messages(has_remedy=False)


@cache
def _read_messages(*, has_remedy: bool) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for tree in _trees().values():
        for name, call in sorted(_creations(tree), key=lambda created: created[1].lineno):
            codes = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            code = ast.literal_eval(codes[0]) if codes and isinstance(codes[0], ast.Constant) else ""
            code = code or _BUILDERS.get(_called(call), ("", "", ""))[2]
            message = re.sub(r"…(?:\s*…)*", "…", _message(call, has_remedy=has_remedy))
            if re.search(r"[A-Za-z]{2}[^A-Za-z]+[A-Za-z]{2}", message):
                found[name, code or error_classes()[name].code][" ".join(message.split())] = None
    return {key: list(messages) for key, messages in found.items()}


@cache
def named_texts() -> frozenset[str]:
    """Return every string of the package: a code that is none of them belongs to no error."""
    return frozenset(
        node.value
        for tree in _trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@cache
def _trees() -> dict[Path, ast.Module]:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    for tree in trees.values():
        for node in ast.walk(tree):
            for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
                for first, second in pairwise(block if isinstance(block, list) else ()):
                    _use_text_of_line_before(first, second)
    return trees


def _use_text_of_line_before(first: ast.stmt, second: ast.stmt) -> None:
    """Put a text in place of its name: `text = "no model"`, and then `raise UnknownModel(text)`."""
    match first:
        case ast.Assign(targets=[ast.Name(id=name)], value=(ast.Constant() | ast.JoinedStr()) as text):
            for call in (node for node in ast.walk(second) if isinstance(node, ast.Call) and node.args):
                if isinstance(call.args[0], ast.Name) and call.args[0].id == name:
                    call.args[0] = text


def _base_names(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).rpartition(".")[2] for base in node.bases}


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _creations(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call that creates an error, with the class of the error. A class may set the message itself."""
    names = error_classes()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node.func.id, node
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == require_package.__name__:
            yield MissingExtra.__name__, node
        elif isinstance(node, ast.Call) and _is_rejection(node):
            yield ConfigurationError.__name__, node
        elif isinstance(node, ast.Call) and _called(node) in _BUILDERS:
            yield _BUILDERS[_called(node)][0], node
        elif isinstance(node, ast.ClassDef) and node.name in names:
            calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
            yield from ((node.name, call) for call in calls if ast.unparse(call.func) == "super().__init__")


def _is_rejection(call: ast.Call) -> bool:
    """Return True for a call of `ConfigFile.rejection`."""
    return isinstance(call.func, ast.Attribute) and call.func.attr == "rejection"


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _message(call: ast.Call, *, has_remedy: bool) -> str:
    if (builder := _BUILDERS.get(_called(call))) is not None:
        return builder[1] + _text(call.args[-1])
    if not _is_rejection(call):
        remedies = [_text(keyword.value) for keyword in call.keywords if keyword.arg == "remedy" and has_remedy]
        return " ".join([_text(call.args[0]), *remedies]) if call.args else ""
    parts = {keyword.arg: _text(keyword.value) for keyword in call.keywords}
    return " ".join(filter(None, (parts.get("subject", "…"), _text(call.args[1]), parts.get("hint"))))


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case ast.FormattedValue(
            value=ast.Call(func=ast.Attribute(attr="locate")) | ast.Attribute(attr="location")
        ):  # a sentence about the place of a setting, which is no part of the text
            return ""
        case _:
            return "…"
