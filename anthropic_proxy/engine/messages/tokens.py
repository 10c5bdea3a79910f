"""Estimate of the input tokens of a request, without a tokenizer.

Theory of operation. A request may have a megabyte of text, and the estimate must cost less than its decoding. So all
texts of a request are collected, joined, and estimated from a sample of at most 4 KiB: each word, letter, digit and
other character in it adds a fixed weight. The weights were fitted to OpenAI's o200k vocabulary with 520 texts. For
texts that were not fitted, the average error is 4.5 % for prose, code, data and shell output in English, and 9 % for
40 other languages. The estimate is worst for base64 text (25 % too low). Images and PDFs count by their size, tools by
the names and texts of their schemas.

What a request contains (`TokenFacts`) is found once; a `TokenFamily` has what each part costs. The families were fitted
to the counts that providers reported (`bench/token_counts.py`), which stores facts and never texts.
"""

import functools
import itertools
import operator
import re
import struct
import zlib
from base64 import b64decode
from binascii import Error as NotBase64
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import ceil
from typing import Any, Literal, NamedTuple, assert_never

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN
from anthropic_proxy.engine.messages.models import (
    ABSENT,
    Block,
    CleanMessages,
    CompactionBlock,
    DocumentBlock,
    FallbackBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolAdditionBlock,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    decode_nested_content,
    is_string_or_absent,
)
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.models.raw_json import ABOVE_STRINGS
from anthropic_proxy.engine.messages.models.tools import ToolList
from anthropic_proxy.engine.messages.preparation.cleaning import result_as_text, unknown_block_text
from anthropic_proxy.engine.messages.preparation.tools import list_visible_tools
from anthropic_proxy.engine.messages.server_tools import SERVER_TOOLS
from anthropic_proxy.engine.patterns import compile_later

MAX_IMAGE_CELLS = 64
"""Maximum number of cells (tiles) of one image. No provider reads more of them."""
MAX_TOKENS = 1 << 40
"""Maximum of an estimate and of a count that a provider reports. Larger numbers are errors."""
MAX_WORD_LENGTH = 8
"""Maximum letters and digits for each space or run of punctuation in usual text. In 1,345 files of code, data and
documentation it is 2.4 in the median and never above 5.2, in German and Finnish prose up to 7.1, in base64 about 30."""
MAX_MEDIA_SHARE = 0.2
"""Maximum share of images and PDFs in the tokens of a usual request."""

ImageRule = Literal[
    "area", "tiles", "patches of 28", "patches of 32", "cells", "canvas", "rows of 16", "rows of 28", "flat"
]
"""How the size of an image becomes a number of units.

`area`: 750 pixels each. `tiles`: 512 pixels square, after the image was scaled to at most 2048 pixels and its shorter
side to 768. `patches of 28`, `patches of 32`: squares with such a side in pixels. `cells`: squares with two thirds of
the shorter side, at most 768 pixels, and the whole image; one for an image of at most 384 pixels. `canvas`: squares of
336 pixels in the grid of at most 16 that the image fills best, and the whole image if the grid has several. `rows of
16`, `rows of 28`: squares with such a side in pixels, and one for each row of them, after the image was scaled to at
most 1024 or 1540 pixels. `flat`: one unit for any image.
"""


class TokenFamily(Struct, frozen=True):
    """Tokens that each part of a request costs for one family of models. The defaults are those of an unknown model."""

    name: str = "other"
    per_request: float = 4
    thinking: float = 0
    """Text that the provider adds if the request has thinking."""
    per_message: float = 4
    per_call: float = 8
    """Tokens of a call besides the name of its tool and its input."""
    per_result: float = 6
    any_tool: float = 50
    """Text that the provider adds if the request has any tool."""
    forced_tool: float = 0
    """Text that the provider adds besides, if the request demands the call of a tool."""
    per_tool: float = 10
    per_property: float = 1
    """Factor of the punctuation and types in schemas: 5 tokens for a property, 1 for a value of an `enum`."""
    text: float = 1
    """Factor of the tokens of texts in messages. The weights of texts are those of OpenAI's vocabulary."""
    tool_text: float = 1.05
    """Factor of the tokens of names and descriptions in tools."""
    tool_json: float = 0
    """Factor of the tokens of the JSON of tools. Models that read it have 0 for `tool_text` and `per_property`."""
    per_digit: float = 0
    """Tokens that a digit costs more than in OpenAI's vocabulary, which has numbers of three digits."""
    per_capital: float = 0
    """Tokens that a capital letter after the first of a word costs more than in OpenAI's vocabulary."""
    image_rule: ImageRule = "area"
    image_base: float = 0
    """Tokens of an image besides its units."""
    per_image_unit: float = 1
    max_image_units: int = 1_600
    """Maximum units of an image, and the units of an image whose size is unknown."""
    per_page: float = 2_000
    """Tokens of a page of a PDF."""
    page_text: float = 0
    """Factor of the tokens of the text in PDFs, for providers that read pages as images and as text."""
    drops_reasoning: bool = False
    """True if the chat template removes reasoning that earlier replies have as text (`<think>…</think>`)."""


DEFAULT_FAMILY = TokenFamily()


class TokenScale(Struct, frozen=True):
    """How tokens of one model are estimated: its family, and the factor learned from earlier replies."""

    family: TokenFamily = DEFAULT_FAMILY
    factor: float = 1.0


_DEFAULT_SCALE = TokenScale()


TextFacts = tuple[float, ...]
"""What a text contains: the number of each feature in `TEXT_WEIGHTS`, then its size in bytes. Numbers of a sample are
scaled to the size of the text."""


class TokenFacts(Struct):
    """What a request contains, in numbers. `estimate_tokens` turns them into tokens."""

    text: TextFacts
    """Facts of all texts of system prompt and messages."""
    messages: int
    calls: int
    results: int
    images: list[tuple[int, int] | None]
    """Width and height of each image in pixels. None: unknown."""
    pages: int
    """Number of pages of all PDFs."""
    tool_text: TextFacts
    """Facts of the names and descriptions in tools."""
    tools: int = 0
    """Number of visible tools. Deferred tools count only after a tool search has found them."""
    tool_marks: int = 0
    """Tokens of the punctuation and types in the schemas of tools."""
    tool_json: float = 0
    """Tokens of the tools as JSON: names, descriptions and schemas."""
    page_text: float = 0
    """Tokens of the text of all PDFs."""
    reasoning: float = 0
    """Tokens of the reasoning that earlier replies have as text. It is no part of `text`."""
    thinks: bool = False
    """True if the request turns thinking on."""
    forces_tool: bool = False
    """True if the request demands the call of a tool."""


class EstimateCache:
    """Cache for the facts of the latest request, because several steps of a request need its estimate."""

    _last: "tuple[MessagesRequest, TokenFacts] | None" = None
    _has_reasoning = False
    """True if the facts have the reasoning of earlier replies apart."""
    _tokens: tuple[TokenFamily, int] | None = None
    """Estimate of the latest request for the family that was asked for last."""

    def has_estimate(self) -> bool:
        return self._last is not None

    def get_or_estimate(self, request: MessagesRequest, scale: TokenScale = _DEFAULT_SCALE) -> int:
        finds_reasoning = scale.family.drops_reasoning
        if self._last is None or self._last[0] is not request or (finds_reasoning and not self._has_reasoning):
            self._last = request, collect_token_facts(request, finds_reasoning=finds_reasoning)
            self._has_reasoning, self._tokens = finds_reasoning, None
        return self.estimate_latest(scale)

    def estimate_latest(self, scale: TokenScale) -> int:
        """0: no request was estimated."""
        if self._last is None:
            return 0
        if self._tokens is None or self._tokens[0] is not scale.family:
            self._tokens = scale.family, estimate_tokens(self._last[1], scale.family)
        return round(self._tokens[1] * scale.factor)

    def is_latest_usual(self, family: TokenFamily) -> bool:
        """Return True if the count of the latest request says how a model counts usual requests."""
        return self._last is not None and is_usual(self._last[1], family)


def collect_token_facts(request: MessagesRequest, *, finds_reasoning: bool) -> TokenFacts:
    """Return what the estimate of a request is computed from: its texts, tools, images and documents.

    `finds_reasoning`: reasoning that earlier replies have as text is measured apart, which takes longer.

    Raises `InvalidRequest` for a tool result that cannot be decoded.
    """
    counter = _TokenCounter()
    counter.add_message(request.system)
    messages = request.messages
    if type(messages) is not CleanMessages:
        messages = _leave_out_replaced(messages)
    counter.add_messages(messages, finds_reasoning=finds_reasoning)
    facts = counter.build_facts(len(messages))
    if tools := list_visible_tools(request):
        weighed = _weigh_tools_cached(tools) if isinstance(tools, ToolList) else _weigh_tools(tools)
        facts.tools, (facts.tool_text, facts.tool_marks, facts.tool_json) = len(tools), weighed
    if counter.reasoning:
        facts.reasoning = weigh_text(count_text_features(counter.reasoning))
    facts.thinks = request.thinking is not None and request.thinking.type != "disabled"
    facts.forces_tool = request.tool_choice is not None and request.tool_choice.type in ("any", "tool")
    return facts


def _leave_out_replaced(messages: list[Message]) -> list[Message]:
    """Return the messages from the last summary on, which replaces what is before it."""
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        for index, block in enumerate(message.content if type(message.content) is list else ()):
            if type(block) is CompactionBlock and block.content:
                return [structs.replace(message, content=message.content[index:]), *messages[place + 1 :]]
    return messages


_PART = structs.replace(DEFAULT_FAMILY, per_request=0)


def count_message_tokens(content: str | list[Block]) -> int:
    """Return the estimated tokens of a message, by a scale that never changes. See `count_block_tokens`."""
    counter = _TokenCounter(inflates=False)
    counter.add_message(content)
    return estimate_tokens(counter.build_facts(1), _PART)


def count_block_tokens(block: Block) -> int:
    """Return the estimated tokens of a content block, by a scale that never changes.

    The sum over all parts of a request differs from the estimate of the whole request, but grows with each part. No PDF
    is inflated: of a request with many, only the first could be, so that the count would depend on the other parts.
    """
    counter = _TokenCounter(inflates=False)
    counter.add([block])
    return estimate_tokens(counter.build_facts(0), _PART)


def estimate_tokens(facts: TokenFacts, family: TokenFamily) -> int:
    """Return the estimated input tokens of a request with these facts, at least 1."""
    total = family.per_request + family.thinking * facts.thinks + family.text * weigh_message_text(facts, family)
    total += family.per_message * facts.messages
    total += family.per_call * facts.calls + family.per_result * facts.results
    total += family.per_page * facts.pages + family.page_text * facts.page_text
    if facts.tools:
        total += family.any_tool + family.forced_tool * facts.forces_tool + family.per_tool * facts.tools
        total += family.tool_text * weigh_text(facts.tool_text) + family.per_property * facts.tool_marks
        total += family.tool_json * facts.tool_json
    for size in facts.images:
        total += family.image_base + family.per_image_unit * count_image_units(size, family)
    return max(1, min(round(total), MAX_TOKENS))


def is_usual(facts: TokenFacts, family: TokenFamily) -> bool:
    """Return True if a request has at most a few images, pages of PDFs, and letters without spaces, such as base64.

    Their estimates may be wrong by a factor that other requests do not have.
    """
    letters, digits, marks, spaces = map(operator.add, _read_words(facts.text), _read_words(facts.tool_text))
    if letters + digits > MAX_WORD_LENGTH * (marks + spaces):
        return False
    if not (facts.images or facts.pages or facts.page_text):
        return True
    without_media = structs.replace(facts, images=[], pages=0, page_text=0)
    return estimate_tokens(facts, family) * (1 - MAX_MEDIA_SHARE) <= estimate_tokens(without_media, family)


def weigh_message_text(facts: TokenFacts, family: TokenFamily) -> float:
    """Return the tokens of the texts of system prompt and messages, before the factor of the family."""
    digits, capitals = facts.text[_DIGIT], facts.text[_CAPITAL]
    reasoning = 0 if family.drops_reasoning else facts.reasoning
    return weigh_text(facts.text) + reasoning + family.per_digit * digits + family.per_capital * capitals


_END_OF_REASONING = b"</think>"


class _Fetched(Struct):
    url: str = ""
    content: Raw = ABSENT


_UNREAD = RedactedThinkingBlock, ToolAdditionBlock, ToolRemovalBlock, FallbackBlock
"""Blocks, besides thinking, whose text no model reads: reasoning of earlier replies, and marks of the client."""


class _TokenCounter:
    """Counter of the parts of one request. It collects all texts, so that they are estimated together."""

    def __init__(self, *, inflates: bool = True) -> None:
        """`inflates`: False reads no compressed part of a PDF."""
        self.texts: list[bytes | memoryview] = []
        self.reasoning: list[bytes | memoryview] = []
        self.calls = self.results = self.pages = self._pdfs = 0
        self.page_text = 0.0
        self.images: list[tuple[int, int] | None] = []
        self._inflates = inflates

    def build_facts(self, messages: int) -> TokenFacts:
        """Return the facts of what was counted. `messages`: number of messages in it."""
        return TokenFacts(
            text=count_text_features(self.texts),
            messages=messages,
            calls=self.calls,
            results=self.results,
            images=self.images,
            pages=self.pages,
            tool_text=_NO_TEXT,
            page_text=self.page_text,
        )

    def add_message(self, content: str | list[Block]) -> None:
        """Count the parts, without thinking blocks of earlier replies, which most providers do not receive."""
        if isinstance(content, str):
            self.texts.append(content.encode(errors="replace"))
        else:
            self.add(content)

    def add_messages(self, messages: Sequence[Message], *, finds_reasoning: bool) -> None:
        known = messages.known if isinstance(messages, CleanMessages) else None
        if known is not None and not finds_reasoning:
            counter: _TokenCounter | None = known.results.get(_TokenCounter)
            if counter is None:
                counter = _TokenCounter()
                counter.add_messages(known, finds_reasoning=False)
                known.results[_TokenCounter] = counter  # complete: another thread may use it
            self.texts += counter.texts
            self.images += counter.images
            self.calls += counter.calls
            self.results += counter.results
            self.pages += counter.pages
            self._pdfs += counter._pdfs
            self.page_text += counter.page_text
            messages = messages[len(known) :]
        for message in messages:
            start = len(self.texts)
            if type(message.content) is list:
                self.add(message.content)
            else:
                self.add_message(message.content)
            if finds_reasoning and message.role == "assistant":
                self.split_reply(start)

    def split_reply(self, start: int) -> None:
        """Take the reasoning out of a reply, whose texts begin at `start`: chat templates remove all of its text up to
        the last mark.
        """
        for place in range(len(self.texts) - 1, start - 1, -1):
            text = bytes(self.texts[place])
            if (end := text.rfind(_END_OF_REASONING)) >= 0:
                self.reasoning += [*self.texts[start:place], text[:end]]
                self.texts[start : place + 1] = [text[end + len(_END_OF_REASONING) :]]
                return

    def add(self, blocks: list[Block]) -> None:
        """Count the content blocks of a message, or the blocks inside another block, such as a tool result."""
        texts = self.texts
        for block in blocks:
            if type(block) is TextBlock:  # without calls of functions for the usual blocks, which are hundreds
                texts.append(memoryview(block.text)[1:-1])
            elif type(block) is ToolResultBlock:
                self.results += 1
                if block.content < ABOVE_STRINGS:
                    texts.append(memoryview(block.content)[1:-1])
                else:
                    self.add(decode_nested_content(block.content))
            elif type(block) is ToolUseBlock or type(block) is ServerToolUseBlock:
                self.calls += 1
                texts += (block.name.encode(errors="replace"), memoryview(block.input))
            elif type(block) is ThinkingBlock:
                pass
            elif isinstance(block, ImageBlock):
                self.images.append(read_image_size(block.source))
            elif isinstance(block, DocumentBlock):
                self._add_document(block)
            elif isinstance(block, SearchResultBlock):
                self._add_text(f"{block.title}\n{block.source}")
                self._add_content(block.content)
            elif isinstance(block, ServerToolResultBlock):
                self._add_server_result(block)
            elif isinstance(block, ToolReferenceBlock):
                self._add_text(block.tool_name)
            elif isinstance(block, CompactionBlock):
                self._add_text(block.content or "")
            elif type(block) is UnknownBlock:
                self._add_text(unknown_block_text(block))
            elif not isinstance(block, _UNREAD):
                assert_never(block)

    def _add_server_result(self, block: ServerToolResultBlock) -> None:
        if SERVER_TOOLS[block.kind].has_document:
            self.results += 1
            try:
                fetched = msgspec.json.decode(block.content, type=_Fetched)
                document = msgspec.json.decode(fetched.content, type=DocumentBlock)
            except (msgspec.DecodeError, RecursionError):
                pass
            else:
                self._add_text(fetched.url)
                self._add_document(document)
                return
        self._add_text(result_as_text(block))

    def _add_text(self, text: str) -> None:
        self.texts.append(text.encode(errors="replace"))

    def _add_content(self, content: Raw) -> None:
        if is_string_or_absent(content):
            self.texts.append(memoryview(content)[1:-1])
        else:
            self.add(decode_nested_content(content, in_result=False))

    def _add_document(self, block: DocumentBlock) -> None:
        source = block.source
        self._add_text(f"{block.title or ''}\n{block.context or ''}")
        if source.type == "text":
            self._add_text(source.data)
        elif source.type == "content":
            self._add_content(source.content)
        else:
            self._pdfs += 1
            size = measure_pdf_source(source, inflates=self._inflates and self._pdfs <= _MAX_INFLATED_PDFS)
            self.pages += size.pages
            self.page_text += size.characters / CHARACTERS_PER_TOKEN


# Texts

_SAMPLE = 4_096
_STRETCH = 128
"""Number of bytes of one sampled piece of the text. It has whole words, but leaves space for many pieces in the
sample."""
_LONG_STRETCH = 1_024
_MANY_ESCAPES = 64
"""Maximum Unicode escapes (`\\u0430`) in a sample of short pieces. A text with more is sampled in longer pieces,
because each cut can destroy an escape."""
_OF_TWO, _OF_THREE, _OF_VIETNAMESE = "\u0430".encode(), "\u4e00".encode(), "\u1ea1".encode()

_CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
_LETTERS = _CAPITALS + _CAPITALS.lower()
_DIGITS = b"0123456789"
_ASCII = bytes(range(128))
_LETTERS_ALIKE = bytes(ord("a") if byte in _LETTERS else ord(" ") for byte in range(256))
_MARKS_ALONE = bytes(byte if byte < 128 and byte not in _LETTERS + _DIGITS else ord(" ") for byte in range(256))
_CAPITALS_ALONE = bytes(byte if byte in _CAPITALS else ord(" ") for byte in range(256))
_DIGITS_ALONE = bytes(ord("0") if byte in _DIGITS else ord(" ") for byte in range(256))
_FIRST_BYTES = tuple(
    bytes(byte for byte in range(256) if not low <= byte < high)
    for low, high in itertools.pairwise((0xC2, 0xCA, 0xD0, 0xD4, 0xE0, 0xE2, 0xE3, 0xF0, 0x100))
)
"""All bytes but the first bytes in UTF-8 of the characters of a script."""
TEXT_WEIGHTS = {
    "words": 0.56,
    "letters": 0.088,
    "capitals at the beginning of a word": 0.311,
    "further capitals": 0.022,
    "numbers": 1.975,
    "digits": 0.069,
    "runs of punctuation": 0.401,
    "punctuation marks": 0.219,
    "spaces": 0.04,
    "runs of several spaces": 0.527,
    "Latin letters with accents": 1.366,
    "Greek": 0.403,
    "Cyrillic": 0.265,
    "Hebrew, Arabic": 0.403,
    "scripts of South Asia, Georgian": 0.398,
    "punctuation and symbols outside ASCII": 2.381,
    "Chinese, Japanese, Korean": 0.705,
    "emoji": 2.69,
    "letters that only Vietnamese has": 0.15 - 0.398,
    "other Latin letters with accents beside them": 0.15 - 1.366,
}
"""Feature of a text → tokens. The words of Vietnamese are in the vocabulary, so its letters cost less than others."""
_WEIGHTS = tuple(TEXT_WEIGHTS.values())
_CAPITAL, _DIGIT = list(TEXT_WEIGHTS).index("further capitals"), list(TEXT_WEIGHTS).index("digits")
_read_words = operator.itemgetter(
    *map(list(TEXT_WEIGHTS).index, ("letters", "digits", "runs of punctuation", "spaces"))
)
"""Returns these four features of a text."""
_NO_TEXT: TextFacts = (0.0,) * (len(_WEIGHTS) + 1)
_NO_SCRIPTS = (0,) * (len(_FIRST_BYTES) + 2)
_ESCAPED = compile_later(rb"\\u(?:(0[0-9a-fA-F])|(1[eE])|[0-9a-fA-F]{2})[0-9a-fA-F]{2}")
"""Pattern of a character as JSON escape (`u0430` after a backslash). The groups: scripts with two bytes in UTF-8, and
letters of Vietnamese."""


def estimate_text_tokens(text: bytes) -> float:
    """Return the estimated tokens of a text, which may be JSON or a part of it."""
    return weigh_text(count_text_features([text]))


def weigh_text(facts: TextFacts) -> float:
    """Return the estimated tokens of a text, at most one for each byte."""
    tokens: float = sum(map(operator.mul, _WEIGHTS, facts))
    return min(tokens, facts[-1])


def count_text_features(texts: Sequence[bytes | memoryview]) -> TextFacts:
    """Return the facts of texts, with a space between two of them, from a sample if they are long.

    A backslash counts as nothing, so an escaped quote counts as one character. A Unicode escape (`\\u0430`) counts as
    one character that is not ASCII.
    """
    ends = [*map(operator.add, itertools.accumulate(map(len, texts)), itertools.count(1))]
    size = ends[-1] - 1 if ends else 0
    if size <= _SAMPLE:
        return *_count_features(b" ".join(texts)), size
    sample = _sampled(texts, ends, _STRETCH)
    if sample.count(rb"\u") > _MANY_ESCAPES:
        sample = _sampled(texts, ends, _LONG_STRETCH)
    scale = size / len(sample)
    return *(count * scale for count in _count_features(sample)), size


def _sampled(texts: Sequence[bytes | memoryview], ends: Sequence[int], stretch: int) -> bytes:
    """Return pieces of `stretch` bytes, at equal distances, of the texts with a space between two of them.

    `ends`: for each text, the offset behind it and the space after it.
    """
    size = ends[-1] - 1
    step = size * stretch // _SAMPLE
    pieces: list[bytes | memoryview] = []
    for start in range(0, size, step):
        place = bisect_right(ends, start)
        text = texts[place]
        offset = start - ends[place] + len(text) + 1
        piece = text[offset : offset + stretch]
        pieces.append(piece)
        wanted = stretch - len(piece)
        while wanted and (place := place + 1) < len(texts):
            piece = texts[place][: wanted - 1]
            pieces += (b" ", piece)
            wanted -= 1 + len(piece)
    return b"".join(pieces)


def _count_features(text: bytes) -> tuple[int, ...]:
    if rb"\u" in text:
        text = _ESCAPED.sub(lambda match: _OF_TWO if match[1] else _OF_VIETNAMESE if match[2] else _OF_THREE, text)
    letters_alike = text.translate(_LETTERS_ALIKE)
    words = letters_alike.count(b" a") + letters_alike.startswith(b"a")  # where they begin
    remainder = text.translate(None, _LETTERS)
    letters = len(text) - len(remainder)
    capitals = text.translate(_CAPITALS_ALONE)
    first_capitals, all_capitals = len(capitals.split()), len(text) - capitals.count(b" ")
    digits = len(remainder) - len(remainder.translate(None, _DIGITS))
    numbers = len(text.translate(_DIGITS_ALONE).split()) if digits else 0
    spaces = remainder.count(b" ")
    between = (b"-%b-" % text).split(b"  ")  # the texts between such runs, and b"" inside a longer run
    runs_of_spaces = len(between) - between.count(b"") - 1
    marks = len(remainder) - digits - spaces - remainder.count(b"\\")
    runs = len(text.translate(_MARKS_ALONE, b"\\").split())
    scripts: tuple[int, ...] = _NO_SCRIPTS
    if not remainder.isascii():
        others = remainder.translate(None, _ASCII)
        marks -= len(others)
        found = [len(others.translate(None, rest)) for rest in _FIRST_BYTES]
        vietnamese = others.count(b"\xe1\xba") + others.count(b"\xe1\xbb")
        scripts = (*found, vietnamese, min(vietnamese, found[0]))
    further_capitals = all_capitals - first_capitals
    usual = words, letters, first_capitals, further_capitals, numbers, digits, runs, marks, spaces, runs_of_spaces
    return *usual, *scripts


# Images and PDFs

_PIXELS_PER_UNIT = 750
_MAX_PIXELS = 1 << 16
"""Maximum width and height that are believed. Larger numbers are errors of the header."""
_HEADER = 64 * 1024
"""Maximum base64 characters of an image that are decoded to find its size. A photo may contain a preview before its
size."""
_PDF_READ = 4 * 1024 * 1024
"""Maximum base64 characters of a PDF that are decoded to measure it. A longer PDF is extrapolated."""
_MAX_INFLATED_PDFS = 16
"""Maximum PDFs of a request in which compressed streams are read. Others may have more pages than are counted."""
_MAX_PDF_PAGES, _MAX_PAGE_CHARACTERS = 1_000, 20_000
"""Maximum number of pages of a PDF, and of characters of a page on average, that are counted. No provider reads more
pages (ai.google.dev, "Document understanding"; 2026-11), so a larger number is no page count: any bytes can look like
pages."""
_CANVAS_SIDE, _MAX_CANVAS_SQUARES = 336, 16
_PATCHES = {"patches of 28": 28, "patches of 32": 32}
"""Image rule → side of a square in pixels. Source of 28, for Claude: platform.claude.com/docs, "Vision", 2026-11."""
_ROWS = {"rows of 16": (16, 1024), "rows of 28": (28, 1540)}
"""Image rule → side of a square, and maximum side of an image, in pixels.

Sources, read 2026-11: Pixtral, www.scaleway.com/en/docs, "Understanding the Pixtral-12b-2409 model"; later models of
Mistral, mistralai.github.io/mistral-common/usage/images and keras.io, "Mistral3ImageConverter".
"""


def read_image_size(source: Source) -> tuple[int, int] | None:
    """Return width and height of an image in pixels, from its first bytes. None: unknown.

    Sources: the specifications of PNG, GIF89a, JPEG (T.81, B.2.2) and the WebP container.
    """
    if source.type != "base64":
        return None
    head = _decoded(source.data[:_HEADER])
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        return width, height
    if head.startswith(b"GIF8") and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
        return width, height
    if head.startswith(b"\xff\xd8"):
        place = 2
        while place + 9 <= len(head) and head[place] == 0xFF:
            marker = head[place + 1]
            if marker == 0xFF:
                place += 1
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack(">HH", head[place + 5 : place + 9])
                return width, height
            else:
                place += 2 + int.from_bytes(head[place + 2 : place + 4])
        return None
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    match head[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack("<HH", head[26:30])
            return width & 0x3FFF, height & 0x3FFF
        case _:
            return None


def count_image_units(size: tuple[int, int] | None, family: TokenFamily) -> int:
    """Return the units of an image, 1 to `max_image_units` of the family, which is also that of an unknown size."""
    if family.image_rule == "flat":
        return 1
    if size is None:
        return family.max_image_units
    width, height = min(max(size[0], 1), _MAX_PIXELS), min(max(size[1], 1), _MAX_PIXELS)
    if family.image_rule == "area":
        units = width * height // _PIXELS_PER_UNIT
    elif family.image_rule in _PATCHES:
        side = _PATCHES[family.image_rule]
        units = ceil(width / side) * ceil(height / side)
    elif family.image_rule == "cells":
        side = min(max(min(width, height) * 2 // 3, 1), 768)
        cells = min(ceil(width / side) * ceil(height / side), MAX_IMAGE_CELLS)
        units = 1 if max(width, height) <= 384 else cells + 1
    elif family.image_rule in _ROWS:
        square, longest = _ROWS[family.image_rule]
        scale = min(1, longest / max(width, height))
        units = (ceil(round(width * scale) / square) + 1) * ceil(round(height * scale) / square)
    elif family.image_rule == "canvas":
        squares = _count_canvas_squares(width, height)
        units = squares + 1 if squares > 1 else 1
    else:
        scale = min(1, 2048 / max(width, height))
        scale = min(scale, 768 / min(width, height))
        units = min(ceil(width * scale / 512) * ceil(height * scale / 512), MAX_IMAGE_CELLS)
    return max(1, min(units, family.max_image_units))


def _count_canvas_squares(width: int, height: int) -> int:
    """Return the squares of the grid that an image fills best: the smallest that contains it, else the largest scale.

    Source: `get_best_fit` of Llama 4 (transformers, image_processing_llama4_fast.py).
    """
    grids = [(across, down) for across in range(1, 17) for down in range(1, _MAX_CANVAS_SQUARES // across + 1)]
    scales = {grid: min(grid[0] * _CANVAS_SIDE / width, grid[1] * _CANVAS_SIDE / height) for grid in grids}
    larger = [scale for scale in scales.values() if scale >= 1]
    chosen = min(larger) if larger else max(scales.values())
    return min(across * down for (across, down), scale in scales.items() if scale == chosen)


# PDFs. A PDF consists of objects. A page is an object with the type `Page`, which may be inside a compressed object
# stream (`ObjStm`, PDF 1.5 and later). The text of a page is in a compressed content stream, in strings that operators
# such as `Tj` show. Only a few streams are decompressed, and each only in part; the rest is extrapolated.

_PAGE = compile_later(rb"/Type\s*/Page(?![A-Za-z])")
_STREAM_START = compile_later(rb"(?<!end)stream\r?\n")
_DICTIONARY_BYTES = 512
"""Maximum bytes before a stream that are read as its dictionary."""
_WITHOUT_TEXT = compile_later(rb"/(?:Image|Length1|XRef|Metadata|FunctionType|Alternate)\b")
"""Keys of dictionaries of streams without text: pictures, fonts, tables, functions, color profiles."""
_SHOWN_STRING = compile_later(rb"\(((?:[^()\\]|\\.)*+)(\))?|<([0-9A-Fa-f\s]+)>", re.DOTALL)
"""String in parentheses, with its end, or in hexadecimal. It matches one without an end, which would be tried again."""
_MAX_STREAMS = 8
"""Maximum streams of one kind that are decompressed. The others are assumed to contain as much as those."""
_MAX_INFLATED = 32 * 1024
"""Maximum bytes that are decompressed of one stream."""


class PdfSize(Struct):
    pages: int = 0
    characters: float = 0
    """Estimated characters of the text. 0: none was found, as in scanned pages and encrypted files."""


def measure_pdf(data: bytes, *, inflates: bool = True) -> PdfSize:
    """Return pages and characters of a PDF, or of its beginning. `inflates`: False reads no compressed streams."""
    objects: list[int] = []
    contents: list[int] = []
    for match in _STREAM_START.finditer(data) if inflates else ():
        dictionary = data[max(0, match.start() - _DICTIONARY_BYTES) : match.start()].rpartition(b"obj")[2]
        if b"/FlateDecode" not in dictionary:
            continue
        if b"/ObjStm" in dictionary:
            objects.append(match.end())
        elif not _WITHOUT_TEXT.search(dictionary):
            contents.append(match.end())
    pages = len(_PAGE.findall(data)) + round(_count_in_streams(data, objects, _count_pages))
    return PdfSize(pages, _count_in_streams(data, contents, _count_characters))


def _count_in_streams(data: bytes, starts: list[int], count: Callable[[bytes], float]) -> float:
    """Return the sum of `count` over all streams, estimated from a few of them at equal distances."""
    sample = starts[:: len(starts) // _MAX_STREAMS + 1]
    total = 0.0
    for start in sample:
        with suppress(zlib.error):
            total += count(zlib.decompressobj().decompress(data[start : start + _MAX_INFLATED], _MAX_INFLATED))
    return total * len(starts) / max(len(sample), 1)


def _count_pages(objects: bytes) -> int:
    return len(_PAGE.findall(objects))


def _count_characters(content: bytes) -> float:
    """Return the characters that a content stream shows. A string in hexadecimal has one or two bytes for each."""
    if b"BT" not in content or not (b"Tj" in content or b"TJ" in content):
        return 0
    literal = digits = 0
    is_wide = True
    for match in _SHOWN_STRING.finditer(content):
        if match[2]:
            literal += len(match[1]) - match[1].count(b"\\")
        elif match[3]:
            length = len(match[3]) - match[3].count(b"\n") - match[3].count(b" ")
            digits += length
            is_wide = is_wide and length % 4 == 0
    return literal + digits / (4 if is_wide else 2)


def measure_pdf_source(source: Source, *, inflates: bool = True) -> PdfSize:
    """Return the number of pages of a PDF, at least 1, which is also that of an unknown PDF, and its characters."""
    data = source.data
    size = measure_pdf(_decoded(data[:_PDF_READ]), inflates=inflates)
    if len(data) > _PDF_READ:
        size = PdfSize(size.pages * len(data) // _PDF_READ, size.characters * len(data) / _PDF_READ)
    pages = min(max(size.pages, 1), _MAX_PDF_PAGES)
    return PdfSize(pages, min(size.characters, pages * _MAX_PAGE_CHARACTERS))


def _decoded(data: str) -> bytes:
    try:
        return b64decode(data[: len(data) // 4 * 4])
    except (NotBase64, ValueError):
        return b""


# Tools

_PER_PROPERTY = 5
"""Number of tokens that a property of a tool's schema costs besides its name: type and punctuation."""
_PER_VALUE = 1
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""JSON Schema keywords with an object as value: name → schema."""
_MAX_CACHED_BYTES = 32 * 1024


class _Definition(Struct):
    name: str = ""
    description: str | None = None
    input_schema: Any = None


_decode_definition = msgspec.json.Decoder(_Definition).decode


class _WeighedTools(NamedTuple):
    text: TextFacts
    """Facts of the names and texts of the definitions."""
    marks: int
    """Tokens of the punctuation and types of the schemas."""
    json: float
    """Tokens of the definitions as JSON."""


def _weigh_tool(tool: Tool) -> _WeighedTools:
    """Weigh a tool definition. Results for small definitions are cached."""
    if len(tool.source) > _MAX_CACHED_BYTES:
        return _weigh_source(tool.source)
    if tool.source:
        return _weigh_source_cached(tool.source)
    schema = decode_values(tool.input_schema) if len(tool.input_schema) else None
    return _weigh_definition(_Definition(tool.name, tool.description, schema))


def _weigh_source(source: bytes) -> _WeighedTools:
    try:
        tool = _decode_definition(source)
    except (msgspec.DecodeError, RecursionError):
        text = count_text_features([source])
        return _WeighedTools(text, 0, weigh_text(text))
    return _weigh_definition(tool)


_weigh_source_cached = functools.lru_cache(maxsize=1024)(_weigh_source)


def _weigh_tools(tools: Iterable[Tool]) -> _WeighedTools:
    texts, marks, weights = zip(*map(_weigh_tool, tools), strict=True)
    return _WeighedTools(tuple(map(sum, zip(*texts, strict=True))), sum(marks), sum(weights))


_weigh_tools_cached = functools.lru_cache(maxsize=64)(_weigh_tools)


def _weigh_definition(tool: _Definition) -> _WeighedTools:
    texts = [tool.name, tool.description or ""]
    marks = _collect_texts(tool.input_schema, texts)
    text = count_text_features(["\n".join(texts).encode(errors="replace")])
    return _WeighedTools(text, marks, estimate_text_tokens(msgspec.json.encode(tool)))


def _collect_texts(schema: Any, texts: list[str]) -> int:
    """Append all names and texts of a JSON Schema to `texts`. Return the tokens of its punctuation and types."""
    if isinstance(schema, list):
        return sum(_collect_texts(member, texts) for member in schema)
    if not isinstance(schema, dict):
        return 0
    marks = 0
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            texts.extend(value)
            marks += _PER_PROPERTY * len(value) + sum(_collect_texts(member, texts) for member in value.values())
        elif keyword == "enum" and isinstance(value, list):
            texts.extend(map(str, value))
            marks += _PER_VALUE * len(value)
        elif keyword in ("description", "const", "pattern") and isinstance(value, str):
            texts.append(value)
        else:
            marks += _collect_texts(value, texts)
    return marks
