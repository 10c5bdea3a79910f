"""Citations for models that cannot cite: numbered passages in the request, and marks in the reply.

    request: a document `The grass is green. The sky is blue.`    →  [1] The grass is green.
                                                                     [2] The sky is blue.
    reply:   It is <qvkdra 2>blue</qvkdra>.                       →  blocks `It is `, `blue` with a citation, and `.`

Theory of operation. `number_passages` replaces the sources of a request, which are documents and search results with
`citations`, by texts with numbers: each sentence of a text has one, and each block of custom content or of a search
result. A text behind the first source says how to mark statements. Numbers depend only on the sources before them, so
that the next request of the conversation has the same ones. `CitedReply` reads the marks as the deltas arrive. What it
quotes is cut from the sources, so no model can invent a quotation; a mark that names no passage is removed and counted.

Whoever wrote a text of the request must not choose what is cited, although the model may copy the text. So marks have a
word that nobody can know who does not read the instruction: a keyed hash of the first source. It depends on nothing
else, and stands behind that source, so that requests have equal beginnings as far as those of the client have. Only the
texts of sources are changed, where a line of theirs could be taken for the number of a passage.

Sources: platform.claude.com, "Citations", "Search results" and "Structured outputs", and the types
`CitationCharLocation` to `CitationsSearchResultLocation` of the official SDK, read 2026-11.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import groupby
from re import Match, Pattern
from string import ascii_lowercase
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.kept_passages import KeptPassages
from anthropic_proxy.engine.messages.deltas import Block as BlockDelta
from anthropic_proxy.engine.messages.deltas import (
    Citation,
    Delta,
    Stop,
    Text,
    TextEnd,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
)
from anthropic_proxy.engine.messages.documents import digest_content, write_page
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.foreign_text import BLANK, MAX_BLANKS, split_description
from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    Message,
    SearchResultBlock,
    TextBlock,
    ToolResultBlock,
    decode_nested_content,
    is_string_or_absent,
    json_string,
)
from anthropic_proxy.engine.patterns import AnchoredPattern, compile_anchored, compile_later
from anthropic_proxy.engine.slices import give_way, give_way_between, replace_in_slices
from anthropic_proxy.errors import InternalError, InvalidRequest

_Content = TypeVar("_Content", str, Raw)

_INSTRUCTIONS = (
    "[The passages of this source, and of those that follow, have numbers in square brackets. If a statement of your "
    "answer is based on passages, write it between marks with their numbers: <{word} 3>a statement</{word}>, or "
    "<{word} 3,7-9>another one</{word}>. Write the numbers nowhere else, and do not speak of the marks.]"
)
_WORD_LENGTH = 6
"""Letters of the word in marks: one of 309 million. It is in each mark that a model writes, so each letter costs."""
_MAX_SENTENCE = 2_000
"""Maximum characters of a sentence. A longer one, such as a table without line ends, is divided at white space."""
MAX_FINE_PASSAGES = 100_000
"""Sentences of a request that are passages of their own, those of two million tokens. Then a passage has several, so
that a text of 30 MB with sentences of one character has not ten times its size with the numbers."""
_COARSE_CHARACTERS = 200
_SENTENCES_OF_SLICE = 256
MAX_QUOTED_CHARACTERS = 1_000_000
"""Maximum characters of all citations of a reply. Marks beyond it are removed: a mark of ten bytes may name all sources
of a request, and a reply may have many."""
_CITATION_CHARACTERS = 200
"""Characters of a citation besides its texts, as counted for `MAX_QUOTED_CHARACTERS`."""
_SENTENCE_END = compile_later(r"[.!?…][\"')\]’”»]{0,4}\s+(?![a-z])|[。！？][\"')\]’”」』]{0,4}\s*|\n\s*")
_SPACE = compile_later(r"\s")
_MAX_MARK = 300
"""Maximum characters of a mark behind its word. A longer one is text."""
_MARK = compile_anchored(rf"<(/?)([a-z]{{{_WORD_LENGTH}}})(?![a-z])([^<>]{{0,{_MAX_MARK}}}+)>")
_MARK_BEGINNING = compile_anchored(
    rf"</?([a-z]{{0,{_WORD_LENGTH - 1}}}|[a-z]{{{_WORD_LENGTH}}}(?:(?![a-z])[^<>]{{0,{_MAX_MARK}}}+)?)"
)
_PLAIN = compile_later("<")
_IN_JSON = rf"(?:[^<>\"\\]|\\[^u]|\\u(?!003[cCeE])){{0,{_MAX_MARK}}}+"
_JSON_MARK = compile_anchored(rf"(?:<|\\u003[cC])(\\?/)?([a-z]{{{_WORD_LENGTH}}})(?![a-z]){_IN_JSON}(?:>|\\u003[eE])")
_JSON_MARK_BEGINNING = compile_anchored(
    rf"\\(?:u(?:0(?:0(?:3)?)?)?)?|(?:<|\\u003[cC])(?:\\?/|\\)?"
    rf"([a-z]{{0,{_WORD_LENGTH - 1}}}|[a-z]{{{_WORD_LENGTH}}}(?:(?![a-z]){_IN_JSON}(?:\\(?:u(?:0(?:0(?:3)?)?)?)?)?)?)"
)
_JSON_PLACE = compile_later(r"<|\\[\s\S]?")
"""What may begin a mark in JSON, and each escape, so that none is read from its middle."""
_RANGE = compile_later(r"(\d{1,9}+)(?:\s{0,9}+[–-]\s{0,9}+(\d{1,9}+))?")
_NUMBER = compile_later(rf"[\[\uff3b\ufe47](?=[{BLANK}]{{0,{MAX_BLANKS}}}+[{BLANK}\d])")
_LINE_END = compile_anchored(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_BLANK = compile_anchored(rf"[{BLANK}]")


FORMS: Mapping[str, str] = {
    "char_location": "char_index",
    "content_block_location": "block_index",
    "page_location": "page_number",
    "search_result_location": "block_index",
}
"""Type of a citation → what its places count: the end of the names of two fields, `start_char_index` and `end_…`."""


class _Source(Struct, frozen=True):
    """A source, whose passages have consecutive numbers."""

    first: int
    """Number of the first passage."""
    passages: Sequence[str]
    bounds: Sequence[tuple[int, int]]
    """Place of each passage in the source: characters or blocks, from the first to behind the last."""
    fields: dict[str, Any]
    """Fields of a citation that name the source: `type`, `document_index`, …"""

    def quote(self, first: int, last: int) -> dict[str, Any]:
        """Return a citation of the passages with these numbers, which the source has."""
        begin, end = first - self.first, last - self.first
        unit = FORMS[self.fields["type"]]
        return {
            **self.fields,
            "cited_text": "".join(self.passages[begin : end + 1]),
            f"start_{unit}": self.bounds[begin][0],
            f"end_{unit}": self.bounds[end][1],
        }


class _Passages(Struct, frozen=True):
    """A source in numbered passages."""

    texts: Sequence[str]
    bounds: Sequence[tuple[int, int]]
    """Place of each passage in the source: characters or blocks, from the first to behind the last."""
    blocks: Sequence[Block]
    """What the model reads."""


class NumberedSources:
    """The sources of a request, found by the numbers of their passages."""

    def __init__(self) -> None:
        self._sources: list[_Source] = []
        self._firsts: list[int] = []
        self.next = 1
        """Number of the first passage of the next source."""
        self.word = ""
        """Word in the marks of the reply. "": there is no source."""

    def __bool__(self) -> bool:
        return bool(self.word)

    def add(self, passages: Sequence[str], bounds: Sequence[tuple[int, int]], fields: dict[str, Any]) -> None:
        """Add the next source. Without passages, nothing of it can be cited."""
        if passages:
            self._sources.append(_Source(self.next, passages, bounds, fields))
            self._firsts.append(self.next)
            self.next += len(passages)

    def encode(self) -> bytes:
        return msgspec.json.encode(self._sources)

    def find(self, first: int, last: int) -> Iterator[dict[str, Any]]:
        """Yield a citation for each source with passages of these numbers."""
        last = min(last, self.next - 1)
        place = max(bisect_right(self._firsts, first) - 1, 0)
        while first <= last:
            source = self._sources[place]
            place += 1
            end = min(last, source.first + len(source.passages) - 1)
            yield source.quote(first, end)
            first = end + 1


def number_passages(
    messages: Sequence[Message],
    notes: list[FidelityNote],
    pages: Collection[bytes] = (),
    picture_texts: Collection[str] = (),
    *,
    key: bytes,
    kept: KeptPassages | None = None,
) -> tuple[list[Message], NumberedSources]:
    """Return the messages with texts in place of the sources that the client wants cited. No sources: all are equal.

    `pages`, `picture_texts`: see `MessagesRequest`. `key`: secret of the client for its marks. `kept`: sources of
    earlier requests.

    Raises `InvalidRequest` if only some of the documents, or of the search results, have `citations`.
    """
    numbering = _Numbering(pages, picture_texts, key, KeptPassages(0) if kept is None else kept)
    numbered = [
        message
        if isinstance(message.content, str)
        else _with_blocks(
            message, numbering.rewrite_message(message.role, message.content, f"messages.{place}.content")
        )
        for place, message in enumerate(messages)
    ]
    notes += numbering.notes.values()
    return numbered, numbering.sources


def _with_blocks(message: Message, blocks: list[Block]) -> Message:
    return message if blocks is message.content else replace(message, content=blocks)


def build_format_error() -> InvalidRequest:
    """Return the error for citations of a reply in a given format, which is one text without marks. The API has it."""
    return InvalidRequest(
        "output_config.format: a reply in a given format cannot have citations; leave out one of both",
        code="invalid-field",
    )


class _Numbering:
    """Numbers the passages of one request."""

    def __init__(
        self, pages: Collection[bytes], picture_texts: Collection[str], key: bytes, kept: KeptPassages
    ) -> None:
        self._kept = kept
        self._pages = pages
        self._picture_texts = picture_texts
        self._key = key
        self.sources = NumberedSources()
        self.notes: dict[str, FidelityNote] = {}
        self._counts = {"document": 0, "search_result": 0}
        """Number of the blocks so far, with and without citations: the next index."""
        self._settings: dict[str, tuple[bool, str]] = {}
        """Kind of block → whether the first one requests citations, and its path."""

    def rewrite_message(self, role: str, blocks: list[Block], path: str) -> list[Block]:
        """Return the blocks with texts in place of sources. The texts of a reply that citations have divided are one
        text again, as the model wrote them. The same list: nothing is to be changed.
        """
        written = self.rewrite(blocks, path)
        return _join_texts(written) if role == "assistant" and self.sources else written

    def rewrite(self, blocks: list[Block], path: str) -> list[Block]:
        """Return the blocks with texts in place of sources. The same list: there are none."""
        written: list[Block] = []
        for place, block in enumerate(blocks):
            written += self._rewrite_block(block, f"{path}.{place}")
        is_equal = len(written) == len(blocks) and all(new is old for new, old in zip(written, blocks, strict=True))
        return blocks if is_equal else written

    def _rewrite_block(self, block: Block, path: str) -> Sequence[Block]:
        if isinstance(block, ToolResultBlock):
            return (self._rewrite_result(block, f"{path}.content"),)
        if isinstance(block, DocumentBlock):
            index = self._count("document", path, is_enabled=block.requests_citations)
            if block.requests_citations and block.source.type in ("text", "content"):
                return self._introduce("document", self._number_document(block, index))
        elif isinstance(block, SearchResultBlock):
            index = self._count("search_result", path, is_enabled=block.requests_citations)
            if block.requests_citations:
                return self._introduce("search_result", self._number_result(block, index))
        return (block,)

    def _rewrite_result(self, block: ToolResultBlock, path: str) -> ToolResultBlock:
        if is_string_or_absent(block.content) or not _MAY_BE_SOURCE.search(bytes(block.content)):
            return block
        blocks = decode_nested_content(block.content, path=path)
        written = self.rewrite(blocks, path)
        if written is blocks:
            return block
        # unchanged blocks keep their bytes
        raws = dict(zip(map(id, blocks), msgspec.json.decode(block.content, type=list[Raw]), strict=True))
        return replace(block, content=Raw(msgspec.json.encode([raws.get(id(one), one) for one in written])))

    def _count(self, kind: str, path: str, *, is_enabled: bool) -> int:
        first, first_path = self._settings.setdefault(kind, (is_enabled, path))
        if first != is_enabled:
            name = kind.replace("_", " ")
            with_it, without = (path, first_path) if is_enabled else (first_path, path)
            raise InvalidRequest(
                f"{path}.citations: each {name} of a request must have citations enabled, or none; {with_it} has, and "
                f"{without} has not",
                code="invalid-field",
            )
        self._counts[kind] += 1
        return self._counts[kind] - 1

    def _introduce(self, kind: str, source: list[Block]) -> Sequence[Block]:
        """Return the blocks of a source, with the instruction behind those of the first one."""
        self.notes[kind] = FidelityNote(
            "emulated",
            f"messages.{kind}.citations",
            "passages are numbered, the model marks what it used, and the proxy cuts the quotations from the source",
        )
        if self.sources.word:
            return source
        self.sources.word = self._choose_word()
        return [*source, TextBlock(json_string(_INSTRUCTIONS.format(word=self.sources.word)))]

    def _choose_word(self) -> str:
        if not self._key:
            raise InternalError("a request with sources has no key for its marks")
        digest = int.from_bytes(blake2b(self.sources.encode(), key=self._key, digest_size=16).digest())
        return "".join(ascii_lowercase[digest // 26**place % 26] for place in range(_WORD_LENGTH))

    def _number_document(self, block: DocumentBlock, index: int) -> list[Block]:
        # null in replies of the API, and no field of its requests (anthropics/anthropic-sdk-python issue 1450)
        about = {"document_index": index, "document_title": block.title, "file_id": None}
        headings = (block.title, block.context)
        written: list[Block] = [TextBlock(json_string(_show(text))) for text in headings if text]
        if block.source.type == "content":
            content = block.source.content
            if self._pages and digest_content(content) in self._pages:
                return [*written, *self._add("page_location", content, _number_pages, about)]
            return [*written, *self._add("content_block_location", content, self._number_blocks, about)]
        return [*written, *self._add("char_location", block.source.data, _number_text, about)]

    def _add(
        self, kind: str, source: _Content, number: Callable[[_Content, int], _Passages], about: dict[str, Any]
    ) -> Sequence[Block]:
        """Return what the model reads of the next source. `about`: fields of its citations beside the type."""
        first = self.sources.next
        if self._picture_texts:  # they decide too what is a passage
            found = number(source, first)
        else:
            found = self._kept.get_or_number(self._key, kind, first, source, partial(number, source, first))
        self.sources.add(found.texts, found.bounds, {"type": kind, **about})
        return found.blocks

    def _number_result(self, block: SearchResultBlock, index: int) -> list[Block]:
        about = {"search_result_index": index, "source": block.source, "title": block.title}
        heading = TextBlock(json_string(_show(f"{block.title}\n{block.source}")))
        return [heading, *self._add("search_result_location", block.content, self._number_blocks, about)]

    def _number_blocks(self, content: Raw, first: int) -> _Passages:
        """Number the texts among the blocks. Others cannot be cited: images, and texts in their place."""
        blocks = decode_nested_content(content, in_result=False)
        given = {
            place: msgspec.json.decode(block.text, type=str)
            for place, block in enumerate(blocks)
            if isinstance(block, TextBlock)
        }
        texts = {place: text for place, text in given.items() if text.strip() and text not in self._picture_texts}
        bounds = [(place, place + 1) for place in texts]
        marks = {place: f"[{number}] " for number, place in enumerate(texts, first)}
        shown = [
            TextBlock(json_string(marks.get(place, "") + _show(given[place]))) if place in given else block
            for place, block in enumerate(blocks)
        ]
        return _Passages([*texts.values()], bounds, shown)


def _number_text(text: str, first: int) -> _Passages:
    bounds = [*split_sentences(text, _count_fine(first))]
    passages = [text[begin:end] for begin, end in bounds]
    lines = _write_lines(first, passages)
    return _Passages(passages, bounds, [TextBlock(json_string(lines))] if lines else [])


def _number_pages(content: Raw, first: int) -> _Passages:
    """Number the sentences of a PDF. Each text is a page. Pictures and their descriptions cannot be cited."""
    blocks = decode_nested_content(content, in_result=False)
    texts = (msgspec.json.decode(block.text, type=str) for block in blocks if isinstance(block, TextBlock))
    passages, bounds, written = list[str](), list[tuple[int, int]](), list[Block]()
    for number, text in enumerate(texts, 1):
        page, description = split_description(text)
        next_number = first + len(passages)
        sentences = [page[begin:end] for begin, end in split_sentences(page, _count_fine(next_number))]
        shown = write_page(_write_lines(next_number, sentences), number, _show(description))
        written.append(TextBlock(json_string(shown)))
        passages += sentences
        bounds += [(number, number + 1)] * len(sentences)
    pages = iter(written)
    return _Passages(passages, bounds, [next(pages) if isinstance(block, TextBlock) else block for block in blocks])


def _count_fine(first: int) -> int:
    """Return how many sentences from this number on are passages of their own."""
    return MAX_FINE_PASSAGES - first + 1


def _join_texts(blocks: list[Block]) -> list[Block]:
    joined = list[Block]()
    for _, group in groupby(blocks, lambda block: type(block) is TextBlock):
        same = [*group]
        texts = [bytes(block.text)[1:-1] for block in same if isinstance(block, TextBlock)]
        joined += [TextBlock(Raw(b'"%b"' % b"".join(texts)))] if texts else same
    return joined if len(joined) < len(blocks) else blocks


def _show(text: str) -> str:
    """Return a text of a source as the model reads it. A number at the beginning of a line, as those of passages have,
    gets a backslash.
    """
    return replace_in_slices(
        _NUMBER.finditer, lambda found: f"\\{found[0]}" if _begins_line(text, found.start()) else found[0], text
    )


def _begins_line(text: str, place: int) -> bool:
    """Return True if nothing is seen between the beginning of a line and a place, or in many characters before it."""
    first = max(place - MAX_BLANKS, 0)
    while place > first:
        place -= 1
        if text[place] == " ":  # the usual ones first
            continue
        if "!" <= text[place] <= "~":
            return False
        if _LINE_END.match(text, place):
            return True
        if not _BLANK.match(text, place):
            return False
    return True


def _write_lines(first: int, passages: Iterable[str]) -> str:
    numbered = enumerate(give_way_between(passages), first)
    return "\n".join(f"[{number}] {_show(passage.strip())}" for number, passage in numbered)


_MAY_BE_SOURCE = compile_later(rb'"(?:document|search_result)"')


def split_sentences(text: str, fine: int = MAX_FINE_PASSAGES) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each sentence. Each has the white space behind it, so that none of the text is left out.

    `fine`: number of sentences after which several are one, up to `_COARSE_CHARACTERS`.

    >>> [*split_sentences("The grass is green. The sky is blue.")]
    [(0, 20), (20, 36)]
    """
    begin = place = count = 0
    while place < len(text):
        if not count % _SENTENCES_OF_SLICE:
            give_way()
        found = _SENTENCE_END.search(text, place if count < fine else max(place, begin + _COARSE_CHARACTERS))
        end = place = len(text) if found is None else found.end()
        while end - begin > _MAX_SENTENCE:
            space = _SPACE.search(text, begin + _MAX_SENTENCE // 2, begin + _MAX_SENTENCE)
            cut = space.end() if space is not None else begin + _MAX_SENTENCE
            if text[begin:cut].strip():
                yield begin, cut
                count += 1
            begin = cut
        if text[begin:end].strip():
            yield begin, end
            count += 1
            begin = end


class _MarkScanner(Struct):
    """Finds the marks with a word in a text that arrives in pieces. It holds back at most one mark."""

    word: str
    place: Pattern[str]
    mark: AnchoredPattern[str]
    beginning: AnchoredPattern[str]
    held: str = ""

    @classmethod
    def of_text(cls, word: str) -> "_MarkScanner":
        return cls(word, _PLAIN, _MARK, _MARK_BEGINNING)

    @classmethod
    def of_json(cls, word: str) -> "_MarkScanner":
        return cls(word, _JSON_PLACE, _JSON_MARK, _JSON_MARK_BEGINNING)

    def feed(self, text: str) -> Sequence[str | Match[str]]:
        """Return the marks, and the text between them."""
        text = self.held + text
        self.held = ""
        found, end = list[str | Match[str]](), 0
        for candidate in self.place.finditer(text):
            place = candidate.start()
            if place < end:
                continue
            if (mark := self.mark.match(text, place)) is not None and mark[2] == self.word:
                found += (text[end:place], mark)
                end = mark.end()
            elif (open_mark := self.beginning.fullmatch(text, place)) is not None and self.word.startswith(
                (open_mark[1] or "")[:_WORD_LENGTH]
            ):
                self.held = text[place:]
                return [*found, text[end:place]]
        return [*found, text[end:]]

    def flush(self) -> str:
        """Return what is still held back, but no mark that is cut off in its word: a client may publish the reply, and
        a stranger read the word.
        """
        held, self.held = self.held, ""
        open_mark = self.beginning.fullmatch(held)
        return "" if open_mark is not None and len(open_mark[1] or "") > 1 else held


class CitedReply:
    """Filter of the deltas of one reply, which turns marks into citations.

    A citation follows the first character of its statement, so that no end of the reply within the statement loses it.
    White space behind a statement belongs to its block: requests may not have blocks of white space alone.

    >>> reply.feed([Text("It is <qvkdra 2>blue"), Text("</qvkdra>.")])
    [Text('It is '), TextEnd(), Text('b'), Citation(…), Text('lue'), TextEnd(), Text('.')]
    """

    def __init__(self, sources: NumberedSources) -> None:
        self._sources = sources
        self._due: list[Delta] = []
        """Citations of the open mark, until its statement begins."""
        self._is_cited = False
        """True if the open mark has delivered its citations."""
        self._has_text = False
        """True if the open text block has more than white space."""
        self._ends_block = False
        """True if the next text that is no white space begins a block."""
        self._blank = ""
        """White space of which the place is not known so far: the end of this block, or the beginning of the next."""
        self._room = MAX_QUOTED_CHARACTERS
        self._unplaced = 0
        self._removed = 0
        """Marks in calls or in thinking that begin a statement."""
        self._text = _MarkScanner.of_text(sources.word)
        self._thinking = _MarkScanner.of_text(sources.word)
        self._calls = dict[int | str, _MarkScanner]()

    @property
    def notes(self) -> Sequence[FidelityNote]:
        reasons = {"name no passage": self._unplaced, "are in calls or in thinking": self._removed}
        return tuple(
            FidelityNote("approximated", "content.citations", f"marks of the model that {why} were left out: {count}")
            for why, count in reasons.items()
            if count
        )

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        written: list[Delta] = []
        for delta in deltas:
            match delta:
                case Text():
                    self._end_thinking(written)
                    self._read(delta.text, written)
                case Thinking():
                    written += self._flush_text()
                    self._read_thinking(delta, written)
                case ToolArgs():
                    if text := self._remove_marks(self._open_call(delta.key), delta.json):
                        written.append(ToolArgs(delta.key, text))
                case ToolEnd():
                    self._end_call(delta.key, written)
                    written.append(delta)
                case Stop():
                    written += self.flush()
                    written.append(delta)
                case ToolCall() | BlockDelta():
                    written += self._flush_text()
                    self._end_thinking(written)
                    written.append(delta)
                case _:
                    written.append(delta)
        return written

    def flush(self) -> list[Delta]:
        """Return what is still held back at the end of the reply."""
        written = self._flush_text()
        self._end_thinking(written)
        for key in self._calls:
            self._end_call(key, written)
        return written

    def _read_thinking(self, delta: Thinking, written: list[Delta]) -> None:
        text = self._remove_marks(self._thinking, delta.text)
        if delta.signature:
            text += self._thinking.flush()
        if text or delta.signature:
            written.append(Thinking(text, delta.signature))

    def _end_thinking(self, written: list[Delta]) -> None:
        if self._thinking.held and (text := self._thinking.flush()):
            written.append(Thinking(text))

    def _open_call(self, key: int | str) -> _MarkScanner:
        if (call := self._calls.get(key)) is None:
            call = self._calls[key] = _MarkScanner.of_json(self._sources.word)
        return call

    def _remove_marks(self, scanner: _MarkScanner, text: str) -> str:
        """Return arguments of a call, or thinking, which have no citations: a stranger who sees a mark in the arguments
        knows the word.
        """
        kept = list[str]()
        for part in scanner.feed(text):
            if isinstance(part, str):
                kept.append(part)
            else:
                self._removed += not part[1]
        return "".join(kept)

    def _end_call(self, key: int | str, written: list[Delta]) -> None:
        if text := self._open_call(key).flush():
            written.append(ToolArgs(key, text))

    def _flush_text(self) -> list[Delta]:
        """Return what is still held back at the end of a text block. An open mark ends there."""
        written: list[Delta] = []
        self._write(self._text.flush(), written)
        self._end_statement()
        self._write_blank(written)
        self._has_text = self._ends_block = False
        return written

    def _read(self, text: str, written: list[Delta]) -> None:
        for part in self._text.feed(text):
            if isinstance(part, str):
                self._write(part, written)
            else:
                self._apply(part, written)

    def _write(self, text: str, written: list[Delta]) -> None:
        is_blank = not text or text.isspace()
        if self._ends_block and is_blank:
            self._blank += text
            return
        if self._ends_block:
            written.append(TextEnd())
            self._ends_block = False
        text = self._blank + text
        self._blank = ""
        if is_blank or not self._due:
            written += [Text(text)] if text else []
        else:
            begin = len(text) - len(text.lstrip()) + 1
            written.append(Text(text[:begin]))
            self._cite(written)
            written += [Text(text[begin:])] if text[begin:] else []
        self._has_text = self._has_text or not is_blank

    def _write_blank(self, written: list[Delta]) -> None:
        if self._blank:
            written.append(Text(self._blank))
            self._blank = ""

    def _apply(self, mark: Match[str], written: list[Delta]) -> None:
        is_end, numbers = bool(mark[1]), mark[3]
        if is_end and self._has_text:  # nothing is between the marks: they are about the text before them
            self._cite(written)
        self._end_statement()
        if is_end:
            return
        self._due = self._quote(numbers)
        self._unplaced += not self._due
        if numbers.endswith("/"):  # without a statement: it is about the text before it
            if self._has_text:
                self._cite(written)
            self._end_statement()
        elif self._due:
            self._write_blank(written)
            self._ends_block = self._has_text

    def _cite(self, written: list[Delta]) -> None:
        if self._due:
            written += self._due
            self._due = []
            self._is_cited = True

    def _end_statement(self) -> None:
        self._unplaced += bool(self._due)
        self._due = []
        if self._is_cited:
            self._is_cited = False
            self._ends_block = True

    def _quote(self, numbers: str) -> list[Delta]:
        citations: dict[bytes, Delta] = {}
        for found in _RANGE.finditer(numbers):
            if self._room < 0:
                break
            first = int(found[1])
            for citation in self._sources.find(max(first, 1), int(found[2] or first)):
                texts = sum(len(value) for value in citation.values() if isinstance(value, str))
                self._room -= texts + _CITATION_CHARACTERS
                if self._room < 0:
                    break
                raw = msgspec.json.encode(citation)
                citations[raw] = Citation(Raw(raw))
        return [*citations.values()]
