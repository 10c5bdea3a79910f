"""Which words of a sentence a text argument may be made of, by the argument's name."""

import posixpath
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.upstream.demo.facts import Facts, find_from_to, find_object, find_places, find_topic
from anthropic_proxy.upstream.demo.words import concepts, split_words, word_set


class Source(Struct, frozen=True, kw_only=True):
    """What arguments are made of."""

    facts: Facts
    subject: Sequence[str]
    """Words of the tool's name: `lookup`, `customer`."""
    directory: str | None = None
    """The client's working directory."""
    result: str | None = None
    """What the step before answered; None: the sentence does not speak of it."""
    writes: bool = False
    """Whether the tool puts something into a file."""


_KINDS = {
    "path": "file path filename filepath notebook filenames paths files",
    "folder": "directory dir folder cwd root",
    "command": "command cmd script shell commands",
    "url": "url uri link href website urls webpage",
    "email": "email mail recipient",
    "expression": "expression formula equation calculation",
    "query": "query q search question keyword keywords term terms topic subject queries regex",
    "glob": "glob",
    "pattern": "pattern",
    "content": "content contents text body message input note comment sentence phrase word",
    "date": "date day when time datetime start end deadline due",
    "timezone": "timezone tz zone",
    "origin": "origin from source departure",
    "target": "destination to target arrival",
    "place": "city location place country address town region where state cities locations",
    "code": "id number code sku reference key identifier isbn ids symbol ticker symbols order",
    "currency": "currency currencies base",
    "language": "language lang locale",
    "old": "old",
    "new": "new replacement",
    "summary": "description reason explanation thought summary purpose why",
    "prompt": "prompt task instruction instructions request",
    "name": "name title person user customer username label names",
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_READ_ONLY = (
    (r"\b(?:current|working) (?:directory|folder)\b.*\?|\bwhere am i\b", "pwd"),
    (r"\b(?:list|show|what)\b.*\b(?:files|director(?:y|ies)|folders?)\b(?!.*\w\.\w)", "ls -la"),
    (r"\b(?:what(?:'s| is) the|current|today's)\s+(?:\w+\s+)?(?:time|date)\b", "date"),
    (r"\bwho am i\b", "whoami"),
    (r"\bgit (status|log|diff|branch)\b", "git {0}"),
    (r"\bdisk (?:space|usage)\b", "df -h"),
)
_RUN = re.compile(
    r"\b(?:run|execute|exec|launch)\b:?\s+(?:(?:the\s+)?(?:following\s+)?(?:(?:shell|bash|terminal)\s+)?command\s*:?\s*)?(.+)",
    re.IGNORECASE | re.DOTALL,
)
_RUN_END = re.compile(
    r"\s+(?:and|then)\s+(?:tell|show|give|report|say|explain|print|let|describe)\b"
    r"|\s+in (?:the |a )?(?:bash|shell|terminal)\b"
    r"|,?\s+please\b|\s+(?:using|with) (?:the )?(?:bash|shell)\b|[.!?]\s*$",
    re.IGNORECASE,
)
_NO_COMMAND = word_set("the a an it this that my our some all these those them in on for")
_CONTENT = re.compile(
    r"\b(?:(?:the )?(?:content|contents|text|message|body|words?|line)\b\s*(?:is|of|being)?"
    r"|containing|saying|says|with)\s*[:=]?\s+(?!the (?:content|text|word|line|message))(.+)",
    re.IGNORECASE | re.DOTALL,
)
_DESTINATION = re.compile(
    r"(?:\b(?:to|into|in|as|at|file|named|called|create|write|edit|update|save)\s+(?:(?:a|the|new|file|named|called)\s+)*|>\s*)"
    r"[\"'`]?$",
    re.IGNORECASE,
)
_REPLACE = re.compile(
    r"\b(?:replace|change|substitute|rename)\s+(.+?)\s+(?:with|by|to|into)\s+(.+)", re.IGNORECASE | re.DOTALL
)


def kind_of(name: str) -> str:
    """Return what an argument of this name holds; `other` where the name does not tell."""
    words = split_words(name)
    for word in words:
        if word in {"old", "new", "from", "to", "origin", "destination", "departure", "arrival"} and len(words) > 1:
            last = _KIND_OF.get(words[-1], "")
            return last if last in {"currency", "language", "date"} else _KIND_OF[word]
    return next((_KIND_OF[word] for word in reversed(words) if word in _KIND_OF), "other")


def find_texts(name: str, source: Source) -> list[str]:
    """Return values for a text argument, the likeliest first; those of a list are all its items."""
    explicit = find_explicit(name, source.facts.text)
    return explicit or [value for value in _FINDERS[kind_of(name)](source) if value]


def find_explicit(name: str, text: str) -> list[str]:
    """Return what the sentence says for this very argument: `title: "x"`, `title="x"`, `the title is x`."""
    words = r"[\s_-]*".join(map(re.escape, split_words(name)))
    if not words:
        return []
    said = r"(?:=|:|\bis\b|\bof\b|\bto be\b)\s*|(?=[\"'`“])"
    value_of = r"\"([^\"]+)\"|'([^']+)'|`([^`]+)`|“([^”]+)”|([^\s,;?!]+)"
    match = re.search(rf"\b{words}\b\s*(?:{said})(?:{value_of})", text, re.IGNORECASE)
    value = next(filter(None, match.groups()), "").rstrip(".") if match else ""
    return [value] if value and value.lower() not in {"the", "a", "an", "it", "what", "this"} else []


def find_command(source: Source) -> list[str]:
    """Return the commands that the sentence gives, or one that reads what it asks for."""
    facts = source.facts
    if facts.ticked and not all(value in facts.paths for value in facts.ticked):
        return [value for value in facts.ticked if value not in facts.paths or len(facts.ticked) == 1]
    match = _RUN.search(facts.text)
    if match:
        command = _RUN_END.split(match[1].strip(), maxsplit=1)[0].strip()
        if len(command) > 1 and command[0] == command[-1] and command[0] in "\"'`":
            command = command[1:-1]
        first = command.split()[0] if command.split() else ""
        # A command starts in lower case; "run the tests" names none.
        if re.fullmatch(r"[a-z0-9_./~$-]+(?:=\S*)?", first) and first not in _NO_COMMAND:
            return [command]
    for sign, command in _READ_ONLY:
        found = re.search(sign, facts.text, re.IGNORECASE)
        if found and command.startswith("ls"):
            return [" ".join([command, *map(shlex.quote, facts.paths)])]
        if found:
            return [command.format(*(group.lower() for group in found.groups()))]
    topic = find_topic(facts.text) if re.search(r"\b(?:search|grep|find)\b", facts.text, re.IGNORECASE) else None
    wanted = facts.quoted[0] if facts.quoted else topic
    if wanted and re.search(r"\b(?:files?|code|repo\w*|project|folder|director\w+)\b", facts.text, re.IGNORECASE):
        return [f"grep -rn -- {shlex.quote(wanted)} ."]
    reads = re.search(r"\b(?:read|cat|open|say|says|contents?|what'?s in|what is in|show)\b", facts.text, re.IGNORECASE)
    return [f"cat {shlex.quote(path)}" for path in _absolute(facts.paths, source)] if reads else []


def _paths(source: Source) -> list[str]:
    paths = source.facts.paths
    if source.writes:
        # Only a path that the sentence names as the place to write to; "a summary of notes.txt" must not overwrite it.
        text = source.facts.text
        paths = [path for path in paths if _DESTINATION.search(text[: text.rfind(path)])]
    if not paths and "list" in concepts(source.subject):
        return [source.directory or "."]
    return _absolute(paths, source)


def _absolute(paths: Sequence[str], source: Source) -> list[str]:
    if source.directory is None or not source.directory.startswith("/"):
        return list(paths)
    return [path if path[0] in "/~" else posixpath.normpath(posixpath.join(source.directory, path)) for path in paths]


def _folders(source: Source) -> list[str]:
    return _absolute(source.facts.paths, source) or [source.directory or "."]


def _queries(source: Source) -> list[str]:
    topic = find_topic(source.facts.text)
    return list(source.facts.quoted) or list(source.facts.ticked) or ([topic] if topic else [])


def _globs(source: Source) -> list[str]:
    return list(source.facts.globs) or [value for value in source.facts.quoted if "*" in value] or ["*"]


def _patterns(source: Source) -> list[str]:
    if set(source.subject) & {"glob", "list", "files"}:
        return _globs(source)
    return list(source.facts.quoted) or list(source.facts.ticked) or list(source.facts.globs) or _queries(source)


def _contents(source: Source) -> list[str]:
    facts = source.facts
    quoted = [value for value in (*facts.quoted, *facts.ticked) if value not in facts.paths]
    if quoted:
        return quoted
    if source.result is not None:
        return [source.result]
    match = _CONTENT.search(facts.text)
    if match:
        return [match[1].strip().rstrip(".")]
    words = find_object(facts.text)
    return [words] if words and words not in facts.paths else []


def _places(source: Source) -> list[str]:
    return find_places(source.facts) or list(source.facts.quoted)


def _origins(source: Source) -> list[str]:
    origin = find_from_to(source.facts.text)[0]
    return [origin] if origin else []


def _targets(source: Source) -> list[str]:
    target = find_from_to(source.facts.text)[1]
    return [target] if target else list(source.facts.emails)


def _codes(source: Source) -> list[str]:
    codes = [*source.facts.codes, *source.facts.capitals]
    return list(dict.fromkeys(codes)) or [*source.facts.quoted, *source.facts.ticked]


def _names(source: Source) -> list[str]:
    match = re.search(r"\b(?:named|called|titled)\s+([\w'-]+)", source.facts.text)
    return [*source.facts.quoted, *([match[1]] if match else []), *source.facts.names]


def _languages(source: Source) -> list[str]:
    match = re.search(r"\b(?:to|into|in)\s+([A-Z][a-z]+|[a-z]{2}(?:-[A-Z]{2})?)\b(?!\.)", source.facts.text)
    return [match[1]] if match else [name for name in source.facts.names if " " not in name]


def _changes(source: Source) -> tuple[list[str], list[str]]:
    match = _REPLACE.search(source.facts.text)
    if len(source.facts.quoted) + len(source.facts.ticked) > 1:
        first, second = [*source.facts.quoted, *source.facts.ticked][:2]
        return [first], [second]
    if not match:
        return [], []
    cut = re.compile(r"\s+in\s+(?:the\s+)?(?:file\s+)?\S+\s*[.!?]?\s*$|[.!?]\s*$", re.IGNORECASE)
    texts = [cut.sub("", part).strip().strip("\"'`") for part in match.groups()]
    return [re.sub(r"^the (?:word|text|line|string) ", "", texts[0])], [texts[1]]


def _summaries(source: Source) -> list[str]:
    return [source.facts.text.strip().replace("`", "").rstrip(".!?")[:80]]


def _others(source: Source) -> list[str]:
    facts = source.facts
    found = [*facts.quoted, *facts.codes, *facts.names, *facts.capitals]
    topic = find_topic(facts.text)
    return found or ([topic] if topic else [])


_FINDERS: Mapping[str, Callable[[Source], list[str]]] = {
    "path": _paths,
    "folder": _folders,
    "command": find_command,
    "url": lambda source: list(source.facts.urls),
    "email": lambda source: list(source.facts.emails) or _names(source),
    "expression": lambda source: [*source.facts.expressions, *source.facts.ticked, *source.facts.quoted],
    "query": _queries,
    "glob": _globs,
    "pattern": _patterns,
    "content": _contents,
    "date": lambda source: list(source.facts.dates),
    "timezone": lambda source: list(source.facts.zones) or _places(source),
    "origin": _origins,
    "target": _targets,
    "place": _places,
    "code": _codes,
    "currency": lambda source: list(source.facts.capitals),
    "language": _languages,
    "old": lambda source: _changes(source)[0],
    "new": lambda source: _changes(source)[1],
    "summary": _summaries,
    "prompt": _summaries,
    "name": _names,
    "other": _others,
}
