"""`MediaInliner`: downloads images and documents that a client request links to, for providers that accept no URLs.

`MediaInliner.fetch` downloads each URL once, and `inline_urls` puts the files into the request. If a download fails, a
text with the URL is sent instead. The `MAX_…` constants limit the downloads of one request.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container
from contextlib import suppress

from msgspec import structs

from anthropic_proxy.engine.exchange.inspection import InspectAdded
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.media import MediaBlock, list_media, replace_media
from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    Source,
    TextBlock,
    json_string,
    name_url,
)
from anthropic_proxy.engine.messages.models.structs import IMAGE_TYPES
from anthropic_proxy.engine.messages.preparation import TargetLimits
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.upstream.contract import DEFAULT_MEDIA_TYPES, TEXT_MEDIA_TYPES, FetchedPage, WebFetch
from anthropic_proxy.engine.wires.bound_requests import ClientOrigin
from anthropic_proxy.errors import ProxyBusy, WebFetchFailed, WorkerBusy

MAX_URLS_PER_REQUEST = 20
"""Maximum number of URLs that the proxy fetches for one client request: the newest. Older URLs become text."""
MAX_TOTAL_BYTES = 32 * 1024 * 1024
"""Maximum size of all files fetched for one client request. It equals the maximum of a request body. A file counts as
often as it stands there. Older URLs become text."""
MAX_SECONDS = 10.0
"""Maximum number of seconds for all fetches of one request to a provider. URLs that were not fetched become text."""
MAX_CONCURRENT_FETCHES = 4
"""Maximum number of URLs that are fetched at the same time for one client request."""
MAX_URL_LENGTH = 8 * 1024
"""Maximum characters of a URL. A longer URL is not fetched, and its block becomes text. Signed URLs are long."""
SOURCE_OF_LINK = b'"url"'
SAMPLE_LINK = ImageBlock(Source("url", url="https://files.example/image.png"))
"""A block that tells if a relay accepts URLs: it accepts all or none."""
MediaKey = tuple[str, str]
"""Key of a fetched file: the kind of its block (`image` or `document`) and its URL."""


class MediaInliner:
    """Downloader of the images and documents of one client request. All targets and retries share the files."""

    def __init__(self, fetch: WebFetch, origin: ClientOrigin, count: Callable[[int], Awaitable[None]]) -> None:
        """`count`: takes memory for so many bytes of files. Raises `ProxyBusy`."""
        self._fetch = fetch
        self._count = count
        self._origin = structs.replace(origin, purpose="media")
        self._found: dict[MediaKey, FetchedPage | WebFetchFailed] = {}
        self._inspected = set[MediaKey]()
        self.fetched_bytes = 0
        """Size of all fetched files. With many, the request is edited and encoded in a thread."""
        self.notes: list[FidelityNote] = []
        """Fidelity notes about the URLs of the latest request."""

    def inline_urls(self, request: MessagesRequest, fetched: Collection[MediaKey]) -> MessagesRequest:
        """Return the request with the results of `fetch` in place of the URLs."""
        if not fetched:
            return request
        return replace_media(request, SOURCE_OF_LINK, lambda block: (self._with_bytes(block, fetched),))

    def encode_files(self, fetched: Collection[MediaKey]) -> dict[MediaKey, Source | None]:
        """Return the results of `fetch` for a relay (`RelayCall.files`)."""
        return {key: _source_of(self._found[key]) for key in fetched}

    async def fetch(
        self, request: MessagesRequest, target: Target, limits: TargetLimits, *, reads_pdf: bool, reads_images: bool
    ) -> Collection[MediaKey]:
        """Download what the provider does not accept as a URL, and return the keys of these files.

        `reads_pdf`, `reads_images`: what the proxy reads in place of a model that does not accept it.
        """
        describes = reads_images and not limits.accepts_images
        linked = [
            block
            for _, block in list_media(request.messages, SOURCE_OF_LINK)
            if block.source.type == "url"
            and (limits.accepts_images or describes or not isinstance(block, ImageBlock))
            and (
                (reads_pdf if isinstance(block, DocumentBlock) else describes)
                or not target.wire.accepts_media_url(target.dialect, block)
            )
        ]
        # the newest first: the same request gets the same files, which keeps the provider's cache
        newest = dict[MediaKey, MediaBlock]()
        for block in reversed(linked):
            newest.setdefault(_key(block), block)
        places = Counter(map(_key, linked))
        blocks = [block for key, block in newest.items() if key not in self._found]
        room = max(MAX_URLS_PER_REQUEST - len(self._found), 0)
        too_many = WebFetchFailed(f"more than {MAX_URLS_PER_REQUEST} links in a request", "max_uses_exceeded")
        too_late = WebFetchFailed(f"the links of a request need more than {MAX_SECONDS:g} s", "url_not_accessible")
        text = f"the links of a request have more than {MAX_TOTAL_BYTES >> 20} MiB"
        too_large = WebFetchFailed(text, "content_too_large")
        for place, block in enumerate(blocks):
            self._found[_key(block)] = too_late if place < room else too_many
        sizes = [0] * min(room, len(blocks))
        slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        busy: list[ProxyBusy | WorkerBusy] = []

        async def fetch(place: int) -> None:
            block = blocks[place]
            kinds = DEFAULT_MEDIA_TYPES if limits.accepts_pdf or reads_pdf else TEXT_MEDIA_TYPES
            if isinstance(block, ImageBlock):
                kinds = frozenset(IMAGE_TYPES)
            found: FetchedPage | WebFetchFailed
            async with slots:
                try:
                    found = await self._fetch(
                        self._origin, block.source.url, media_types=kinds, max_url_length=MAX_URL_LENGTH
                    )
                    sizes[place] = found.size * places[_key(block)]
                    await self._count(self.fetched_bytes + sum(sizes))
                except WebFetchFailed as error:
                    error.release_tracebacks()
                    found = error
                except (ProxyBusy, WorkerBusy) as error:
                    busy.append(error)
                    return
            self._found[_key(block)] = found
            if isinstance(found, FetchedPage):
                total = self.fetched_bytes
                for each, size in zip(blocks, sizes, strict=False):  # also of files that arrived before
                    total += size
                    if size and total > MAX_TOTAL_BYTES:
                        self._found[_key(each)] = too_large

        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_SECONDS):
                await asyncio.gather(*map(fetch, range(len(sizes))))
        if busy:
            raise busy[0]
        self.fetched_bytes += sum(sizes)
        self.notes = []
        for key, block in reversed(newest.items()):
            field, found = f"messages.{_kind(block)}", self._found[key]
            if isinstance(found, FetchedPage):
                self.notes.append(FidelityNote("emulated", field, "the backend accepts no URL; the proxy fetched it"))
            else:  # the code, because the text contains a URL, which is user content
                reason = f"the backend accepts no URL, and it was not fetched: {found.error_code}; a text replaces it"
                self.notes.append(FidelityNote("dropped", field, reason))
        return newest.keys()

    async def inspect(self, inspect: InspectAdded) -> None:
        """Have the texts and titles of new files inspected. Raises like `inspect`."""
        pages = {
            key: found
            for key, found in self._found.items()
            if isinstance(found, FetchedPage) and key not in self._inspected
        }
        found = [text or "" for page in pages.values() for text in (page.text, page.title)]
        texts = iter(await inspect(found, "user"))
        for key, page in pages.items():
            text, title = next(texts), next(texts)
            self._found[key] = structs.replace(page, text=page.text and text, title=page.title and title)
        self._inspected |= pages.keys()

    def _with_bytes(self, block: MediaBlock, fetched: Container[MediaKey]) -> Block:
        if block.source.type != "url" or _key(block) not in fetched:
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


def _kind(block: MediaBlock) -> str:
    return "image" if isinstance(block, ImageBlock) else "document"


def _key(block: MediaBlock) -> MediaKey:
    return _kind(block), block.source.url
