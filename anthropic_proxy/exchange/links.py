"""Links to pictures and documents, fetched here for a backend that takes none.

Where a backend takes links they pass. Else, and only with `FETCH_URLS`, the guard of the street fetches each of them
once in an exchange, and the block holds the bytes; a link that could not be had becomes a text that names it.
"""

import asyncio
from collections.abc import Container, Iterator, Sequence

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.errors import FetchFailed
from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import Limits
from anthropic_proxy.messages.types import (
    Block,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    Source,
    TextBlock,
    ToolResultBlock,
    blocks_of,
    text_raw,
)
from anthropic_proxy.routing.router import Target
from anthropic_proxy.upstream.errands import PICTURES, READABLE, TEXTS, Fetch, Page
from anthropic_proxy.wire.contract import takes_link

MOST_LINKS = 20
"""Links of one request that are fetched."""
MOST_BYTES = 32 * 1024 * 1024
"""Of all of them together: what a request itself may have."""
MOST_AT_ONCE = 4
LONGEST_URL = 8 * 1024
"""Characters of a link: signed ones are long."""
_SOURCE_OF_LINK = b'"url"'
_LIST = b"["[0]

_Linked = ImageBlock | DocumentBlock
_Key = tuple[str, str]
"""Kind of block and address."""


def find_links(house: House, inbound: Inbound, watch: Watch) -> "Links | None":
    """Return what fetches the links of a request; None: it has none, or nobody has allowed that."""
    if house.fetch is None or _SOURCE_OF_LINK not in inbound.body:
        return None
    return Links(house.fetch, watch)


class Links:
    """The links of one exchange, each fetched once, whoever is asked and how often."""

    def __init__(self, fetch: Fetch, watch: Watch) -> None:
        self._fetch = fetch
        self._watch = watch
        self._found: dict[_Key, Page | FetchFailed] = {}
        self._bytes = 0
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self.notes: list[Note] = []
        """What became of the links of the last request."""

    async def put_into(self, request: MessagesRequest, target: Target, limits: Limits) -> MessagesRequest:
        """Return the request as this target can take it: what it does not fetch itself is in it."""
        wanted = {_key(block): block for block in _linked(request.messages) if _is_fetched(block, target, limits)}
        self.notes = []
        if not wanted:
            return request
        self._watch.queueing = True  # the upstream owes nothing meanwhile; the client gets its pings
        try:
            await asyncio.gather(
                *(self._find(block, limits) for key, block in wanted.items() if key not in self._found)
            )
        finally:
            self._watch.queueing = False
        self.notes = [_note_on(block, self._found[key]) for key, block in wanted.items()]
        messages = [
            Message(message.role, self._filled(message.content, wanted))
            if isinstance(message.content, list)
            else message
            for message in request.messages
        ]
        return structs.replace(request, messages=messages)

    async def _find(self, block: _Linked, limits: Limits) -> None:
        key = _key(block)
        self._found[key] = FetchFailed(f"more than {MOST_LINKS} links in a request", "max_uses_exceeded")
        if len(self._found) > MOST_LINKS:
            return
        async with self._turns:
            self._found[key] = await self._fetch_within_budget(block, limits)

    async def _fetch_within_budget(self, block: _Linked, limits: Limits) -> Page | FetchFailed:
        kinds = PICTURES if isinstance(block, ImageBlock) else READABLE if limits.pdf else TEXTS
        try:
            page = await self._fetch(block.source.url, media_types=kinds, longest_url=LONGEST_URL)
        except FetchFailed as error:
            error.let_go()
            return error
        self._bytes += len(page.body)
        if self._bytes > MOST_BYTES:
            return FetchFailed(f"the links of a request have more than {MOST_BYTES >> 20} MiB", "content_too_large")
        return page

    def _filled(self, content: list[Block], wanted: Container[_Key]) -> list[Block]:
        return [self._filled_block(block, wanted) for block in content]

    def _filled_block(self, block: Block, wanted: Container[_Key]) -> Block:
        if isinstance(block, ToolResultBlock) and _may_link(block.content):
            parts = blocks_of(block.content)
            raws = msgspec.json.decode(block.content, type=list[Raw])  # what stays is not written anew
            filled = (self._filled_block(part, wanted) for part in parts)
            said = [raw if new is old else new for raw, old, new in zip(raws, parts, filled, strict=True)]
            return ToolResultBlock(block.tool_use_id, Raw(msgspec.json.encode(said)), block.is_error)
        if not isinstance(block, ImageBlock | DocumentBlock) or _key(block) not in wanted:
            return block
        found = self._found[_key(block)]
        if isinstance(found, FetchFailed):
            return TextBlock(text_raw(f"[{_kind(block)}: {block.source.url}]"))
        return _with_source(block, found)


def _linked(messages: Sequence[Message]) -> Iterator[_Linked]:
    for message in messages:
        if isinstance(message.content, list):
            yield from _linked_in(message.content)


def _linked_in(content: list[Block]) -> Iterator[_Linked]:
    for block in content:
        if isinstance(block, ImageBlock | DocumentBlock):
            if block.source.type == "url":
                yield block
        elif isinstance(block, ToolResultBlock) and _may_link(block.content):
            yield from _linked_in(blocks_of(block.content))


def _may_link(content: Raw) -> bool:
    view = memoryview(content)
    return bool(view.nbytes) and view[0] == _LIST and _SOURCE_OF_LINK in bytes(view)


def _is_fetched(block: _Linked, target: Target, limits: Limits) -> bool:
    """Whether a link must be fetched here, and the model would see what comes."""
    if isinstance(block, ImageBlock) and not (limits.vision and getattr(target.dialect, "takes_pictures", True)):
        return False
    return not takes_link(target.wire, target.dialect, block)


def _with_source(block: _Linked, page: Page) -> Block:
    if page.text is not None:
        source = Source("text", media_type="text/plain", data=page.text)
    else:
        source = Source("base64", media_type=page.media_type, data=page.base64)
    if isinstance(block, ImageBlock):
        return ImageBlock(source)
    return DocumentBlock(source, block.title or page.title or None, block.context)


def _note_on(block: _Linked, found: Page | FetchFailed) -> Note:
    field = f"messages.{_kind(block)}"
    if isinstance(found, Page):
        return Note("emulated", field, "the backend takes no link; it was fetched here")
    why = found.error_code  # the text has an address, which is content
    return Note("dropped", field, f"the backend takes no link and it was not fetched: {why}; a text names it")


def _kind(block: _Linked) -> str:
    return "image" if isinstance(block, ImageBlock) else "document"


def _key(block: _Linked) -> _Key:
    return _kind(block), block.source.url
