"""The word list for names and the rules for sentences, each with its reason.

Sentences are docstrings, comments, messages of the package, and the prose of Markdown files.
`python -m tests.language [part of a path …]` prints every finding. `tests/repository/test_language.py` has the tests.
"""

import ast
import functools
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
        *("web", "upstream.contract", "server_blocks", "metrics", "listing", "endpoints", "plugins", "dashboard"),
        "tokens.media",
    ),
    "part": ("wire",),
}
"""Word → packages or modules in which it is a term of HTTP, of paging, of PDF or of a provider's API."""
ALLOWED_IN_TESTS = frozenset({"page", "pages", "part", "parts", "turn", "turns"})
"""Terms of tests and benches: a page of the documentation, a part of a message, a turn of a conversation."""

_REASON_OF = {word: reason for reason, words in REJECTED_WORDS.items() for word in words.split()}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|“[^”]*”")
_CLAUSES = re.compile(
    r"\b(say|says|said|saying|tell|tells|told|telling|hear|hears|heard|hearing|forgive|forgives|forgave|forgiven"
    r"|who(?:m|se|ever)?|(?:no|some|any)body|anew|in words|lets? go|left alone)\b",
    re.IGNORECASE,
)
_PROSE = re.compile(
    r"\b(?:(?:say|says|said|saying|tell|tells|told|telling|hear|hears|heard|hearing|forgive|forgives|forgave|forgiven"
    r"|whom|whoever|(?:no|some|any|every)body|anew|in words|in one go|lets? go|left alone|as it comes|under way"
    r"|corridor|lessons?|errands?|mend(?:s|ed|ing)?|lends?|lent|heal(?:s|ed|ing)?|the door|ways? out"
    r"|process in front)\b|(?<!reader )(?<!readers )(?<!people )(?<!client )(?<!user )(?<!users )\bwho\b)",
    re.IGNORECASE,
)
"""Clauses and metaphors that neither documentation nor a message contains. `whose` is allowed in both."""
_MARKUP = re.compile(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|\"[^\"]*\"|“[^”]*”")
_PROSE_EXCEPTIONS = {"docs/contributing/architecture.md": ("## 12. Names", "## 14. ")}
"""File → headings between which words are listed as rejected, and therefore used."""
_SENTENCE = re.compile(r"(?:[a-zA-Z,;:']+ ){3}")
_PATTERN = re.compile(r"\\[bwsd]|\(\?")
_MODEL_TEXTS = (
    "upstream/demo/",
    "messages/preparation/client_tools.py",
    "messages/preparation/server_tools.py",
    "upstream/web_fetch/",
)
"""Modules with texts that are sent to models: changing them changes replies."""
_OPENING = re.compile(r"(What|Who|Whom|Whose|Where|How|That|Whether)\b")
_WHAT = re.compile(r"\bwhat(?:ever)?\b", re.IGNORECASE)
"""A clause in place of a noun. Rejected in docstrings; comments may contain questions."""


@functools.lru_cache(maxsize=1)
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def names_use_standard_terms(name: str, source: str, allowed: frozenset[str] = frozenset()) -> Findings:
    """Find defined names that contain a rejected word. `name` is the dotted module name; `allowed`: not rejected."""
    module = name.rpartition(".")[2]
    rejected = tuple(word for word in _REASON_OF if word not in allowed)
    yield from ((1, text) for text in _judge_name(module, name, (*rejected, *EMPTY_WORDS.split())))
    for line, defined, is_class in _definitions(_parse(source)):
        words = (*rejected, *EMPTY_WORDS.split()) if is_class else rejected
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
        if found := _CLAUSES.search(plain) or (_WHAT.search(plain) if is_docstring else None):
            yield line, f"{found[0]!r} in {_shortened(text)}"
        elif is_docstring and (found := _OPENING.match(text)):
            yield line, f"begins with {found[0]!r}: {_shortened(text)}"


def _sentences(source: str) -> Iterator[tuple[int, str, bool]]:
    tree = _parse(source)
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if isinstance(getattr(node, "body", ()), list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    yield statement.lineno, text.strip(), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# "), False


def prose_names_its_subject(path: str, markdown: str) -> Findings:
    """Find clauses and metaphors in Markdown outside code and quotes. `path` is relative to the repository."""
    start, end = _PROSE_EXCEPTIONS.get(path, ("", ""))
    in_code = is_exception = False
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif start and line.startswith((start, end)):
            is_exception = line.startswith(start)
        elif not in_code and not is_exception and (found := _PROSE.search(_MARKUP.sub("", line))):
            yield number, f"{found[0]!r} in {_shortened(line)}"


def messages_name_their_subject(path: str, source: str) -> Findings:
    """Find clauses and metaphors in texts for users. `path` is relative to the package."""
    if path.startswith(_MODEL_TEXTS):
        return
    for line, text in _texts(source):
        plain = _MARKUP.sub("", text)
        if _SENTENCE.search(plain) and not _PATTERN.search(text) and (found := _PROSE.search(plain)):
            yield line, f"{found[0]!r} in {_shortened(text)}"


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield string literals except docstrings; fields of f-strings are empty."""
    tree = _parse(source)
    fragments = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=values):
                texts = (part.value for part in values if isinstance(part, ast.Constant))
                yield node.lineno, "".join(str(text) for text in texts)
            case ast.Constant(value=str() as text) if id(node) not in fragments | statements:
                yield node.lineno, text


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
        inside = relative.removeprefix("anthropic_proxy/")
        found = (*names_use_standard_terms(name, source), *sentences_name_their_subject(source))
        findings = sorted({*found, *messages_name_their_subject(inside, source)})
        for line, text in findings:
            print(f"{relative}:{line}: {text}")
        total += len(findings)
    print(f"{total} findings")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
