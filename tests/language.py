"""The word list for names and the rules for docstrings and comments, each with its reason.

`python -m tests.language [part of a path …]` prints every finding.
`tests/repository/test_language.py` enforces the rules.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator

from tests.support.paths import ROOT

Findings = Iterator[tuple[int, str]]

REJECTED_WORDS = {
    "a metaphor that no reader can look up": (
        "house door corridor street town room desk crew outlet way ways errand errands cabinet keeper voice letter"
    ),
    "code does not speak or feel; use encode, emit, log, notify, reset, forward": (
        "say says said tell tells told hear hears speak speaks speech forgive obey bury lend lends lent blame wish"
    ),
    "the state has a term: cooldown, open circuit, idle, unresponsive, disconnected, burst": (
        "rest resting awake silent gone rush slack"
    ),
    "use max and min": "most longest largest least deepest shortest",
    "several meanings; use pop, consume, apply, poll, refresh, rotate, iteration, result, fragment": (
        "take takes taken look looks turn turns page pages part parts"
    ),
}
"""Reason → words that no name may contain, split at `_` and capitals."""
EMPTY_WORDS = "util utils helper helpers common misc manager handler data info ctx params"
"""Words without information: rejected in names of modules and classes."""
ALLOWED_IN = {
    "data": ("wire.gemini.frames",),
    "page": (
        *("web", "upstream.contract", "server_blocks", "metrics", "listing", "endpoints", "plugins"),
        "tokens.media",
    ),
    "part": ("wire",),
}
"""Word → packages or modules in which it is a term of HTTP, of paging, of PDF or of a provider's API."""

_REASON_OF = {word: reason for reason, words in REJECTED_WORDS.items() for word in words.split()}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|'[^']*'|“[^”]*”")
_CLAUSES = re.compile(
    r"\b(say|says|said|saying|tell|tells|told|telling|hear|hears|heard|hearing|forgive|forgives|forgave|forgiven"
    r"|who(?:m|se|ever)?|(?:no|some|any)body|anew|in words|lets? go|left alone)\b",
    re.IGNORECASE,
)
_OPENING = re.compile(r"(What|Who|Whom|Whose|Where|How|That|Whether)\b")


def names_use_standard_terms(name: str, source: str) -> Findings:
    """Find defined names that contain a rejected word. `name` is the dotted module name."""
    module = name.rpartition(".")[2]
    yield from ((1, text) for text in _judge_name(module, name, (*_REASON_OF, *EMPTY_WORDS.split())))
    for line, defined, is_class in _definitions(ast.parse(source)):
        words = (*_REASON_OF, *EMPTY_WORDS.split()) if is_class else tuple(_REASON_OF)
        yield from ((line, text) for text in _judge_name(defined, name, words))


def _judge_name(defined: str, module: str, rejected: tuple[str, ...]) -> Iterator[str]:
    for word in (found.lower() for found in _WORDS.findall(defined)):
        allowed = ALLOWED_IN.get(word.removesuffix("s"), ())
        if word in rejected and not any(place in module for place in allowed):
            yield f"the name {defined} contains {word!r}: {_REASON_OF.get(word, 'it carries no information')}"


def _definitions(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                yield node.lineno, node.name, True
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name, False
            case ast.arg():
                yield node.lineno, node.arg, False
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id, False
            case ast.Attribute(ctx=ast.Store(), value=ast.Name(id="self")):
                yield node.lineno, node.attr, False
            case ast.alias(asname=str() as alias):
                yield node.lineno, alias, False


def sentences_name_their_subject(source: str) -> Findings:
    """Find docstrings and comments that describe a thing by a clause instead of its name."""
    for line, text, is_docstring in _sentences(source):
        plain = _QUOTED.sub("", text)
        if found := _CLAUSES.search(plain):
            yield line, f"{found[0]!r} in {_shortened(text)}"
        elif is_docstring and (found := _OPENING.match(text)):
            yield line, f"begins with {found[0]!r}: {_shortened(text)}"


def _sentences(source: str) -> Iterator[tuple[int, str, bool]]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if isinstance(getattr(node, "body", ()), list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    yield statement.lineno, text.strip(), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# "), False


def _shortened(text: str) -> str:
    first = text.split("\n", maxsplit=1)[0]
    return first if len(first) <= 90 else first[:87] + "…"


def main() -> int:
    """Print the findings of the modules with an argument in their path; without arguments, of all."""
    total = 0
    for path in sorted((ROOT / "anthropic_proxy").rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        if sys.argv[1:] and not any(part in relative for part in sys.argv[1:]):
            continue
        source = path.read_text("utf-8")
        name = relative.removesuffix(".py").removesuffix("/__init__").removeprefix("anthropic_proxy/").replace("/", ".")
        findings = sorted({*names_use_standard_terms(name, source), *sentences_name_their_subject(source)})
        for line, text in findings:
            print(f"{relative}:{line}: {text}")
        total += len(findings)
    print(f"{total} findings")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
