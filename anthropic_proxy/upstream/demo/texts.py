"""Which words of a sentence a text argument may be made of, by the argument's name."""

import posixpath
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import date

from msgspec import Struct

from anthropic_proxy.upstream.demo.acts import object_of
from anthropic_proxy.upstream.demo.facts import (
    Facts,
    find_folders,
    find_from_to,
    find_object,
    find_places,
    find_topic,
    without_dates,
)
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
    act: str = ""
    """What the tool does in this sentence; "" where that is not plain."""
    receiver: str = ""
    """The argument that must take what this is done to, whatever its name says."""
    today: date


_KINDS = {
    "path": "file path filename filepath notebook filenames paths files",
    "folder": "directory dir folder cwd root",
    "command": "command cmd script shell commands",
    "program": "program executable binary",
    "args": "args argv arguments",
    "url": "url uri link href website urls webpage",
    "email": "email mail recipient",
    "expression": "expression formula equation calculation",
    "query": "query q search question keyword keywords term terms topic subject queries regex",
    "glob": "glob",
    "pattern": "pattern",
    "content": "content contents text body message input note comment sentence phrase word",
    "date": "date day when time datetime start end deadline due",
    "timezone": "timezone tz zone",
    "origin": "origin from source src departure",
    "target": "destination to target dest dst arrival",
    "place": "city location place country address town region where state cities locations",
    "code": "id number code sku reference key identifier isbn ids symbol ticker symbols order",
    "currency": "currency currencies base quote",
    "language": "language lang locale",
    "old": "old",
    "new": "new replacement",
    "summary": "description reason explanation thought summary purpose why",
    "prompt": "prompt task instruction instructions request",
    "name": "name title person user customer username label names",
}
_TITLES = (["title"], ["name"], ["summary"], ["subject"], ["label"])
"""What calendars call the name of an entry."""
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}
LISTING = re.compile(
    r"\b(?:list|show|what|which)\b.*\b(?:files|director(?:y|ies)|folders?)\b(?!.*\w\.\w)(?!.*\b(?:should|must|need)\b)",
    re.IGNORECASE | re.DOTALL,
)
"""A wish to see what a folder holds."""
_HERE = re.compile(r"\b(?:here|files|(?:this|current|working) (?:folder|directory))\b", re.IGNORECASE)
_READ_ONLY = (
    (r"\b(?:current|working) (?:directory|folder)\b.*\?|\bwhere am i\b", "pwd"),
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
_NO_COMMAND = word_set("the a an it this that my our some all these those them in on for away out over faster slower")
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
_CALLED = re.compile(
    r"\b(?:named|called|titled)\s+([\w'-].*?)(?=\s+(?:on|at|for|in|to|from|and|today|tomorrow|next|this)\b"
    r"|\s+with\s+(?:the\s+)?(?:content|text|body|message|date|time)|[,.;!?]|\s*$)",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"\bremind me (?:to|about|of|that)\s+(.+)", re.IGNORECASE)
_NEW_THING = re.compile(r"^\s*(?:please\s+)?\w+\s+(?:an?|the|my)\s+(?:new\s+)?(.+)", re.IGNORECASE)
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
    kind = kind_of(name)
    if name == source.receiver and not (kind == "url" and source.facts.urls):
        thing = object_of(source.act)
        kind = thing if source.act in {"run", "list"} or _FINDERS[thing](source) else kind
    if concepts(source.subject) & {"calendar", "remind"} and split_words(name)[-1:] in _TITLES:
        kind = "title"
    found = [value for value in _FINDERS[kind](source) if value]
    explicit = find_explicit(name, source.facts.text)
    return found or explicit if kind == "command" or name == source.receiver else explicit or found


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
    lists = LISTING.search(facts.text) and not _RUN.search(facts.text)
    if lists:
        folders = facts.paths or find_folders(facts)
        return [" ".join(["ls -la", *map(shlex.quote, folders)])]
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
        if found:
            return [command.format(*(group.lower() for group in found.groups()))]
    topic = find_topic(facts.text) if re.search(r"\b(?:search|grep|find)\b", facts.text, re.IGNORECASE) else None
    wanted = facts.quoted[0] if facts.quoted else topic
    if wanted and re.search(r"\b(?:files?|code|repo\w*|project|folder|director\w+)\b", facts.text, re.IGNORECASE):
        return [f"grep -rn -- {shlex.quote(wanted)} ."]
    reads = re.search(r"\b(?:read|cat|open|say|says|contents?|what'?s in|what is in|show)\b", facts.text, re.IGNORECASE)
    return [f"cat {shlex.quote(path)}" for path in _absolute(facts.paths, source)] if reads else []


def split_command(source: Source) -> list[str]:
    """Return the words of the first command, as a shell would cut them."""
    command = next(iter(find_command(source)), "")
    try:
        return shlex.split(command)
    except ValueError:  # a quote that never closes
        return command.split()


def _paths(source: Source) -> list[str]:
    paths = source.facts.paths
    if source.writes:
        # Only a path that the sentence names as the place to write to; "a summary of notes.txt" must not overwrite it.
        text = source.facts.text
        paths = [path for path in paths if _DESTINATION.search(text[: text.rfind(path)])]
    if not paths and "list" in concepts(source.subject):
        return _listed(source)
    return _absolute(paths, source)


def _absolute(paths: Sequence[str], source: Source) -> list[str]:
    if source.directory is None or not source.directory.startswith("/"):
        return list(paths)
    return [path if path[0] in "/~" else posixpath.normpath(posixpath.join(source.directory, path)) for path in paths]


def _folders(source: Source) -> list[str]:
    if "list" in concepts(source.subject):
        return _listed(source)
    return _absolute(source.facts.paths, source) or [source.directory or "."]


def _listed(source: Source) -> list[str]:
    """Return the folders to list: those named, else where the client is, if it is files that the sentence speaks of."""
    here = LISTING.search(source.facts.text) or _HERE.search(source.facts.text)
    named = _absolute(source.facts.paths or find_folders(source.facts), source)
    return named or ([source.directory or "."] if here else [])


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
    match = _CALLED.search(source.facts.text)
    return [*source.facts.quoted, *([match[1]] if match else []), *source.facts.names]


def _titles(source: Source) -> list[str]:
    """Return what an entry of a calendar is to be called: its name, or what it is about, or else what it is."""
    text = source.facts.text
    match = _ABOUT.search(text) or _NEW_THING.search(text)
    title = without_dates(match[1]) if match and not _CALLED.search(text) else ""
    return [*source.facts.quoted, *([title[0].upper() + title[1:]] if title else _names(source))]


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
    "program": find_command,
    "args": find_command,
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
    "title": _titles,
    "other": _others,
}
