"""Errors for requests with too many tokens.

Theory of operation: three cases are recognized. The input exceeds the context window, the output limit (`max_tokens`)
is too high, or this request alone exceeds a rate limit. The client compacts its history only after Anthropic's text
with numbers, and the proxy lowers an output limit only if it knows the right one. So the numbers matter, and servers
write them in hundreds of ways. The module therefore reads every number in the text as a `Quantity`: what it counts
(input, output, both) and its role (limit, amount, excess), by the words around it. Then it decides with these, with the
tables of texts and codes, and with the counts of the proxy itself (`KnownTokenCounts`) for what the text lacks.

Why it is not simpler: a wrong number costs the user the conversation. Texts about images, files, bytes, quotas of a day
and thinking budgets contain the same words and numbers, and must not be taken for an input that is too long.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.engine.messages.preparation import STATED_WINDOW_MARGIN, available_output_tokens
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.failures.error_body import UpstreamFault
from anthropic_proxy.errors import UpstreamErrorCause


def regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a table row. Case is ignored.

    A part of `pattern` that matches any text must have a maximum length (`.{0,80}`), which limits the time of a search.
    """
    return compile_later(pattern, re.IGNORECASE)


def matches_any(rows: Iterable[re.Pattern[str]], text: str) -> bool:
    return any(row.search(text) for row in rows)


# The numbers of tokens in an error text

_LEXEME = compile_later(
    r"(?P<skipped>[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]?[0-9:.]{0,16}Z?|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?"
    r"|[0-9]{1,6}\.[0-9]{1,6}(?:\.[0-9]{1,6}){1,4})"
    r"|(?P<number>[0-9]+(?:[,_][0-9]+)*(?:\.[0-9]+)?)(?P<factor>[kKmM]?)(?![^\W_])"
    r"|(?P<mixed>[0-9]\w*)"
    r"|(?P<word>[^\W\d]\w*(?:[-./]\w+)*)"
    r"|(?P<sign><=|>=|=<|=>|≤|≥|[<>+=\[\]()\-–/.;:,%\n!?])"
)
_JOINT = compile_later(r"[-./]")
_GROUPED = compile_anchored(r"[0-9]{1,3}(?:[,_][0-9]{3})+")
_PART = compile_later(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_MAX_DIGITS = 15
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


class Lexeme(Struct, frozen=True):
    text: str
    """The word or sign as written. "#": a number."""
    value: int | None = None
    """The number, with the factor `k` or `M` applied. None: a word or a sign."""


def _read_lexemes(text: str) -> Iterator[Lexeme]:
    """Yield words, numbers and signs. Dates, times, versions and words that begin with a digit are omitted."""
    previous = ""
    for match in _LEXEME.finditer(text):
        kind = match.lastgroup
        found = match[0]
        if kind in ("number", "factor"):
            for value in _read_numbers(match["number"], match["factor"].lower(), previous):
                yield Lexeme("#", value)
        elif kind == "word":  # a compound with a digit is the name of a model
            yield from map(Lexeme, [found] if any(map(str.isdigit, found)) else _JOINT.split(found))
        elif kind == "sign":
            yield Lexeme(found)
        previous = found


@lru_cache(maxsize=1024)
def _split_identifier(word: str) -> tuple[str, ...]:
    return tuple(part.lower() for part in _PART.findall(word))


def _read_numbers(number: str, factor: str, previous: str) -> Iterator[int]:
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

_INPUT_WORDS = frozenset(("input", "inputs", "prompt", "prompts", "messages", "conversation", "history"))
_OUTPUT_WORDS = frozenset(
    ("output", "outputs", "completion", "completions", "generated", "generation", "generate", "predict", "new", "gen")
)
_CONTEXT_WORDS = frozenset(("context", "window", "total", "model", "ctx", "sequence", "seq", "embeddings"))
_MEASURES = frozenset(
    (
        *("max", "min", "maximum", "tokens", "token", "length", "len", "count", "size", "limit", "num", "n", "of"),
        *("number", "slot", "position", "requested", "text", "budget"),
    )
)
"""Words that may stand beside the subject in an identifier: `input_length`. An identifier with any other word
(`input_schema`) is no number of tokens."""
_SUBJECT_WORDS: dict[str, QuantitySubject] = {
    **dict.fromkeys(_INPUT_WORDS, "input"),
    **dict.fromkeys(_OUTPUT_WORDS - {"new", "gen", "predict"}, "output"),
    **dict.fromkeys(_CONTEXT_WORDS - {"model", "total", "seq", "embeddings"}, "context"),
}
_LIMITS = frozenset(
    (
        *("limit", "limits", "limited", "maximum", "max", "most", "only", "up", "less", "fewer", "lower", "smaller"),
        *("below", "under", "than", "exceed", "exceeds", "exceeded", "exceeding", "allowed", "allows", "supports"),
        *("support", "supported", "capacity", "size", "ceiling", "cap", "capped", "within", "between", "range"),
        *("quota", "over", "accepts", "permits", "permitted", "fit", "fits", "above", "beyond", "handle", "cutoff"),
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
_MAX_QUANTITIES = 64
"""Maximum number of quantities read from one error text. Later numbers are ignored; no known error has more."""
_REACH = 24
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
        *("characters", "chars", "character", "bytes", "byte", "kb", "mb", "gb", "kib", "mib", "gib", "images"),
        *("image", "pixels", "pixel", "px", "files", "file", "tools", "functions", "seconds", "second", "minutes"),
        *("minute", "hours", "hour", "days", "day", "ms", "s", "messages", "requests", "rpm", "pages", "items"),
        *("elements", "%", "parameters", "b", "entries", "chunks", "times", "attempts", "properties", "stops", "words"),
    )
)
_WINDOW_NAMES = frozenset(("context", "window", "ctx"))
_WINDOW = _WINDOW_NAMES | {"n", "num", "len", "length", "limit", "size", "slot", "train", "model"}
"""Words in an identifier that names a context window: `n_ctx_slot`, `context_length`."""
_WINDOW_FILLERS = frozenset(("(", ":", "=", "of", "is", "size", "length", "limit", "slot", "the"))
"""Words that may stand between the name of a context window and its number."""
_ENDS = frozenset((".", "\n", "!", "?", ";"))


class Quantity(Struct, frozen=True, kw_only=True):
    value: int
    """Number of tokens. For an exclusive limit (`must be less than 8192`): the largest allowed number."""
    subject: QuantitySubject
    """Kind of the counted tokens: input, output or both (`context`). "": the text names no subject."""
    role: QuantityRole
    has_adjacent_subject: bool = False
    """True if the subject stands next to the number. False: it stands elsewhere, or is not named."""
    is_minimum: bool = False
    """True if the number is a lower bound (`at least 5000`)."""
    is_past_usage: bool = False
    """True if earlier requests used this amount (`used`, `remaining`)."""
    has_token_unit: bool = False


def _read_quantities(text: str, *, names_output: bool) -> list[Quantity]:
    """Return the numbers of tokens in an error text, in order and without duplicates. Numbers of other things, such as
    bytes, are omitted. `names_output`: a number without a subject counts output tokens.
    """
    lexemes = list(_read_lexemes(text))
    found: list[Quantity] = []
    sentence = previous = 0
    known: QuantitySubject = ""
    in_range = False
    for place, lexeme in enumerate(lexemes):
        if lexeme.text in _ENDS:
            sentence = previous = place + 1
        elif lexeme.value is None:
            subject = _find_subject(lexemes, place)
            known = "" if {subject, known} == {"input", "output"} else subject or known
        else:
            if not in_range and _is_lower_end(lexemes, place, previous):
                in_range = _is_range(lexemes, place, previous)
            else:
                found += _read_quantity(lexemes, place, previous, sentence, known, in_range=in_range)
                in_range = False
            previous = _end_of(lexemes, place)
            if len(found) == _MAX_QUANTITIES:
                break
    named = {one.value for one in found if one.has_adjacent_subject}
    kept: list[Quantity] = []
    for one in found:
        is_repeated = not one.has_adjacent_subject and one.value in named
        if names_output and not one.subject and not is_repeated:
            kept.append(structs.replace(one, subject="output"))
        elif not is_repeated and one not in kept:
            kept.append(one)
    return kept


@lru_cache(maxsize=1024)
def _subject_of_word(word: str) -> QuantitySubject:
    plain = _SUBJECT_WORDS.get(word.lower(), "")
    parts = set(_split_identifier(word))
    if plain or len(parts) < 2:
        return plain
    subjects = parts - _MEASURES
    if not subjects:
        return "output" if parts >= {"max", "tokens"} and "num" not in parts else ""
    if subjects <= _INPUT_WORDS:
        return "input"
    return "output" if subjects <= _OUTPUT_WORDS else "context" if subjects <= _CONTEXT_WORDS else ""


def _find_subject(lexemes: Sequence[Lexeme], index: int) -> QuantitySubject:
    word = lexemes[index].text
    if word.lower() == "tokens" and index:
        before = lexemes[index - 1].text.lower()
        after = lexemes[index + 1].text.lower() if index + 1 < len(lexemes) else ""
        if before == "max" or (before == "maximum" and after in ("you", "value", "parameter", "setting", "requested")):
            return "output"
    if word == "Input" and index + 1 < len(lexemes) and lexemes[index + 1].text == "should":
        return ""  # text of the Pydantic validator: `max_tokens: Input should be less than …`
    return _subject_of_word(word)


def _end_of(lexemes: Sequence[Lexeme], place: int) -> int:
    """Return the index of the first lexeme after the words that describe the number at lexeme `place`."""
    for after in range(place + 1, min(place + 7, len(lexemes))):
        word = lexemes[after].text.lower()
        if _find_subject(lexemes, after) or word in _OTHER_UNITS:
            if word in ("input", "output", "prompt", "completion", "inputs", "new"):
                continue
            # `n_ctx` in `45000 n_ctx=32768` is the name of the next number
            signs = [lexeme.text for lexeme in lexemes[after + 1 : after + 3]]
            return after if signs in (["=", "#"], [":", "#"]) else after + 1
        if word not in _FILLERS:
            return after
    return min(place + 7, len(lexemes))


def _read_quantity(
    lexemes: Sequence[Lexeme], place: int, previous: int, sentence: int, known: QuantitySubject, *, in_range: bool
) -> Iterator[Quantity]:
    """Yield the number at lexeme `place` as a `Quantity`, if it counts tokens. `in_range`: upper end of a range."""
    end = _end_of(lexemes, place)
    behind = [lexeme.text.lower() for lexeme in lexemes[place + 1 : max(end, place + 2)]]
    if behind and behind[0] in _OTHER_UNITS:
        return
    if behind and len(behind) < 4 and behind[-1] in ("characters", "chars", "bytes", "images", "files"):
        return
    before = _words_before(lexemes, previous, place)
    subject = _subject_behind(lexemes, place, end) or _subject_before(lexemes, max(previous, place - _REACH), place)
    named = bool(subject)
    if {"total", "totaling", "totalling"}.intersection(before[-4:]):
        subject = _subject_behind(lexemes, place, end)
    elif not subject:
        subject = _subject_before(lexemes, max(sentence, place - 2 * _REACH), place) or known
    yield Quantity(
        value=(lexemes[place].value or 0) - _is_exclusive(lexemes, place, before),
        subject=subject,
        role="limit" if in_range else _find_role(lexemes, place, before),
        has_adjacent_subject=named,
        is_minimum=before[-2:] == ["at", "least"],
        is_past_usage=bool(_SPENT.intersection(before[-3:])),
        has_token_unit=any(lexeme.text.lower() in ("tokens", "token") for lexeme in lexemes[place + 1 : place + 3]),
    )


def _words_before(lexemes: Sequence[Lexeme], start: int, place: int) -> list[str]:
    return [lexeme.text.lower() for lexeme in lexemes[max(start, place - _REACH) : place]]


def _subject_behind(lexemes: Sequence[Lexeme], place: int, end: int) -> QuantitySubject:
    """Return the subject (input, output …) named after a number. In `9000 + 500`, the first number is the input."""
    if lexemes[place + 1 : place + 2] == [_PLUS]:
        return "input"
    if place > 1 and lexemes[place - 1] == _PLUS and lexemes[place - 2].value is not None:
        return "output"
    return next((found for at in range(place + 1, end) if (found := _find_subject(lexemes, at))), "")


def _subject_before(lexemes: Sequence[Lexeme], start: int, place: int) -> QuantitySubject:
    """Return the nearest subject named before a number. A sum of input and output is the context."""
    words = range(place - 1, start - 1, -1)
    found = [(at, subject) for at in words if (subject := _find_subject(lexemes, at))]
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


def _is_range(lexemes: Sequence[Lexeme], place: int, previous: int) -> bool:
    """Return True if the number at index `place` is the lower end of a range (`1-8192`)."""
    words = _words_before(lexemes, previous, place)[-4:]
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
    words = _words_before(lexemes, previous, place)[-8:]
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


def _find_role(lexemes: Sequence[Lexeme], place: int, before: Sequence[str]) -> QuantityRole:
    behind = [lexeme.text.lower() for lexeme in lexemes[place + 1 : place + 6]]
    sign = next((word for word in behind if word not in ("tokens", "token", ")")), "")
    if behind[:2] == ["/", "#"]:
        return "amount"
    if before[-1:] == ["/"] or (sign == "or" and {"less", "fewer", "lower", "smaller", "below"}.intersection(behind)):
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
    if before[-1:] == ["least"]:
        return "amount"
    for word in reversed(before):
        if word in _LIMITS or word.endswith(("limit", "max_model_len", "max_total_tokens", "n_ctx")):
            return "limit"
        if word in _AMOUNTS or word in _SPENT:
            return "amount"
    for word in before:  # a maximum of the model: `max_model_len`
        parts = _split_identifier(word)
        if "max" in parts and len(parts) > 1 and _subject_of_word(word) == "context":
            return "limit"
    near = [word for word in before[-4:] if word not in _WINDOW_FILLERS]  # `context window (8192 tokens)`
    parts = _split_identifier(near[-1]) if near else ()
    return "limit" if _WINDOW.issuperset(parts) and not _WINDOW_NAMES.isdisjoint(parts) else "amount"


# What an error says about the tokens of the request

INPUT_OVERFLOW_TEXTS = (
    regex(r"\bcontext[ _](?:length|window|size|limit)[ _](?:is )?exceed"),  # OpenAI, Groq, DeepSeek: code (2026-11)
    regex(r"\bexceed[ _]context[ _]size"),  # llama.cpp: server-context.cpp, type exceed_context_size_error (2026-11)
    # OpenAI Responses, Ollama, Z.ai, MiniMax, Bedrock (2026-11)
    regex(
        r"\b(?:context|prompts?|inputs?|conversation|chat history|message history)\b[^.\n]{0,60}"
        r"\b(?:too (?:long|large|big|many)|exceed\w*|overflow\w*|(?:long|great|larg|bigg)er than|over the|beyond|full"
        r"|(?:not|n't|cannot) fit)"
    ),
    # LM Studio, Moonshot, Ollama's cloud, Copilot (2026-11)
    regex(
        r"\b(?:exceed\w*|overflow\w*|(?:long|great|larg|bigg)er than|over|beyond|ran out of|fits? (?:in|into|within)"
        r"|too (?:long|large|big|many tokens) for)\b[^.\n]{0,60}"
        r"\b(?:context|prompt|token limit|model length|(?:input|prompt|sequence|max(?:imum)?) length|input limit)"
    ),
    # Groq (2026-11)
    regex(r"\breduce (?:the length|the size|the number of tokens|your)\b[^.\n]{0,20}\b(?:messages|prompt|input)"),
    # Z.ai, Baidu, DashScope (2026-11)
    regex(r"(?:输入|提示词?|上下文|prompt|文本|对话|消息)[^。，,\n]{0,16}(?:过长|超长|超出|超过)"),
    regex(r"\btokens of image and text exceed"),  # Volcengine (2026-11)
    regex(r"\btoo many (?:input |prompt )?tokens\b(?![^.\n]{0,30}\b(?:wait|retry|again))"),  # Bedrock, TGI (2026-11)
)
"""Error texts for an input above the context window. They are used if no numbers decide."""
INPUT_OVERFLOW_CODES = frozenset(("1261",))
"""Error codes for an input above the context window. Z.ai and BigModel: `Prompt exceeds max length` (docs.z.ai, error
codes, read 2026-11)."""
OUTPUT_LIMIT_TEXTS = (
    # OpenAI, Groq, Mistral, vLLM (2026-11)
    regex(
        r"\bmax_?(?:completion_?|output_?|new_?)?tokens\b[^.\n]{0,40}\b(?:too (?:large|high|big)|exceed\w*|out of range"
        r"|(?<!must be )(?<!should be )(?:larg|great|high)er than|above|over|beyond|outside)"
    ),
    # Bedrock, Vertex (2026-11)
    regex(r"\b(?:exceed\w*|larger|greater|higher)\b[^.\n]{0,40}\bmax\w* (?:output|completion) tokens"),
)
"""Error texts for an output limit (`max_tokens`) above the maximum of the model. They are used for errors without
numbers."""
_OUTPUT_LIMIT_REACHED = regex(r"\bmax_?\w*tokens or (?:the )?(?:model )?output limit was reached")
"""Text of OpenAI and Azure, also in streams: Could not finish the message because max_tokens or model output limit was
reached (openai/openai-python, issue 2886; 2026-11)."""
RATE_LIMIT_WORDS = compile_later(
    r"\bper[- ](?:minute|min|day|hour|second|week|month)\b|\b[tr]p[mdhs]\b|/ ?min(?:ute)?\b|rate[ _-]?limit|\bthrottl",
    re.IGNORECASE,
)
"""Words of a rate limit, also in codes (Bedrock's `ThrottlingException`). The number in `30000 tokens per minute` is no
context window (Groq, OpenAI, Anthropic: rate limit pages, read 2026-11)."""
_UNIT_OF_RATE = compile_later(
    r"\b(?P<unit>[a-z]+)(?: \((?:[a-z]{2,5})\))?(?: |-)?(?:per[- ]|/ ?)"
    r"(?:min|minute|hour|day|second|sec|week|month)\b",
    re.IGNORECASE,
)
_SHORT_UNIT = compile_later(r"\b(?P<unit>[a-z]?[a-z])p[mhds]\b", re.IGNORECASE)
"""`TPM`, `ITPM`, `RPM`: tokens, input tokens and requests per minute."""
_HELD_THINGS = frozenset(("image", "images", "i", "picture", "pictures", "photo", "photos", "video", "videos", "audio"))
"""Units of which one request can have many. One request is never more than a limit of requests."""
_LIMIT_AND_REQUESTED = compile_later(
    r"\blimit:? ?(?P<limit>\d[\d,_]{0,12})(?: [a-z-]{1,20})?[,;] ?"
    r"(?:used:? ?\d[\d,_]{0,12}(?: [a-z-]{1,20})?[,;] ?)?"
    r"requested:? ?(?P<requested>\d[\d,_]{0,12})(?![-/:]|\.\d|\w)",
    re.IGNORECASE,
)
_LIMIT_OF_ZERO = compile_later(
    r"\blimit(?:ed)?(?: (?:for|of|on|in) (?:[\w./-]{1,60} ){1,5}(?:is|of|to|at)|(?:[:=]| is| of| to| at)?) ?0\b"
    r"(?![-/%]|[.,:]\d| ?/| ?(?:of|out|ms|s|seconds?|secs?|minutes?|mins?)\b)",
    re.IGNORECASE,
)
_REST = compile_later(r"\b(?:remaining|remains?|left|available|unused|balance)\b", re.IGNORECASE)
"""Words for what is left of a limit, which is 0 until the limit is reset."""
_QUOTA = compile_later(r"\bquota\b", re.IGNORECASE)
_CLAUSE_END = compile_later(r"\.(?!\d)|[;\n]")
_LONG_PERIODS = compile_later(
    r"\b(?:per|an?|each|every)[- ](?:hour|day|week|month)\b|\b(?:hourly|daily|weekly|monthly)\b|\b[tr]p[hd]\b",
    re.IGNORECASE,
)
_QUOTAS = compile_later(r"\b(?:quota|limit|limited|allowance|usage|rate)\b", re.IGNORECASE)
"""With `_LONG_PERIODS`: words of a quota of an hour or longer. Its numbers count many requests, so the error says
nothing about the size of this one."""
_SHORT_PERIODS = compile_later(r"\bper[- ](?:second|minute|min)\b|\b[tr]p[ms]\b|/ ?min(?:ute)?\b", re.IGNORECASE)
_MESSAGE_BYTES = compile_later(r"\btotal message size ([0-9]{1,15}) exceeds limit ([0-9]{1,15})", re.IGNORECASE)
"""Error text of Kimi for messages with too many bytes (MoonshotAI/kimi-code, issue 1862)."""
_OTHER_THINGS = compile_later(
    r"\b(?:string|array|schema|stop sequences?|images?|picture|photo|video|audio|files?|pdf|document|upload|payload"
    r"|body|bytes|[mk]i?b|headers?|url|identifier|\w+_(?:key|id)|metadata|name|description|tools|functions"
    r"|base64|timeout|deadline|cancel\w*|account|organization|number of messages)\b",
    re.IGNORECASE,
)
"""Words for things with their own limit, such as images and files. A text with such a word is no token error, unless it
names the context window or has an overflow code."""
_WITH_IMAGES = compile_later(r"\btokens of image and text\b", re.IGNORECASE)
"""Words for the tokens of the complete input, in which `image` names no separate limit (Volcengine: Total tokens of
image and text exceed max message tokens; 2026-11)."""
_BUDGETS = compile_later(r"\bbudget", re.IGNORECASE)
"""Word for a thinking budget, which must be below the output limit. Such a text is no error of the output limit."""
_COMPARISONS = compile_later(
    r"\b(?:exceed|over|beyond|long|larg|big|great|more|many|less|few|small|low|than|max|limit|range|most|only|fit|must"
    r"|should|up to|full|reach|reduc|trunc|ran out)|[<>\u2264]",
    re.IGNORECASE,
)
"""Words that compare a number with a limit (`exceeds`). A text without them only mentions the context window, so the
error has another reason."""
_MENTIONED_OUTPUT = compile_later(r"\bmax_?\w*tokens\b|\bcompletion|\boutput", re.IGNORECASE)
_OTHER_NUMBERS = compile_later(
    r"\(parameter=[\w.]{1,64}, value=[^()]{0,200}\)|\b(?:code|status(?:_code)?)\\?[\"']?: ?\\?[\"']?[0-9]{3}\b"
)
"""Numbers in an error text that count no tokens, or repeat a number without its unit: the suffix of vLLM's texts
(`VLLMValidationError`), and the status in the error of a server that a gateway quotes (LiteLLM; 2026-11)."""
_UNKNOWN_WINDOW = 128_000
_MARGIN = 64
"""Number of tokens of the context window that a lowered output limit leaves free. A provider may count slightly
differently in its next check."""
_MIN_LIMIT = 16
"""Minimum number in an error text that is read as a limit of the context or the input, in tokens."""
_MIN_LONE_LIMIT = 4_096
"""Minimum limit in a text with only one number and without the word `token`. A smaller number is a code: `context
window exceeds limit (2013)` (MiniMax)."""
_MIN_LEARNED_LIMIT = 256
"""Minimum number in an error text that is believed as the output limit or the window of a model, in tokens. Replies of
an agent do not fit into fewer, so that a wrong number would spoil each later request to the model."""
_LOWERED = 8_192
"""New output limit in tokens if the error text states no maximum. Nearly all models accept it."""


class KnownTokenCounts(Struct, frozen=True):
    """Token counts of a request and its model, for an error text without numbers."""

    context_window: int | None = None
    """Context window of the model in tokens. None: unknown."""
    estimate_input: Callable[[], int] = lambda: 0
    """Function that returns the estimated input tokens of the request. 0: unknown."""
    requested_output: int = 0
    """Output limit (`max_tokens`) in the upstream request. 0: unknown."""


class TokenLimitFault(NamedTuple):
    """Description of a provider's error for too many tokens, from which the client's error message is built."""

    cause: UpstreamErrorCause
    """Cause `overflow` or `output_limit`, with the numbers for a changed request."""
    message: str = ""
    """Error message in the format of Anthropic's API, from which clients parse the numbers. "": use the provider's
    message."""


def find_token_limit_fault(fault: UpstreamFault, known: KnownTokenCounts) -> TokenLimitFault | None:
    """Return the description of an error for too many tokens. None: the error has another reason."""
    fault = structs.replace(fault, message=_OTHER_NUMBERS.sub("", fault.message))
    text = f"{fault.message}\n{' '.join(sorted(fault.codes))}"
    if (size := _MESSAGE_BYTES.search(text)) is not None:
        sent, allowed = int(size[1]), int(size[2])
        if sent <= allowed:
            return None
        tokens = known.estimate_input() or sent // 4
        return _input_overflow(tokens, tokens * allowed // sent)
    if _LONG_PERIODS.search(text) and _QUOTAS.search(text) and not _SHORT_PERIODS.search(text):
        return None
    parameter = (fault.parameter or "").lower().replace("_", "")
    names_output = "token" in parameter and "input" not in parameter
    names_output = names_output and any(word in parameter for word in ("max", "output", "completion"))
    quantities = _read_quantities(fault.message, names_output=names_output)
    if RATE_LIMIT_WORDS.search(text):
        is_other = states_no_access(fault.message) or _limits_other_things(fault.message)
        return None if is_other else _decide_rate_limit(quantities, known)
    limit = None if _BUDGETS.search(text) else _find_output_limit(quantities, known.requested_output)
    if limit is not None:
        return TokenLimitFault(UpstreamErrorCause(kind="output_limit", max_output_tokens=limit))
    limits = [one for one in quantities if one.role == "limit" and one.subject != "output" and one.value >= _MIN_LIMIT]
    if len(quantities) == 1 and "token" not in text.lower():
        limits = [one for one in limits if one.value >= _MIN_LONE_LIMIT]
    order = {"context": 0, "": 1, "input": 2}
    window = min(limits, key=lambda one: (not one.has_adjacent_subject, order[one.subject]), default=None)
    named = window is not None and (
        window.has_token_unit or (window.subject == "context" and window.has_adjacent_subject)
    )
    is_coded = _is_coded(fault)
    if not named and _OTHER_THINGS.search(_WITH_IMAGES.sub("", fault.message)) and not is_coded:
        return None
    excess = next((one for one in quantities if one.role == "excess" and one.subject in ("context", "input")), None)
    if window is None and excess is None:
        return _decide_without_limit(fault, text, quantities, known)
    amounts = [one for one in quantities if one.role == "amount"]
    is_above = window is not None and any(one.value > window.value for one in amounts)
    states_amount = is_above or any(one.has_adjacent_subject or one.has_token_unit for one in amounts)
    if named and excess is None and not (is_coded or _COMPARISONS.search(text) or states_amount):
        return None
    # a text without a named context window may compare tokens of the request with a limit
    compares = window is not None and (window.subject != "" or (is_above and "token" in text.lower()))
    if not (named or excess or is_coded or matches_any(INPUT_OVERFLOW_TEXTS, text) or compares):
        return None
    return _decide(quantities, window, excess, fault, known)


def reached_output_limit(fault: UpstreamFault) -> bool:
    """Return True if the model reached the output limit before it replied, as OpenAI reports for reasoning models."""
    return _OUTPUT_LIMIT_REACHED.search(fault.message) is not None


def names_full_context(fault: UpstreamFault) -> bool:
    """Return True if an error says that the context is too long. After content of a reply, the reply has filled it."""
    text = f"{fault.message}\n{' '.join(sorted(fault.codes))}"
    return not RATE_LIMIT_WORDS.search(text) and (_is_coded(fault) or matches_any(INPUT_OVERFLOW_TEXTS, text))


def _is_coded(fault: UpstreamFault) -> bool:
    if fault.codes & INPUT_OVERFLOW_CODES or fault.context_window is not None:
        return True
    return matches_any(INPUT_OVERFLOW_TEXTS[:2], " ".join(fault.codes))


def _find_output_limit(quantities: Sequence[Quantity], asked: int) -> int | None:
    """Return the maximum output tokens that the error states. None: not stated, implausible, or not below `asked`."""
    stated = [one for one in quantities if one.role == "limit" and one.subject == "output"]
    limit = min((one.value for one in stated if one.value >= _MIN_LEARNED_LIMIT), default=None)
    amounts = [one.value for one in quantities if one.role == "amount" and one.subject == "output"]
    if limit is None or limit >= max(amounts or [asked]) or limit >= (asked or limit + 1):
        return None
    return limit


def _decide(
    quantities: Sequence[Quantity],
    window: Quantity | None,
    excess: Quantity | None,
    fault: UpstreamFault,
    known: KnownTokenCounts,
) -> TokenLimitFault:
    """Return the description of an error that is about the context window: input too long, or too much output asked."""
    limit = window.value if window else fault.context_window or known.context_window
    if excess is not None:
        limit = limit or max(known.estimate_input() - excess.value, 0) or _UNKNOWN_WINDOW
        return _input_overflow(limit + excess.value, limit)
    limit = limit or _UNKNOWN_WINDOW
    output = _largest_output(quantities) or known.requested_output
    tokens = _find_input_tokens(quantities, output, limit, fault, known)
    if tokens is not None:
        if tokens <= limit < tokens + output:
            return _lower_output(tokens, output, limit, limit - tokens - _MARGIN)
        return _input_overflow(max(tokens, limit + 1), limit)  # if they would fit, the provider counts differently
    # A text that mentions the output asks for a lower limit; otherwise the input is too long.
    estimate = known.estimate_input()
    asks_for_less = bool(_largest_output(quantities)) or any(one.is_minimum for one in quantities)
    if not asks_for_less and quantities and _MENTIONED_OUTPUT.search(fault.message):
        asks_for_less = estimate + output > limit
    if not (asks_for_less and output and estimate < limit):
        return _input_overflow(max(estimate, limit + 1), limit)
    output_limit = available_output_tokens(limit, estimate, STATED_WINDOW_MARGIN)
    if output_limit >= output:  # the input is longer than estimated, because this output was refused
        output_limit = output // 4
    return _lower_output(max(estimate, limit - output + 1), output, limit, output_limit)


def _find_input_tokens(
    quantities: Sequence[Quantity], output: int, limit: int, fault: UpstreamFault, known: KnownTokenCounts
) -> int | None:
    """Return the input tokens that the error states. None: it states none."""
    stated = [one for one in quantities if one.role == "amount" and one.subject == "input"]
    others = [one.value for one in quantities if one.role == "amount" and one.subject in ("", "context")]
    # vLLM counts the input only up to the first token that does not fit (renderers/params.py, 2026-11)
    bound = limit - output + 1
    if output and any(one.value == bound for one in stated):
        stated = [one for one in stated if one.value != bound]
        if not stated:
            return None
    if stated:
        parts = [one.value for one in stated]
        whole = max(others, default=0)
        return sum(parts) if whole in (sum(parts), sum(parts) + output) else max(parts)
    total = max(others, default=0) or fault.input_tokens or 0
    explicit = _largest_output(quantities)
    if 0 < explicit < total and total != limit:
        return total - explicit
    if total <= limit:
        return fault.input_tokens
    counts_output = fault.input_tokens is None and _counts_output(total, limit, known)
    return total - known.requested_output if counts_output else total


def _largest_output(quantities: Sequence[Quantity]) -> int:
    return max((one.value for one in quantities if one.role == "amount" and one.subject == "output"), default=0)


def _counts_output(total: int, limit: int, known: KnownTokenCounts) -> bool:
    """Return True if `total` includes the requested output: only then can a lower limit solve the error."""
    estimate = known.estimate_input()
    input_tokens = total - known.requested_output
    if not (0 < known.requested_output < total and input_tokens < limit and estimate):
        return False
    return estimate * (1 + STATED_WINDOW_MARGIN) < limit and abs(input_tokens - estimate) < abs(total - estimate)


def _input_overflow(tokens: int, limit: int) -> TokenLimitFault:
    text = f"prompt is too long: {tokens} tokens > {limit} maximum"
    return TokenLimitFault(UpstreamErrorCause(kind="overflow"), text)


def _lower_output(tokens: int, output: int, limit: int, output_limit: int) -> TokenLimitFault:
    text = f"input length and `max_tokens` exceed context limit: {tokens} + {output} > {limit}"
    cause = UpstreamErrorCause(
        kind="output_limit",
        max_tokens=output_limit if output_limit > 0 else None,
        context_window=limit if limit >= _MIN_LEARNED_LIMIT else None,
    )
    return TokenLimitFault(cause, f"{text}, decrease input length or `max_tokens` and try again")


def _decide_without_limit(
    fault: UpstreamFault, text: str, quantities: Sequence[Quantity], known: KnownTokenCounts
) -> TokenLimitFault | None:
    """Return the result for an error text that states no limit as a number. None: the error has another reason."""
    # llama.cpp sends 500 `Context size has been exceeded` to all slots if their common memory is full, also for short
    # prompts (`update_slots` in server-context.cpp, 2026-11).
    is_server_error = (fault.status or 0) >= 500 and known.estimate_input() < (known.context_window or _UNKNOWN_WINDOW)
    if _is_coded(fault) or (matches_any(INPUT_OVERFLOW_TEXTS, text) and not is_server_error):
        return _decide(quantities, None, None, fault, known)
    if matches_any(OUTPUT_LIMIT_TEXTS, text) and known.requested_output > 1 and not _BUDGETS.search(text):
        limit = _LOWERED if known.requested_output > _LOWERED else known.requested_output // 2
        return TokenLimitFault(UpstreamErrorCause(kind="output_limit", max_output_tokens=limit))
    return None


def states_no_access(message: str) -> bool:
    """Return True if a limit is 0, so that no request succeeds."""
    return (RATE_LIMIT_WORDS.search(message) or _QUOTA.search(message)) is not None and any(
        _LIMIT_OF_ZERO.search(clause) and not _REST.search(clause) for clause in _CLAUSE_END.split(message)
    )


def exceeds_other_limit(message: str) -> bool:
    """Return True if the request alone exceeds a rate limit of images or other parts. A shorter prompt does not help,
    and no later request with as many.
    """
    stated = _LIMIT_AND_REQUESTED.search(message)
    if stated is None:
        return False
    units = _find_units(message[: stated.start()])
    limit, requested = (int("".join(filter(str.isdecimal, stated[name]))) for name in ("limit", "requested"))
    return bool(units) and units[-1] in _HELD_THINGS and requested > limit


def _find_units(message: str) -> list[str]:
    """Return what the rates in a text count, in order: `images` in `images per min`, `t` in `TPM`."""
    matches = (match for pattern in (_UNIT_OF_RATE, _SHORT_UNIT) for match in pattern.finditer(message))
    return [match["unit"].lower() for match in sorted(matches, key=re.Match.start)]


def _limits_other_things(message: str) -> bool:
    """Return True if an error names what its rate limit counts, and that is not tokens."""
    if not RATE_LIMIT_WORDS.search(message):
        return False
    units = _find_units(message)
    return bool(units) and not any(unit in ("token", "tokens") or unit.endswith("t") for unit in units)


def _decide_rate_limit(quantities: Sequence[Quantity], known: KnownTokenCounts) -> TokenLimitFault | None:
    """Return a fault if the request exceeds a rate limit of a whole period. None: a retry later succeeds."""
    limits = [one.value for one in quantities if one.role == "limit"]
    asked = [one.value for one in quantities if one.role == "amount" and not one.is_past_usage]
    if not limits or not asked or max(asked) <= min(limits):
        return None
    limit, total = min(limits), max(asked)
    input_tokens = total - known.requested_output
    if 0 < known.requested_output < total and input_tokens + _MARGIN < limit:
        return _lower_output(input_tokens, known.requested_output, limit, limit - input_tokens - _MARGIN)
    return _input_overflow(total, limit)
