"""`read_quantities`: finds the numbers of tokens in a provider's error text, and the meaning of each number.

A `Quantity` is a number with its subject, the counted thing (input, output, or both as `context`), and its role. The
role is a maximum (`limit`), the size of the request (`amount`), or the difference of the two (`excess`).
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

from msgspec import Struct

_LEXEME = re.compile(
    r"(?P<skipped>[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]?[0-9:.]{0,16}Z?|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?"
    r"|[0-9]{1,6}\.[0-9]{1,6}(?:\.[0-9]{1,6}){1,4})"
    r"|(?P<number>[0-9]+(?:[,_][0-9]+)*(?:\.[0-9]+)?)(?P<factor>[kKmM]?)(?![^\W_])"
    r"|(?P<mixed>[0-9]\w*)"
    r"|(?P<word>[^\W\d]\w*(?:[-./]\w+)*)"
    r"|(?P<sign><=|>=|=<|=>|≤|≥|[<>+=\[\]()\-–/.;:,%\n!?])"
)
_JOINT = re.compile(r"[-./]")
_GROUPED = re.compile(r"[0-9]{1,3}(?:[,_][0-9]{3})+")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_MAX_DIGITS = 15
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


class Lexeme(Struct, frozen=True):
    """A word, a sign or a number of a provider's error text."""

    text: str
    """The word or sign as written. "#": a number."""
    value: int | None = None
    """The number, with the factor `k` or `M` applied. None: a word or a sign."""


def read_lexemes(text: str) -> Iterator[Lexeme]:
    """Yield the words, numbers and signs of an error text in order.

    Dates, times, versions and words that begin with a digit are omitted.
    """
    previous = ""
    for match in _LEXEME.finditer(text):
        kind, found = match.lastgroup, match[0]
        if kind in ("number", "factor"):
            for value in _values(match["number"], match["factor"].lower(), previous):
                yield Lexeme("#", value)
        elif kind == "word":
            yield from (Lexeme(word) for word in _split(found))
        elif kind == "sign":
            yield Lexeme(found)
        previous = found


@lru_cache(maxsize=1024)
def split_identifier(word: str) -> tuple[str, ...]:
    """Return the words of an identifier in lower case: `maxOutputTokens` becomes `max`, `output`, `tokens`."""
    return tuple(part.lower() for part in _PART.findall(word))


def _split(word: str) -> list[str]:
    """Return the words of a compound joined by `-`, `.` or `/`. A compound with a digit (model name) is not split."""
    return [word] if any(character.isdigit() for character in word) else _JOINT.split(word)


def _values(number: str, factor: str, previous: str) -> Iterator[int]:
    if len(number) > _MAX_DIGITS + 6:
        return
    whole, _, fraction = number.partition(".")
    if fraction and (factor or not fraction.strip("0")):
        yield int(float(f"{whole.replace(',', '')}.{fraction}") * _FACTORS[factor])
    elif not fraction and "," in number and (previous == "[" or not _GROUPED.fullmatch(number)):
        yield from (int(part) * _FACTORS[factor] for part in number.split(",") if part.isdecimal())
    elif not fraction:
        yield int(whole.replace(",", "").replace("_", "")) * _FACTORS[factor]


QuantitySubject = Literal["input", "output", "context", ""]
"""Subject of a number, the counted thing. `context`: input and output together. "": the text names no subject."""
QuantityRole = Literal["limit", "amount", "excess"]
"""Role of a number. `limit`: maximum. `amount`: size of the request. `excess`: amount minus limit."""

_INPUT = frozenset(("input", "inputs", "prompt", "prompts", "messages", "conversation", "history"))
_OUTPUT = frozenset(
    ("output", "outputs", "completion", "completions", "generated", "generation", "generate", "predict", "new", "gen")
)
_CONTEXT = frozenset(("context", "window", "total", "model", "ctx", "sequence", "seq", "embeddings"))
_MEASURES = frozenset(
    (
        *("max", "min", "maximum", "tokens", "token", "length", "len", "count", "size", "limit", "num", "n", "of"),
        *("number", "slot", "position", "requested", "text", "budget"),
    )
)
"""Words that may stand beside the subject in an identifier: `input_length`. An identifier with any other word
(`input_schema`) is no number of tokens."""
_SUBJECT_WORDS: dict[str, QuantitySubject] = {
    **dict.fromkeys(_INPUT, "input"),
    **dict.fromkeys(_OUTPUT - {"new", "gen", "predict"}, "output"),
    **dict.fromkeys(_CONTEXT - {"model", "total", "seq", "embeddings"}, "context"),
}
_LIMITS = frozenset(
    (
        *("limit", "limits", "limited", "maximum", "max", "most", "only", "up", "less", "fewer", "lower", "smaller"),
        *("below", "under", "than", "exceed", "exceeds", "exceeded", "exceeding", "allowed", "allows", "supports"),
        *(
            "support",
            "supported",
            "capacity",
            "size",
            "ceiling",
            "cap",
            "capped",
            "within",
            "between",
            "range",
            "quota",
        ),
        *("over", "accepts", "permits", "permitted", "fit", "fits", "above", "beyond", "handle", "cutoff"),
        *("upper", "bound", "restricted", "<", "<=", ">", "=<", "≤"),
    )
)
_AMOUNTS = frozenset(
    (
        *("requested", "request", "requests", "resulted", "contain", "contains", "containing", "has", "have", "had"),
        *("got", "given", "passed", "provided", "sent", "received", "was", "were", "current", "asked", "specified"),
        *("counted", "needs", "need", "requires", "required", "estimated", "actual", "keep", "large", "long", "found"),
        *("takes", "submitted", "your", "you", "totaling", "totalling", "measured", "comes", "observed"),
    )
)
_SPENT = frozenset(("used", "remaining", "consumed", "current", "currently", "left"))
"""Words (`used`, `remaining`) that mark an amount of earlier requests."""
_MAX_QUANTITIES = 64
"""Maximum number of quantities read from one error text. Later numbers are ignored; no known error has more."""
_REACH = 24
"""Maximum number of lexemes (words, signs) before a number that are searched for its meaning."""
_PLUS = Lexeme("+")
_SUMS = frozenset(("sum", "combined", "plus", "+"))
_RANGE_SIGNS = frozenset(("to", "and", "-", "–", ",", "inclusive", "exclusive", "(", ")", "<="))
_RANGES = frozenset(("range", "between", "[", "from", "within"))
_RANGE_DASHES = frozenset(("-", "–", "to"))
_VALUES = frozenset(("must", "should", "value", "values", "allowed", "valid"))
"""Words before a range written with a dash: `must be 1-8192`."""
_STRICT = frozenset(("less", "fewer", "lower", "smaller", "below", "under", "<"))
_MINIMUM_WORDS = frozenset(("least", "minimum", "min", "greater", "larger", "more", "above", "exceed"))
_ORDERS = frozenset(("must", "should", "needs"))
_NEGATIONS = frozenset(("not", "cannot", "can't", "no", "never", "t"))
_FILLERS = frozenset(
    (
        *("tokens", "token", "in", "of", "from", "for", "the", "your", "text", "tool", "this", "new", "max", "-", "a"),
        *("total", "context"),
    )
)
"""Words that are ignored between a number and the name of its subject: `8192 tokens in the messages`."""
_OTHER_UNITS = frozenset(
    (
        *(
            "characters",
            "chars",
            "character",
            "bytes",
            "byte",
            "kb",
            "mb",
            "gb",
            "kib",
            "mib",
            "gib",
            "images",
            "image",
        ),
        *("pixels", "pixel", "px", "files", "file", "tools", "functions", "seconds", "second", "minutes", "minute"),
        *("hours", "hour", "days", "day", "ms", "s", "messages", "requests", "rpm", "pages", "items", "elements", "%"),
        *("parameters", "b", "entries", "chunks", "times", "attempts", "properties", "stops", "words"),
    )
)
_WINDOW_NAMES = frozenset(("context", "window", "ctx"))
_WINDOW = _WINDOW_NAMES | {"n", "num", "len", "length", "limit", "size", "slot", "train", "model"}
"""Words in an identifier that names a context window: `n_ctx_slot`, `context_length`."""
_WINDOW_FILLERS = frozenset(("(", ":", "=", "of", "is", "size", "length", "limit", "slot", "the"))
"""Words that may stand between the name of a context window and its number."""
_ENDS = frozenset((".", "\n", "!", "?", ";"))


class Quantity(Struct, frozen=True, kw_only=True):
    """Number of tokens in an error text, with its subject (the counted thing) and its role, such as a limit."""

    value: int
    """Number of tokens. For an exclusive limit (`must be less than 8192`): the largest allowed number."""
    subject: QuantitySubject
    """Kind of the counted tokens: input, output or both (`context`). "": the text names no subject."""
    role: QuantityRole
    """The number is a maximum, the size of the request, or the part of the request above the maximum."""
    has_adjacent_subject: bool = False
    """True if the subject stands next to the number. False: it stands elsewhere, or is not named."""
    is_minimum: bool = False
    """True if the number is a lower bound (`at least 5000`)."""
    is_past_usage: bool = False
    """True if earlier requests used this amount (`used`, `remaining`)."""
    has_token_unit: bool = False
    """True if the word `tokens` follows the number."""


def read_quantities(text: str) -> list[Quantity]:
    """Return the numbers of tokens in an error text, in order. Numbers of other things, such as bytes, are omitted."""
    lexemes = list(read_lexemes(text))
    found: list[Quantity] = []
    sentence = previous = 0
    known: QuantitySubject = ""
    in_range = False
    for place, lexeme in enumerate(lexemes):
        if lexeme.text in _ENDS:
            sentence = previous = place + 1
        elif lexeme.value is None:
            subject = find_subject(lexemes, place)
            known = "" if {subject, known} == {"input", "output"} else subject or known
        else:
            if not in_range and _is_lower_end(lexemes, place, previous):
                in_range = _is_range(lexemes, place, previous)
            else:
                found += _read(lexemes, place, previous, sentence, known, in_range=in_range)
                in_range = False
            previous = _end_of(lexemes, place)
            if len(found) == _MAX_QUANTITIES:
                break
    return found


@lru_cache(maxsize=1024)
def _subject_of_word(word: str) -> QuantitySubject:
    plain = _SUBJECT_WORDS.get(word.lower(), "")
    parts = set(split_identifier(word))
    if plain or len(parts) < 2:
        return plain
    subjects = parts - _MEASURES
    if not subjects:
        return "output" if parts >= {"max", "tokens"} and "num" not in parts else ""
    if subjects <= _INPUT:
        return "input"
    if subjects <= _OUTPUT:
        return "output"
    return "context" if subjects <= _CONTEXT else ""


def find_subject(lexemes: Sequence[Lexeme], index: int) -> QuantitySubject:
    """Return the kind of tokens that the word at `index` names: `input`, `output`, or both as `context`. "": none."""
    word = lexemes[index].text
    if word.lower() == "tokens" and index and _is_output_limit(lexemes, index):
        return "output"
    if word == "Input" and index + 1 < len(lexemes) and lexemes[index + 1].text == "should":
        return ""  # text of the Pydantic validator: `max_tokens: Input should be less than …`
    return _subject_of_word(word)


def _is_output_limit(lexemes: Sequence[Lexeme], place: int) -> bool:
    """Return True if `tokens` is the second word of an output limit: `max tokens`, `maximum tokens value`."""
    before = lexemes[place - 1].text.lower()
    after = lexemes[place + 1].text.lower() if place + 1 < len(lexemes) else ""
    return before == "max" or (before == "maximum" and after in ("you", "value", "parameter", "setting", "requested"))


def _end_of(lexemes: Sequence[Lexeme], place: int) -> int:
    """Return the index of the first lexeme after the words that describe the number at lexeme `place`."""
    for after in range(place + 1, min(place + 7, len(lexemes))):
        word = lexemes[after].text.lower()
        if find_subject(lexemes, after) or word in _OTHER_UNITS:
            if word in ("input", "output", "prompt", "completion", "inputs", "new"):
                continue
            return after if _names_next(lexemes, after) else after + 1
        if word not in _FILLERS:
            return after
    return min(place + 7, len(lexemes))


def _names_next(lexemes: Sequence[Lexeme], place: int) -> bool:
    """Return True if the word at `place` is the name of the next number: `n_ctx` in `45000 n_ctx=32768`."""
    return [lexeme.text for lexeme in lexemes[place + 1 : place + 3]] in (["=", "#"], [":", "#"])


def _read(
    lexemes: Sequence[Lexeme], place: int, previous: int, sentence: int, known: QuantitySubject, *, in_range: bool
) -> Iterator[Quantity]:
    """Yield the number at lexeme `place` as a `Quantity`, if it counts tokens. `in_range`: upper end of a range."""
    end = _end_of(lexemes, place)
    if _is_other_unit(lexemes, place, end):
        return
    before = _words(lexemes, previous, place)
    subject = _subject_behind(lexemes, place, end) or _subject_before(lexemes, max(previous, place - _REACH), place)
    named = bool(subject)
    if {"total", "totaling", "totalling"}.intersection(before[-4:]):
        subject = _subject_behind(lexemes, place, end)
    elif not subject:
        subject = _subject_before(lexemes, max(sentence, place - 2 * _REACH), place) or known
    yield Quantity(
        value=(lexemes[place].value or 0) - _is_exclusive(lexemes, place, before),
        subject=subject,
        role="limit" if in_range else _role(lexemes, place, before),
        has_adjacent_subject=named,
        is_minimum=before[-2:] == ["at", "least"],
        is_past_usage=bool(_SPENT.intersection(before[-3:])),
        has_token_unit=any(lexeme.text.lower() in ("tokens", "token") for lexeme in lexemes[place + 1 : place + 3]),
    )


def _words(lexemes: Sequence[Lexeme], start: int, place: int) -> list[str]:
    return [lexeme.text.lower() for lexeme in lexemes[max(start, place - _REACH) : place]]


def _subject_behind(lexemes: Sequence[Lexeme], place: int, end: int) -> QuantitySubject:
    """Return the subject (input, output …) named after a number. In `9000 + 500`, the first number is the input."""
    if lexemes[place + 1 : place + 2] == [_PLUS]:
        return "input"
    if place > 1 and lexemes[place - 1] == _PLUS and lexemes[place - 2].value is not None:
        return "output"
    return next((found for at in range(place + 1, end) if (found := find_subject(lexemes, at))), "")


def _subject_before(lexemes: Sequence[Lexeme], start: int, place: int) -> QuantitySubject:
    """Return the nearest subject named before a number. A sum of input and output is the context."""
    words = range(place - 1, start - 1, -1)
    found = [(at, subject) for at in words if (subject := find_subject(lexemes, at))]
    if not found:
        return ""
    nearest: QuantitySubject = found[0][1]
    for at, subject in found[1:]:
        if {subject, nearest} == {"input", "output"}:
            between = {lexeme.text.lower() for lexeme in lexemes[at : found[0][0]]}
            if _SUMS & {lexeme.text.lower() for lexeme in lexemes[start:place]}:
                return "context"
            return "context" if between & {"+", "and", "plus"} and not between & {"#", "but"} else nearest
        if subject != nearest:
            break
    return nearest


def _is_other_unit(lexemes: Sequence[Lexeme], place: int, end: int) -> bool:
    behind = [lexeme.text.lower() for lexeme in lexemes[place + 1 : max(end, place + 2)]]
    if behind and behind[0] in _OTHER_UNITS:
        return True
    return len(behind) < 4 and bool(behind) and behind[-1] in ("characters", "chars", "bytes", "images", "files")


def _is_range(lexemes: Sequence[Lexeme], place: int, previous: int) -> bool:
    """Return True if the number at index `place` is the lower end of a range (`1-8192`)."""
    words = _words(lexemes, previous, place)[-4:]
    behind = lexemes[place + 1].text if place + 1 < len(lexemes) else ""
    if not _RANGES.intersection(words) and not (behind in _RANGE_DASHES and _VALUES.intersection(words)):
        return False
    for after in lexemes[place + 1 : place + 8]:
        if after.value is not None:
            return True
        if after.text.lower() not in _RANGE_SIGNS:
            break
    return False


def _is_lower_end(lexemes: Sequence[Lexeme], place: int, previous: int) -> bool:
    """Return True if the number at index `place` is the lower end of a range, or the minimum of a value."""
    if _is_range(lexemes, place, previous):
        return True
    words = _words(lexemes, previous, place)[-8:]
    if not _MINIMUM_WORDS.intersection(words) or not _ORDERS.intersection(words):
        return False
    return not _NEGATIONS.intersection(words) and not _STRICT.intersection(words)


def _is_exclusive(lexemes: Sequence[Lexeme], place: int, before: Sequence[str]) -> bool:
    behind = [lexeme.text.lower() for lexeme in lexemes[place + 1 : place + 3]]
    if behind == ["(", "exclusive"]:
        return True
    if before[-3:] == ["have", "less", "than"]:
        return False  # TGI: "must have less than 4096 tokens" accepts 4096 (router/src/validation.rs, 2026-11)
    return bool(_STRICT.intersection(before[-3:])) and "equal" not in before and "or" not in before[-4:]


def _role(lexemes: Sequence[Lexeme], place: int, before: Sequence[str]) -> QuantityRole:
    behind = [lexeme.text.lower() for lexeme in lexemes[place + 1 : place + 6]]
    sign = next((word for word in behind if word not in ("tokens", "token", ")")), "")
    if behind[:2] == ["/", "#"]:
        return "amount"
    if sign == "or" and {"less", "fewer", "lower", "smaller", "below"}.intersection(behind):
        return "limit"
    if before[-1:] == ["/"]:
        return "limit"
    if sign in _ORDERS and _STRICT.intersection(behind):
        return "amount"  # SiliconFlow: max_total_tokens (140000) must be less than or equal to max_seq_len (131072)
    if sign in (">", "+", ">=", "exceeds", "exceed", "exceeded", "≥"):
        return "amount"
    if before[-1:] == ["by"] or (before[-1:] and before[-1] in ("over", "excess") and sign in ("over", "above")):
        return "excess"
    if sign in ("over", "above", "too") and "by" not in behind:
        return "excess" if sign == "over" and not _LIMITS.intersection(before[-2:]) else "amount"
    if sign in ("limit", "maximum", "max", "allowed", "cap", "per", "/") and before[-1:] != ["requested"]:
        return "limit"
    if before[-1:] in (["least"],):
        return "amount"
    for word in reversed(before):
        if word in _LIMITS or word.endswith(("limit", "max_model_len", "max_total_tokens", "n_ctx")):
            return "limit"
        if word in _AMOUNTS or word in _SPENT:
            return "amount"
    return "limit" if _is_maximum(before) or _names_window(before) else "amount"


def _names_window(before: Sequence[str]) -> bool:
    """Return True if the words directly before a number name a context window: `context window (8192 tokens)`."""
    near = [word for word in before[-4:] if word not in _WINDOW_FILLERS]
    parts = split_identifier(near[-1]) if near else ()
    return _WINDOW.issuperset(parts) and not _WINDOW_NAMES.isdisjoint(parts)


def _is_maximum(before: Sequence[str]) -> bool:
    """Return True if an identifier before a number names a maximum of the model: `max_model_len`."""
    return any(
        "max" in (parts := split_identifier(word)) and _subject_of_word(word) == "context" and len(parts) > 1
        for word in before
    )
