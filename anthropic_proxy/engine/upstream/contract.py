"""Interfaces of the web fetch and the web search that the proxy runs for a model."""

from base64 import b64encode
from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.engine.wires.bound_requests import ClientOrigin, ServerName

TEXT_MEDIA_TYPES = frozenset(
    {"text/*", *(f"application/{kind}" for kind in ("xhtml+xml", "json", "xml", "rss+xml", "atom+xml"))}
)
"""Media types of which a fetch returns text. `text/*`: all text types."""
PDF_MEDIA_TYPE = "application/pdf"
DEFAULT_MEDIA_TYPES = TEXT_MEDIA_TYPES | {PDF_MEDIA_TYPE}
"""Text and PDF."""
MAX_URL_CHARACTERS = 250
"""Maximum number of characters of a URL of the web fetch tool. A longer URL is rejected with `url_too_long`
(Anthropic's page on the tool)."""


class FetchedPage(Struct, frozen=True, kw_only=True):
    """A web page that was fetched for a model: its text, or the bytes of a PDF or an image."""

    url: str
    """URL of the fetched page, after redirects."""
    media_type: str
    """Media type of the page in lower case, without parameters: `text/html`, `application/pdf`, `image/png`."""
    title: str = ""
    """Title of an HTML page. "": no title."""
    text: str | None = None
    """Content of the page as text; HTML is converted to Markdown. None: binary content, in `body`."""
    body: bytes = b""
    """Content of a PDF or an image as bytes. b"": the content is text, in `text`."""

    @property
    def size(self) -> int:
        return len(self.body) or len(self.text or "")

    @property
    def body_base64(self) -> str:
        return b64encode(self.body).decode()


class SearchResult(Struct, frozen=True, kw_only=True):
    url: str
    title: str
    """Title of the page as plain text. "": unknown."""
    snippet: str = ""
    """Excerpt of the page as plain text, from the search service. "": none."""
    page_age: str | None = None
    """Publication date of the page as text, from the search service: `2026-11-20`. None: unknown."""


class WebFetch(Protocol):
    """Interface of a function that fetches one URL for a model. It rejects URLs of private addresses."""

    async def __call__(
        self,
        origin: ClientOrigin,
        url: str,
        *,
        media_types: Collection[str] = DEFAULT_MEDIA_TYPES,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        max_url_length: int = MAX_URL_CHARACTERS,
    ) -> FetchedPage:
        """Return the content of a URL. Raises `WebFetchFailed`.

        `media_types`: accepted types. `allowed_domains`, `blocked_domains`: as in the web tools of the Messages API,
        applied to each redirect too; empty: all domains are allowed. `max_url_length`: maximum characters of `url`.
        """


class WebSearch(Protocol):
    """Interface of a search service."""

    @property
    def service(self) -> ServerName:
        """Name of the service, by which rules allow it."""
        ...

    async def search(
        self,
        origin: ClientOrigin,
        query: str,
        *,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        limit: int = 10,
    ) -> Sequence[SearchResult]:
        """The best results first. Raises `WebSearchFailed`. Empty domains: all domains are allowed."""
