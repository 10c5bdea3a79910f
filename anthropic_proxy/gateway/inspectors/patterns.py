"""`PatternInspector`: finds API keys, private keys, card numbers and patterns of the company, without another service.

Texts come from strangers, so each search takes a time in proportion to its text. Repetitions in patterns of the company
are possessive and bounded (`bound_repetitions`): they give nothing back, so there is no backtracking. A long text is
searched in pieces in a thread, so that other requests go on.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.slices import give_way, give_way_between
from anthropic_proxy.gateway.settings.fields import InspectorRule
from anthropic_proxy.gateway.settings.inspector_tables import MAX_MATCH_CHARACTERS
from anthropic_proxy.plugins import InspectedTexts, InspectorScope, Redaction, Refusal
from anthropic_proxy.secrets import find_key_patterns

_PIECE_CHARACTERS = 65_536
_THREAD_CHARACTERS = 262_144
"""Length of the texts of a request from which a thread searches them."""
_CHARACTERS_PER_PASSAGE = 128
"""Length of a text that takes as long as a further text of one character."""
_MAX_PRIVATE_KEY = 20_000
_MAX_KEY = 4_096
_MIN_KEY = 20
"""Minimum length of a key. The beginnings of shorter ones are beginnings of ordinary names too."""
_TOKEN = compile_anchored(r"[A-Za-z0-9._~+/-]+=*")
"""What follows `Bearer` in a header (RFC 6750, 2.1)."""
_KEY_BEGIN = "-----BEGIN "
_LINE_END = r"(?:[ \t\r\n]|\\[rn]|(?<=\d)\u2192)"
"""A part of a line end in a private key: also an indentation, an escape of JSON, or the arrow behind the number of the
next line, which Claude Code writes before each line of a file."""
_PRIVATE_KEY = compile_later(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
    rf"(?:{_LINE_END}{{1,20}}+[A-Za-z][A-Za-z-]{{0,30}}+: ?[A-Za-z0-9,-]{{1,200}}+){{0,8}}+"
    rf"(?:[A-Za-z0-9+/=]|{_LINE_END}){{1,16384}}+"
    r"-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
"""Lines of base64, and headers before them (RFC 1421, 4.4), between the lines of a PEM file. A stranger's text that
contains these lines around anything else is no key."""
_OPEN_PRIVATE_KEY = compile_anchored(r"-----BEGIN [A-Z ]{0,42}+-{0,5}+[A-Za-z0-9+/=,:\\\u2192 \t\r\n-]*+")
_CARD = compile_later(r"(?<![\w.-])\d(?:[ -]?\d){11,18}(?![\w-])")
_CARD_FORMS = compile_anchored(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[068]\d{12}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35\d{14}"
)
"""Lengths and beginnings of Visa, Mastercard, American Express, Diners Club, Discover and JCB (source: ISO/IEC 7812 and
the issuers' ranges, as Wikipedia "Payment card number" lists them, read 2026-11)."""
_MAX_CARD = 40
_OPEN_CARD = compile_later(r"\d[\d -]{0,39}\Z")
_OPEN_BEARER = compile_later(r"\bBearer\s{0,8}\Z")

Span = tuple[int, int]


def _find_keys(text: str) -> Iterator[Span]:
    for begin, secret, found_end in give_way_between(find_key_patterns(text)):
        start, end = begin, found_end
        if text.startswith("Bearer", begin):
            token = _TOKEN.match(text, secret, found_end)
            start, end = token.span() if token is not None else (secret, secret)
        key = text[start:end]
        if len(key) >= _MIN_KEY and any(map(str.isdigit, key)) and any(map(str.isalpha, key)):
            yield start, end
    yield from (key.span() for key in give_way_between(_PRIVATE_KEY.finditer(text)))


def _find_cards(text: str) -> Iterator[Span]:
    for match in give_way_between(_CARD.finditer(text)):
        digits = match[0].replace(" ", "").replace("-", "")
        if _CARD_FORMS.fullmatch(digits) and _has_valid_check_digit(digits):
            yield match.span()


def _has_valid_check_digit(digits: str) -> bool:
    """Luhn's algorithm."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


def _find_in_pieces(find: Callable[[str], Iterator[Span]], text: str) -> Iterator[Span]:
    """Yield what `find` finds in pieces of a text. Each has the text around it that decides about its matches."""
    for begin in range(0, len(text), _PIECE_CHARACTERS):
        give_way()
        offset = max(begin - _MAX_KEY, 0)
        end = begin + _PIECE_CHARACTERS
        for start, stop in find(text[offset : end + _MAX_PRIVATE_KEY]):
            if begin <= start + offset < end:
                yield start + offset, stop + offset


def find_matches(pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    """Yield the matches of a pattern of the company. Each search reads at most one piece of the text."""
    at = 0
    while at < len(text):
        give_way()
        end = min(at + _PIECE_CHARACTERS, len(text))
        match = pattern.search(text, at, end)
        if match is not None and match.end() == end < len(text):  # it may go on behind the piece
            match = pattern.match(text, match.start(), min(match.start() + MAX_MATCH_CHARACTERS, len(text)))
        if match is None:
            at = end if end == len(text) else end - MAX_MATCH_CHARACTERS
            continue
        if match.end() > match.start():
            yield match.span()
        at = max(match.end(), match.start() + 1)


_FINDERS: Mapping[str, tuple[str, Callable[[str], Iterator[Span]]]] = {
    "keys": ("key", _find_keys),
    "card-numbers": ("card number", _find_cards),
}


class PatternInspector:
    def __init__(self, rule: InspectorRule, background: BackgroundWork) -> None:
        self.scope: InspectorScope = rule.build_scope(holds_blocks=False, limits_itself=True)
        self.rule = rule
        self._background = background
        self._table = rule.table
        found = [_FINDERS[name] for name in rule.table.detect]
        self._finders = [(kind, partial(_find_in_pieces, find)) for kind, find in found]
        self._finders += [
            (name, partial(find_matches, compile_later(pattern.text))) for name, pattern in rule.patterns.items()
        ]
        self._reach = max((pattern.width for pattern in rule.patterns.values()), default=0)
        """Maximum length of a match of a pattern of the company."""

    async def inspect(self, texts: InspectedTexts) -> Refusal | Sequence[Redaction]:
        characters = sum(len(passage.text) for passage in texts.passages)
        is_long = characters + _CHARACTERS_PER_PASSAGE * len(texts.passages) > _THREAD_CHARACTERS
        work = self._background.of(texts.client.payer, max_seconds=self.scope.timeout_seconds, has_begun=True)
        found = await work.run_in_thread_if_large(is_long, self._find_all, texts)
        if found and self._table.action == "refuse":
            kinds = ", ".join(dict.fromkeys(one.kind for one in found))
            return Refusal(found[0].kind, f"{self._table.reason} Found: {kinds}.", is_of_operator=True)
        return found

    def find_open_end(self, text: str) -> int:
        last = text[-_MAX_KEY:].rsplit(None, 1)[-1:] if text[-1:].strip() else []
        start = len(text) - sum(map(len, last))  # of the last word
        ends = [start, len(text) - max(self._reach - 1, 0)]
        if bearer := _OPEN_BEARER.search(text, max(start - 16, 0), start):
            ends.append(bearer.start())
        if card := _OPEN_CARD.search(text, max(len(text) - _MAX_CARD, 0)):
            ends.append(card.start())
        begin = text.rfind(_KEY_BEGIN, max(len(text) - _MAX_PRIVATE_KEY, 0))
        may_be_key = "keys" in self._table.detect and begin >= 0 and _OPEN_PRIVATE_KEY.fullmatch(text, begin)
        if may_be_key and not any(at == begin for at, _ in _find_keys(text)):
            ends.append(begin)
        return min(ends)

    def _find_all(self, texts: InspectedTexts) -> list[Redaction]:
        found: list[Redaction] = []
        for place, passage in enumerate(give_way_between(texts.passages)):
            spans = [(*span, kind) for kind, find in self._finders for span in find(passage.text)]
            end = 0
            for start, stop, kind in sorted(spans, key=lambda one: (one[0], -one[1])):  # the longest of several
                if start >= end:
                    found.append(Redaction(place, start, stop, kind))
                    end = stop
        return found
