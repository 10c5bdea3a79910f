"""`RequestWords`: the words of a request in the text of a provider's error, and `note_quotes`, which stores none of
them.

Validators print the value that they refuse, and filters the words that they have found. The client gets these words
back, and nobody else may store them. A text of a provider has no mark for them, so it is compared with the whole
request, as the client and as the proxy has sent it: the proxy reads PDFs, describes pictures, fetches pages and adds
thinking. What stands in a request and in the text is a quote, unless it is the name of something or usual in errors.

    between marks of a quotation    8 characters
    a run of words                  8 characters, of two words or with a digit, "@" or a letter that is not ASCII
    a word beside an ellipsis       8 characters, because validators shorten what they print
    any other text                  24 characters; 8 if one is not ASCII, because many languages have no spaces

The letters of a request are compared in the one spelling that `_spell_plainly` returns, and in lower case, because
filters normalize what they search. A text with escapes of HTML or of URLs is compared without them too, and a string in
base64 as the text that it is. A request that was freed cannot be compared, and a large one not with a long text. Then
only the length of the text is stored.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeGuard
from urllib.parse import unquote

import msgspec

from anthropic_proxy.engine.messages.models import Source
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.slices import give_way, give_way_between
from anthropic_proxy.engine.text_encodings import ANY_BYTES, decode_base64, find_encoding, read_base64_text
from anthropic_proxy.engine.wires.calls import BaseCall, RelayCall, TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.failures.error_body import remove_wrappers
from anthropic_proxy.errors import UpstreamError

_NameTest = Callable[[str, bytes], bool]
_MIN_CHARACTERS = 8
_WINDOWS = ((24, 6, True), (_MIN_CHARACTERS, 3, False))
"""Characters that are compared at a time, the distance of their beginnings, and whether ASCII alone is compared so."""
_LITERAL = compile_later(r"\"[^\"\n]{8,}+\"|'[^'\n]{8,}+'|`[^`\n]{8,}+`")
_NAME = compile_anchored(r"(?=[\d-]*[A-Za-z_])[\w.:/@\[\]-]+", re.ASCII)
_ELLIPSES = ("...", "…", "**")
_ELLIPSIS = compile_later(r"\.{3,}|…|\*{2,}")
_WORD = compile_later(r"\w(?:(?:[^\s.…\"'`,;()<>{}=|*\\]|\.{1,2}(?!\.))*\w)?")
_ESCAPED = compile_later(
    r"(?:%[0-9A-Fa-f]{2})+|(?:\\x[0-9A-Fa-f]{2})+|&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,31});|\w[\u0300-\u036f]+"
)
"""Escapes of a URL, of Python or of HTML, or a letter with its accents apart from it."""
_SPECIAL = compile_later(r"[\d@]|[^\x00-\x7f]")
_OPENING = compile_later(r"(?<!\w)[^\w\s,)\]}>]|[^\w\s,)\]}>](?!\w)|\n")
_CLOSING = compile_later(r"(?<!\w)[^\w\s,:=(\[{<]|[^\w\s,:=(\[{<](?!\w)|\n")
"""Marks of quotations and ends of sentences, without those within a word or number."""
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LINE_ENDS = compile_later(r"\\[nrt]")
_decode_string = msgspec.json.Decoder(str).decode
_ESCAPE = rb"\\(?:/|u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[0-9a-fA-F]{4}))"
"""An escape that may be written plainly. Two halves of a character are one."""
_ESCAPES = compile_later(
    rb"(%b(?:(?:[ !#-\[\]-~]{1,200}+|\\[\"\\bfnrt]){0,16}%b){0,31})|(?:\\[^u/][^\\]{0,64}+){1,64}" % (_ESCAPE, _ESCAPE)
)
"""Some of these escapes, with the short texts between them: a part of a JSON string. Or other escapes, which stay. Both
are bounded, because a match needs memory for each repetition of a group.
"""
_MAX_KNOWN_BYTES = len("\\u0000")
_BASE64_BEGINNING = 64
_BASE64 = compile_later(rb'"(?=[A-Za-z0-9+/\\]{12})((?:[A-Za-z0-9+/]++|\\/)++={0,2})"')
_MAX_ENCODED_TEXTS = 1_000
"""Maximum number of strings in base64 that are decoded: the longest ones, because words and names are such strings."""
_KEYS_OF_NAMES = (b"model", b"name", b"type", b"role", b"id", b"tool_use_id", b"media_type", b"effort")
_USUAL = frozenset(
    """
    a about above accept accepted accepts access account again all allowed already also an and any api are
    argument arguments array as at available backend bad be been before below between body busy but by bytes
    call calls can cannot capacity character characters check closed configured connection contain contained
    contains content context could crashed current data denied description did different disconnected do does
    done down each either empty engine error errors exceed exceeded exceeds expected extra failed field fields
    file files filter final first follow following for format found from function functions further gateway
    generation given greater had has have heavy high id image images immediately in include included includes
    input inputs instead integer internal interrupted into invalid is it item items its json key keys kind
    larger last least length less limit limited limits list load long longer lost malformed many match max
    maximum may message messages minimum missing model models more most must name names network new no none
    not null number object of on one only or other out output overload overloaded parameter parameters peer
    permitted please policy possible previous prompt properties property provide provided provider quota rate
    reached read reason received refused rejected reply request requested requests require required requires
    reset response result results retry role same schema see send sent server service set should shutdown size
    smaller specified stop stream string support supported supports system temporarily terminated text than
    that the their then there these they this time timed timeout to token tokens too tool tools total try type
    unable unavailable unexpected unknown unsupported until upgrade upstream url use used user uses using
    valid value values want was were when which while will with within without words worker would write wrong
    you your
    """.split()  # noqa: SIM905  # a list has one word per line
)
"""Words of errors that stand in long requests too, and that tell nothing of a request by themselves."""


_COMPARISONS_ON_LOOP = 400_000_000
"""Maximum product of the lengths of a text and a request that are compared on the event loop: usually 15 ms, at most
50 ms."""
_MAX_COMPARISONS = 8_000_000_000
"""The same in a thread, for what is stored: usually 1 s, at most 5 s. Beyond it, nothing of the text is stored, as for
a freed request. What decides is compared without this limit: fewer parts of a text are searched for it."""

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Maximum size of a request that is compared: its plain spelling needs twice its size."""


_BYTES_OF_PREPARATION = 200
"""Length of a text whose comparison takes as long as the preparation of the request for any."""


MAY_STATE_ERROR = compile_later(rb"error(?!\"[ \t]*:[ \t]*null)", re.IGNORECASE)
"""Pattern of nearly all data that states an error. What states one in other words is compared on the event loop."""


SMALL_REQUEST_BYTES = 5_000
"""Size of a request with which each error that is decoded on the event loop may be compared there."""


def count_bytes_on_loop(size: int) -> int:
    """Return how long a text may be that is compared with a request of `size` bytes on the event loop."""
    return max(_COMPARISONS_ON_LOOP // max(size, 1) - _BYTES_OF_PREPARATION, 0)


def note_quotes(error: UpstreamError, body: bytes, call: BaseCall[BaseDialect]) -> None:
    """Note which words of an error are those of the request, so that nobody stores them.

    `body`: the request of the client. b"": it is no longer known.
    """
    notes: Sequence[str] = getattr(error, "__notes__", ())
    told = "\n".join((error.message, *notes))
    error.is_compared = True
    sent = list_texts(call) if error.provider_text or notes else b""
    is_comparable = bool(body) and all(
        len(one) <= MAX_BODY_BYTES and len(told) * len(one) <= _MAX_COMPARISONS for one in (body, sent)
    )
    if is_comparable:
        quotes = RequestWords(body).find_quotes(told)
        if sent and sent != body:
            quotes += RequestWords(sent).find_quotes(told, _is_whole_string)
    else:
        told_by_provider = (error.provider_text, *notes)
        has_known = error.provider_text not in error.message  # which lacks the known quotes
        words = (word for text in told_by_provider for word in _WORD.findall(text))
        error.hides_text = has_known or any(word.lower() not in _USUAL for word in words)
        quotes = [each for each in _list_literals(told) if not _NAME.fullmatch(each)]
    error.quotes = {**error.quotes, **describe_quotes(quotes)}


def describe_quotes(quotes: Sequence[str], part: str = "request") -> Mapping[str, str]:
    """Return each quote with what is stored in its place. `part`: of the exchange."""
    return {quote: f"({len(quote)} characters of the {part})" for each in quotes if (quote := each.strip())}


def find_quoted_texts(told: str, texts: Sequence[str], part: str) -> Mapping[str, str]:
    """Return what `told`, the words of another program about `texts` of an exchange, quotes of them, each with what is
    stored in its place. If both are too long to compare, all of `told` is a quote.
    """
    size = sum(map(len, texts))
    if size > MAX_BODY_BYTES or len(told) * size > _MAX_COMPARISONS:
        return describe_quotes([told], part)
    body = msgspec.json.encode([text.encode(errors="replace").decode() for text in texts])
    return describe_quotes(RequestWords(body).find_quotes(told), part)


def list_texts(call: BaseCall[BaseDialect]) -> bytes:
    """Return the texts of the request that the provider got, as JSON. b"": they are no longer known."""
    if isinstance(call, RelayCall):
        body = call.body or (call.client.body if call.client is not None else b"")
        added = [*call.descriptions.values(), *(file.data for file in call.files.values() if _is_text(file))]
        return b"\n".join((body, msgspec.json.encode(added))) if body and added else body
    if not isinstance(call, TranslatedCall):
        return b""
    request = call.request
    return msgspec.json.encode((request.system, request.messages, [tool.source for tool in request.tools]))


def _is_text(file: Source | None) -> TypeGuard[Source]:
    return file is not None and file.type == "text"


class RequestWords:
    """The words of a request, in which those of an error are searched."""

    def __init__(self, request: bytes) -> None:
        """`request`: JSON text, such as the body of the client."""
        self._words = _spell_plainly(b"\n".join((request, *_list_encoded_texts(request)))).lower()

    def _find_words(self, text: str) -> bytes:
        """Return the words of the request in lower case, as far as it matters to a comparison with `text`."""
        return self._words if text.isascii() else self._words.decode(errors="replace").lower().encode()

    def find_quotes(self, text: str, is_name: _NameTest | None = None) -> list[str]:
        """Return what nobody stores of the text of a provider.

        `is_name`: test for what is no quote. None: that for a request of a client.
        """
        is_name, words = is_name or _is_name, self._find_words(text)
        quotes: list[str] = []
        for plain, places in {text: range(len(text) + 1), **_unescape(text)}.items():
            found = [*_find_literals(plain), *_find_places(plain, words)]
            found = [place for place in found if _is_quote(plain[slice(*place)], words, is_name)]
            found += _find_runs(plain, words, is_name)
            quotes += (text[places[begin] : places[end]] for begin, end in found)
        return quotes

    def find_passages(self, text: str) -> list[str]:
        """Return what decides nothing in the text of a provider: whole sentences, or what stands between marks.

        A request about limits of models has parts of sentences in common with an error about such a limit. []: there
        are no quotes, or the whole text stands in the request, with other numbers perhaps: the client may ask about an
        earlier error of this kind.
        """
        words = self._find_words(text)
        found = _list_literals(text)
        found += filter(None, (_cut_to_marks(text, *place) for place in _find_places(text, words)))
        quotes = [each for each in found if _is_quote(each, words, _is_whole_string)]
        whole = _without_numbers(_encode(remove_wrappers(text).strip())).decode()
        return [] if quotes and _contains(_without_numbers(words), whole) else quotes


def _unescape(text: str) -> Mapping[str, Sequence[int]]:
    """Return a text without escapes → the place in the text of each of its characters, and its end. {}: it has none."""
    plain = ""
    places: list[int] = []
    end = 0
    for found in _ESCAPED.finditer(text):
        begin, escape = found.start(), found[0]
        meant = _read_escape(escape)
        plain += text[end:begin] + meant
        places += (*range(end, begin), *[begin] * len(meant))
        end = found.end()
    return {plain + text[end:]: [*places, *range(end, len(text) + 1)]} if end else {}


def _read_escape(escape: str) -> str:
    match escape[0]:
        case "%":
            return unquote(escape)
        case "\\":
            data = bytes.fromhex(escape.replace("\\x", ""))
            return (find_encoding(data) or ANY_BYTES).decode(data)
        case "&":
            import html  # noqa: PLC0415  # few errors

            return html.unescape(escape)
        case _:
            return unicodedata.normalize("NFC", escape)


def _list_literals(text: str) -> list[str]:
    return [text[begin:end] for begin, end in _find_literals(text)]


def _find_literals(text: str) -> Iterator[tuple[int, int]]:
    """Yield what stands between marks of a quotation, and its parts between ellipses."""
    for literal in _LITERAL.finditer(text):
        begin, end = literal.start() + 1, literal.end() - 1
        yield begin, end
        if cuts := [*_ELLIPSIS.finditer(text, begin, end)]:
            parts = zip((begin, *(cut.end() for cut in cuts)), (*(cut.start() for cut in cuts), end), strict=True)
            yield from ((start, stop) for start, stop in parts if stop - start >= _MIN_CHARACTERS)


def _cut_to_marks(text: str, begin: int, end: int) -> str:
    """Return the longest part of a passage that begins and ends beside a mark such as a quotation mark or full stop, at
    an end of the text, or begins with a capital letter. "": it is too short.
    """
    place, end_place = max(begin - 2, 0), end + 2
    opening = [mark.start() for mark in _OPENING.finditer(text, place, end_place)]
    closing = [mark.end() for mark in _CLOSING.finditer(text, place, end_place)]
    before = text[:begin].rstrip()
    if before and not text[begin:].lstrip()[:1].isupper() and len(before) - 1 not in opening:
        begin = next((mark for mark in opening if mark >= begin), end)
    behind = text[end:].lstrip()
    if behind and len(text) - len(behind) + 1 not in closing:
        end = next((mark for mark in reversed(closing) if mark <= end), begin)
    passage = text[begin:end].strip()
    shortest, _, _ = _WINDOWS[0 if passage.isascii() else 1]
    return passage if len(passage) >= shortest else ""


def _without_numbers(text: bytes) -> bytes:
    """Replace each number by 0."""
    text = text.translate(_DIGITS)
    for groups in (b"0,0", b"00"):
        while groups in text:
            text = text.replace(groups, b"0")
    return text


def _find_places(text: str, body: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the longest passages that stand in the body."""
    for window, step, compares_ascii in _WINDOWS:
        end = 0
        for place in range(0, len(text) - window + 1, step):
            part = text[place : place + window]
            if place < end or not (compares_ascii or not part.isascii()) or not _contains(body, part):
                continue
            begin, end = _grow(text, place, place + window, body)
            yield begin, end


def _find_runs(text: str, body: bytes, is_name: _NameTest) -> Iterator[tuple[int, int]]:
    """Yield the runs of words that stand in the body, except for those of names and usual words alone."""
    known: dict[str, tuple[bool, bool]] = {}
    begin = end = 0  # of the run so far
    before: re.Match[str] | None = None
    was_telling = False
    for word in _WORD.finditer(_LINE_ENDS.sub("  ", text)):
        if (state := known.get(word[0])) is None:
            is_usual = word[0].lower() in _USUAL
            is_found = is_usual or _contains(body, word[0])
            state = known[word[0]] = is_found, is_found and not is_usual and not is_name(word[0], body)
        is_found, is_telling = state
        begins = before is None or not is_found or not (is_telling or was_telling)
        if begins or not _contains(body, text[before.start() : word.end()]):  # type: ignore[union-attr]
            if end > begin and _is_long(text[begin:end]):
                yield begin, end
            begin = end = word.start()
            is_cut = text.startswith(_ELLIPSES, word.end()) or text.endswith(_ELLIPSES, 0, begin)
            if is_telling and (is_cut or _SPECIAL.search(word[0])):
                end = word.end()
        else:
            end = word.end()
        before, was_telling = (word, is_telling) if is_found else (None, False)
    if end > begin and _is_long(text[begin:end]):
        yield begin, end


def _is_long(text: str) -> bool:
    return len(text.encode(errors="replace")) >= _MIN_CHARACTERS


def _is_quote(text: str, body: bytes, is_name: _NameTest) -> bool:
    return _contains(body, text) and not is_name(text, body)


def _is_whole_string(text: str, body: bytes) -> bool:
    """Return True for a constant of an API, in a request that the proxy has written. One of the client is in its own
    request too.
    """
    return _NAME.fullmatch(text) is not None and b'"%b"' % _encode(text) in body


def _is_name(text: str, body: bytes) -> bool:
    """Return True for the name of a model, tool or field, or a constant of the API."""
    quoted = b'"%b"' % _encode(text)
    if not _NAME.fullmatch(text) or quoted not in body:
        return False
    is_field = any(quoted + colon in body for colon in (b":", b" :"))
    return is_field or any(
        b'"%b":%b%b' % (key, space, quoted) in body for key in _KEYS_OF_NAMES for space in (b"", b" ")
    )


def _list_encoded_texts(body: bytes) -> Iterator[bytes]:
    """Yield the texts in base64 of a request, such as documents, as JSON."""
    longest = sorted(_BASE64.findall(body), key=len)[-_MAX_ENCODED_TEXTS:]
    for encoded in give_way_between(longest):
        data = encoded.replace(b"\\/", b"/").decode()
        is_picture = find_encoding(decode_base64(data[:_BASE64_BEGINNING])) is None
        if not is_picture and (text := read_base64_text(data)) is not None:
            yield msgspec.json.encode(text[0])


def _spell_plainly(body: bytes) -> bytes:
    """Return JSON text whose characters are escaped only where JSON requires it. Many libraries escape more."""
    if b"\\u" not in body and b"\\/" not in body:
        return body
    known: dict[bytes, bytes] = {}
    plain = bytearray()
    end = 0
    for found in give_way_between(_ESCAPES.finditer(body)):
        begin, next_end = found.span(1)
        if begin < 0:
            continue
        plain += body[end:begin]
        escapes = found[1]
        if (spelled := known.get(escapes)) is None:
            spelled = _spell_escapes(escapes)
            if len(escapes) <= _MAX_KNOWN_BYTES:
                known[escapes] = spelled
        plain += spelled
        end = next_end
    plain += body[end:]
    return bytes(plain)


def _spell_escapes(escapes: bytes) -> bytes:
    readable, _ = replace_lone_surrogates(b'"%b"' % escapes)
    return msgspec.json.encode(_decode_string(readable))[1:-1]


def _grow(text: str, begin: int, end: int, body: bytes) -> tuple[int, int]:
    """Return the longest part of a text around a quote that stands in the body, in steps that become smaller."""
    for step in (192, 24, 1):
        while end < len(text) and _contains(body, text[begin : end + step]):
            end = min(end + step, len(text))
        while begin > 0 and _contains(body, text[max(begin - step, 0) : end]):
            begin = max(begin - step, 0)
    return begin, end


def _contains(body: bytes, text: str) -> bool:
    give_way()
    # a text with a backslash may quote JSON as it is written
    return _encode(text) in body or ("\\" in text and _spell_plainly(text.encode(errors="replace")).lower() in body)


def _encode(text: str) -> bytes:
    return msgspec.json.encode(text.lower().encode(errors="replace").decode())[1:-1].lower()
