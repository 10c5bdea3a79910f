"""`MediaInliner`: downloads images and documents that a client request links to, for providers that accept no URLs.

`MediaInliner.inline_urls` downloads each URL once and puts the file into the request. If a download fails, a text with
the URL is sent instead. The `MAX_…` constants limit the downloads of one request.
"""

import asyncio
from collections.abc import Container, Iterator, Mapping

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    Source,
    TextBlock,
    ToolResultBlock,
    decode_nested_content,
    json_string,
    name_url,
)
from anthropic_proxy.engine.messages.preparation import TargetLimits
from anthropic_proxy.engine.routing.router import Target
from anthropic_proxy.engine.upstream.contract import (
    DEFAULT_MEDIA_TYPES,
    IMAGE_MEDIA_TYPES,
    TEXT_MEDIA_TYPES,
    FetchedPage,
    WebFetch,
)
from anthropic_proxy.errors import WebFetchFailed

MAX_URLS_PER_REQUEST = 20
"""Maximum number of URLs that the proxy fetches for one client request. Further URLs become text."""
MAX_TOTAL_BYTES = 32 * 1024 * 1024
"""Maximum size of all files fetched for one client request. It equals the maximum of a request body. Further URLs
become text."""
MAX_CONCURRENT_FETCHES = 4
"""Maximum number of URLs that are fetched at the same time for one client request."""
MAX_URL_LENGTH = 8 * 1024
"""Maximum characters of a URL. A longer URL is not fetched, and its block becomes text. Signed URLs are long."""
SOURCE_OF_LINK = b'"url"'
SAMPLE_LINK = ImageBlock(Source("url", url="https://files.example/image.png"))
"""A block that tells if a relay accepts URLs: it accepts all or none."""
_LIST = b"["[0]

_Linked = ImageBlock | DocumentBlock
_Key = tuple[str, str]
"""Key of a fetched file: the kind of its block (`image` or `document`) and its URL."""


class MediaInliner:
    """Downloader of the images and documents of one client request. All targets and retries share the files."""

    def __init__(self, fetch: WebFetch) -> None:
        self._fetch = fetch
        self._found: dict[_Key, FetchedPage | WebFetchFailed] = {}
        self._bytes = 0
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        self.notes: list[FidelityNote] = []
        """Fidelity notes about the URLs of the latest request."""

    async def inline_urls(self, request: MessagesRequest, target: Target, limits: TargetLimits) -> MessagesRequest:
        """Return the request with downloaded files in place of the URLs that the provider does not accept.

        If a download fails, the model receives a text with the URL instead of the file.
        """
        to_fetch = await self._fetch_all(request, target, limits)
        if not to_fetch:
            return request
        messages = []
        for message in request.messages:
            if isinstance(message.content, list):
                blocks = [self._block_with_bytes(block, to_fetch) for block in message.content]
                messages.append(Message(message.role, blocks))
            else:
                messages.append(message)
        return structs.replace(request, messages=messages)

    async def fetch_files(
        self, request: MessagesRequest, target: Target, limits: TargetLimits
    ) -> dict[tuple[str, str], Source | None]:
        """Return the files in place of the URLs that the provider does not accept (`RelayedRequest.files`)."""
        to_fetch = await self._fetch_all(request, target, limits)
        return {key: _source_of(self._found[key]) for key in to_fetch}

    async def _fetch_all(
        self, request: MessagesRequest, target: Target, limits: TargetLimits
    ) -> Mapping[_Key, _Linked]:
        contents = [message.content for message in request.messages if isinstance(message.content, list)]
        to_fetch = {
            _key(block): block
            for content in contents
            for block in _linked_in(content)
            if (limits.accepts_images or not isinstance(block, ImageBlock))
            and not target.wire.accepts_media_url(target.dialect, block)
        }
        await asyncio.gather(*(self._find(block, limits) for key, block in to_fetch.items() if key not in self._found))
        self.notes = [_note_on(block, self._found[key]) for key, block in to_fetch.items()]
        return to_fetch

    async def _find(self, block: _Linked, limits: TargetLimits) -> None:
        key = _key(block)
        self._found[key] = WebFetchFailed(f"more than {MAX_URLS_PER_REQUEST} links in a request", "max_uses_exceeded")
        if len(self._found) > MAX_URLS_PER_REQUEST:
            return
        async with self._slots:
            self._found[key] = await self._fetch_within_budget(block, limits)

    async def _fetch_within_budget(self, block: _Linked, limits: TargetLimits) -> FetchedPage | WebFetchFailed:
        kinds = DEFAULT_MEDIA_TYPES if limits.accepts_pdf else TEXT_MEDIA_TYPES
        if isinstance(block, ImageBlock):
            kinds = IMAGE_MEDIA_TYPES
        try:
            fetched = await self._fetch(block.source.url, media_types=kinds, max_url_length=MAX_URL_LENGTH)
        except WebFetchFailed as error:
            error.release_tracebacks()
            return error
        self._bytes += len(fetched.body)
        if self._bytes > MAX_TOTAL_BYTES:
            return WebFetchFailed(
                f"the links of a request have more than {MAX_TOTAL_BYTES >> 20} MiB", "content_too_large"
            )
        return fetched

    def _block_with_bytes(self, block: Block, to_fetch: Container[_Key]) -> Block:
        if isinstance(block, ToolResultBlock) and _may_link(block.content):
            blocks = decode_nested_content(block.content)
            raws = msgspec.json.decode(block.content, type=list[Raw])  # unchanged blocks keep their bytes
            replaced = (self._block_with_bytes(inner, to_fetch) for inner in blocks)
            items = [raw if new is old else new for raw, old, new in zip(raws, blocks, replaced, strict=True)]
            return ToolResultBlock(block.tool_use_id, Raw(msgspec.json.encode(items)), block.is_error)
        if not isinstance(block, ImageBlock | DocumentBlock) or _key(block) not in to_fetch:
            return block
        found = self._found[_key(block)]
        source = _source_of(found)
        if source is None or isinstance(found, WebFetchFailed):
            return TextBlock(json_string(f"[{_kind(block)}: {name_url(block.source.url)}]"))
        if isinstance(block, ImageBlock):
            return ImageBlock(source)
        return DocumentBlock(source, block.title or found.title or None, block.context)


def _source_of(found: FetchedPage | WebFetchFailed) -> Source | None:
    if isinstance(found, WebFetchFailed):
        return None
    if found.text is not None:
        return Source("text", media_type="text/plain", data=found.text)
    return Source("base64", media_type=found.media_type, data=found.body_base64)


def _linked_in(content: list[Block]) -> Iterator[_Linked]:
    for block in content:
        if isinstance(block, ImageBlock | DocumentBlock):
            if block.source.type == "url":
                yield block
        elif isinstance(block, ToolResultBlock) and _may_link(block.content):
            yield from _linked_in(decode_nested_content(block.content))


def _may_link(content: Raw) -> bool:
    view = memoryview(content)
    return bool(view.nbytes) and view[0] == _LIST and SOURCE_OF_LINK in bytes(view)


def _note_on(block: _Linked, found: FetchedPage | WebFetchFailed) -> FidelityNote:
    field = f"messages.{_kind(block)}"
    if isinstance(found, FetchedPage):
        return FidelityNote("emulated", field, "the backend accepts no URL; the proxy fetched it")
    reason = found.error_code  # the text contains a URL, which is user content
    return FidelityNote(
        "dropped", field, f"the backend accepts no URL, and it was not fetched: {reason}; a text replaces it"
    )


def _kind(block: _Linked) -> str:
    return "image" if isinstance(block, ImageBlock) else "document"


def _key(block: _Linked) -> _Key:
    return _kind(block), block.source.url
