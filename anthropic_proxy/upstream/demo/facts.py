"""What a sentence holds that an argument could be made of: paths, commands, quotes, numbers, places, dates."""

import re
from collections.abc import Sequence

from msgspec import Struct

from anthropic_proxy.upstream.demo.words import word_set

_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|«\s*([^»\n]+?)\s*»|(?<!\w)['‘]([^'’\n]+)['’](?!\w)")
_TICKED = re.compile(r"```(?:\w*\n)?(.+?)```|`([^`\n]+)`", re.DOTALL)
_URL = re.compile(r"https?://[^\s<>\"'`]+[^\s<>\"'`.,;:!?)]")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_PATH = re.compile(
    r"(?<![\w/.@:-])(?:(?:~|\.{1,2})?/[\w.@+-]+(?:/[\w.@+-]+)*/?|[A-Za-z]:\\[\w\\. -]+\w"
    r"|[\w@+-]+(?:/[\w.@+-]+)+/?|[\w@+.-]+/(?!\S)|\.?[\w+-]+(?:\.[\w+-]+)*\.[A-Za-z]\w{0,7}|(?:Makefile|Dockerfile|LICENSE|README))(?![\w/@])"
)
_SPACED_PATH = re.compile(r"(?:~|\.{1,2})?/[\w.@+-]+(?:[ /][\w.@+-]+)*/?")
"""A path with spaces in it, as only quotes can show."""
_GLOB = re.compile(r"(?<!\S)[\w./-]*\*[\w./*{},-]*")
_NUMBER = re.compile(r"(?<![\w.#/-])-?\d+(?:[.,]\d+)*(?![\w/]|[.-]\w)")
_CODED = re.compile(r"(?<![\w./-])#?((?=[\w-]*\d)[A-Za-z0-9][\w-]*)(?![\w/])")
_CAPITALS = re.compile(r"\b[A-Z]{2,5}\b")
_EXPRESSION = re.compile(r"(?<![\w.])[-(]*\d[\d.,]*(?:\s*(?:\*\*|[-+*/%^×÷])\s*[-(]*\d[\d.,]*\)*)+")
_DATE = re.compile(
    r"\b(?:\d{4}-\d{2}-\d{2}(?:T[\d:.]+(?:Z|[+-]\d{2}:\d{2})?)?|today|tonight|tomorrow|yesterday"
    r"|(?:next |this |on )?(?:mon|tues|wednes|thurs|fri|satur|sun)day|next (?:week|month|year)"
    r"|(?:\d{1,2}\.? )?(?:january|february|march|april|may|june|july|august|september|october|november|december)"
    r"(?: \d{1,2}(?:st|nd|rd|th)?)?(?:,? \d{4})?|\d{1,2}:\d{2}(?: ?[ap]m)?|\d{1,2} ?[ap]m)\b",
    re.IGNORECASE,
)
_ZONE = re.compile(r"\b(?:[A-Z][A-Za-z]+/[A-Z][A-Za-z_]+|UTC|GMT)\b")
_WORD_NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_FROM_TO = re.compile(r"\bfrom\s+(.+?)\s+(?:to|into)\s+(.+)", re.IGNORECASE)
_CONVERTED = re.compile(r"\b(?:convert|exchange|change)\s+(?:[\d.,]+\s*)?(.+?)\s+(?:to|into|in)\s+(.+)", re.IGNORECASE)
_AFTER_TO = re.compile(r"\b(?:to|into)\s+(.+)", re.IGNORECASE)
_FOLDERS = (
    re.compile(r"\b(?:folder|directory|dir)\s+(?:called\s+|named\s+)?([\w@+-][\w.@+-]*)\b", re.IGNORECASE),
    re.compile(r"\b(?:in|of|under|inside|from|within)\s+(?:the\s+|my\s+|our\s+)?([\w@+-][\w.@+-]*)\b", re.IGNORECASE),
    re.compile(r"\b(?:list|ls|dir|tree)\s+([\w@+-][\w.@+-]*)\W*$", re.IGNORECASE),
)
"""From the surest to the least sure."""
_NO_FOLDERS = word_set(
    "the a an this that it its here there my your our current working same root project home all every each files file"
    " folder folders directory directories dir contents content and or with by for on is are to please recursively"
    " alphabetical detail details order total repository repo which what"
)
_PHRASE = re.compile(r"\b(?:in|at|for|near|of|about|on|with|from|to|around|between)\s+(?:the\s+)?", re.IGNORECASE)
_END = re.compile(
    r"[?!;:]|\.(?:\s|$)|,|\b(?:today|tonight|tomorrow|yesterday|now|right|please|and|or|then|on|in|at|for|with|by"
    r"|from|to|using|next|this|is|are|was|will)\b",
    re.IGNORECASE,
)
_NOT_NAMES = word_set(
    "I I'm I'd I'll What What's Who Who's Where When Why How Which Please Can Could Would Is Are Do Does Tell Give"
    " The A An And Or Then If My Your It Its This That Hi Hello Hey Use Call Ok OK"
)
_EMPTY_WORDS = word_set(
    "a an the me my your our his her its it this that them these those some any all us you one here there"
)


class Facts(Struct, frozen=True, kw_only=True):
    """One sentence taken apart; every list is in the order of the sentence."""

    text: str
    ticked: Sequence[str]
    """What stands in backticks."""
    quoted: Sequence[str]
    urls: Sequence[str]
    emails: Sequence[str]
    paths: Sequence[str]
    globs: Sequence[str]
    numbers: Sequence[str]
    codes: Sequence[str]
    """Tokens with a digit: `42`, `C-1042`."""
    capitals: Sequence[str]
    """Words in capitals, as currencies and share symbols are written."""
    expressions: Sequence[str]
    dates: Sequence[str]
    zones: Sequence[str]
    names: Sequence[str]
    """Capitalised phrases."""


def find_facts(text: str) -> Facts:
    """Take a sentence apart."""
    ticked = [first or second for first, second in _TICKED.findall(text)]
    bare = _TICKED.sub(" ", text)
    quoted = [next(filter(None, groups)) for groups in _QUOTED.findall(bare)]
    bare = _QUOTED.sub(" ", bare)
    urls = _URL.findall(text)
    emails = _EMAIL.findall(text)
    open_text = _EMAIL.sub(" ", _URL.sub(" ", text))
    marked = [value for value in (*ticked, *quoted) if _PATH.fullmatch(value) or _SPACED_PATH.fullmatch(value)]
    paths = list(dict.fromkeys([*marked, *_paths(_TICKED.sub(" ", _QUOTED.sub(" ", open_text)))]))
    bare = _PATH.sub(" ", _EMAIL.sub(" ", _URL.sub(" ", bare)))
    undated = _DATE.sub(" ", bare)
    return Facts(
        text=text,
        ticked=[value.strip() for value in ticked],
        quoted=quoted,
        urls=urls,
        emails=emails,
        paths=paths,
        globs=_GLOB.findall(open_text.replace("`", " ").replace('"', " ").replace("'", " ")),
        numbers=[*(value.replace(",", "") for value in _NUMBER.findall(undated)), *_spoken_numbers(undated)],
        codes=_CODED.findall(undated),
        capitals=_CAPITALS.findall(bare),
        expressions=[value.strip() for value in _EXPRESSION.findall(bare)],
        dates=[value.strip() for value in _DATE.findall(bare)],
        zones=_ZONE.findall(text),
        names=_names(undated),
    )


def find_places(facts: Facts) -> list[str]:
    """Return what follows a preposition and looks like a place: capitalised words, or else one short phrase."""
    text = _DATE.sub(" ", facts.text)
    for opening in _PHRASE.finditer(text):
        listed = _names(text[opening.end() :], only_first=True)
        if listed:
            return listed
    if facts.names:
        return list(facts.names)
    for opening in re.finditer(r"\b(?:in|at|for|near)\s+(?:the city of\s+)?", text, re.IGNORECASE):
        phrase = _until_end(text[opening.end() :])
        if phrase and phrase.split()[0].lower() not in _EMPTY_WORDS and len(phrase.split()) <= 3:
            return [phrase]
    return []


def find_from_to(text: str) -> tuple[str | None, str | None]:
    """Return what stands after "from" and after "to"."""
    both = _FROM_TO.search(text) or _CONVERTED.search(text)
    if both:
        return _clean(both[1]), _until_end(both[2])
    target = _AFTER_TO.search(text)
    origin = re.search(r"\bfrom\s+(.+)", text, re.IGNORECASE)
    return (_until_end(origin[1]) if origin else None), (_until_end(target[1]) if target else None)


def find_folders(facts: Facts) -> list[str]:
    """Return what a sentence about files names as their folder though it has no slash: `src`."""
    marked = [value for value in (*facts.ticked, *facts.quoted) if re.fullmatch(r"[\w.@+/-]+", value)]
    found = (match[1] for pattern in _FOLDERS for match in pattern.finditer(facts.text))
    return marked or [name for name in found if name.lower() not in _NO_FOLDERS][:1]


def find_object(text: str) -> str | None:
    """Return what the verb acts on, up to the next preposition: "hello" of "write hello to out.txt"."""
    match = re.match(
        r"\s*(?:please\s+|can you\s+|could you\s+|then\s+|and\s+)*[A-Za-z]+\s+(?:down\s+|up\s+)?(.+?)"
        r"(?:\s+(?:to|into|in|as|for|from|on|with)\s+.*)?[.!?]*\s*$",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    phrase = _clean(match[1]) if match else ""
    return phrase if phrase and phrase.split()[0].lower() not in _EMPTY_WORDS else None


def without_dates(phrase: str) -> str:
    """Return a phrase without the days and hours in it, and without the words that led to them."""
    undated = _DATE.sub(" ", phrase)
    return _clean(re.sub(r"\s+(?:on|at|for|by|from|until|to)\s*(?=[.!?]*\s*$)", "", " ".join(undated.split())))


def find_topic(text: str) -> str | None:
    """Return what is searched for or asked about."""
    match = re.search(r"\b(?:for|about|on|regarding|named|called)\s+(.+)", text, re.IGNORECASE | re.DOTALL)
    phrase = match[1] if match else find_object(text) or ""
    cut = r"\s+(?:in|on|inside|within|across|under)\s+(?:(?:the|my|this|our|all)\s+)*(?:\w+\s+)?"
    phrase = re.split(cut + r"(?:files?|web|internet|repo\w*|director\w+|folder|project|code\w*|docs?|base)\b", phrase)[
        0
    ]
    phrase = re.sub(r"^(?:the\s+)?(?:word|string|text|term|phrase|files?\s+(?:named|called))\s+", "", phrase.strip())
    return _clean(phrase) or None


def _clean(phrase: str) -> str:
    return phrase.strip().strip("\"'`“”‘’«».,;:!?").strip()


def _until_end(text: str) -> str | None:
    return _clean(_END.split(text, maxsplit=1)[0]) or None


def _paths(text: str) -> list[str]:
    """Leave out what only looks like a path: "e.g.", "1.5", "and/or"."""
    found = _PATH.findall(text)
    return [path for path in found if path.lower() not in {"e.g", "i.e", "and/or", "etc", "input/output"}]


def _spoken_numbers(text: str) -> list[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return [str(_WORD_NUMBERS.index(word)) for word in words if word in _WORD_NUMBERS and word not in {"zero", "one"}]


def _names(text: str, *, only_first: bool = False) -> list[str]:
    """Return capitalised phrases; `only_first`: those of one list ("Paris, Rome and New York") at the very start."""
    names: list[str] = []
    open_name = False
    for index, token in enumerate(re.findall(r"[^\W_][\w'’.-]*|[,;:?!&()]", text)):
        word = re.sub(r"['’]s$", "", token).rstrip(".'’")
        capital = (
            word[:1].isupper() and word not in _NOT_NAMES and not (index == 0 and not only_first and word.istitle())
        )
        if capital and open_name:
            names[-1] += " " + word
        elif capital:
            names.append(word)
        elif only_first and word.lower() not in {"and", "or", "&", ""} and token not in {",", "&"}:
            break
        # A sentence may end in a word with a dot; "St. Louis" goes on.
        open_name = capital and not (token.endswith(".") and len(word) > 3)
    # "Paris, France" is one place, "Paris, Rome and Oslo" are three.
    joined = ", ".join(names)
    return [joined] if only_first and len(names) == 2 and text.startswith(joined) else names
