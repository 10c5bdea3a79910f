"""Types of the web fetch and the web search of the proxy.

`upstream/web_fetch` and `upstream/web_search.py` implement it. The tool loop turns their errors (`WebFetchFailed`,
`WebSearchFailed`) into error blocks of the Messages API.
"""

from base64 import b64encode
from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

IMAGE_MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""Media types of image blocks (Messages API)."""
TEXT_MEDIA_TYPES = frozenset(
    {
        "text/*",
        "application/xhtml+xml",
        "application/json",
        "application/xml",
        "application/rss+xml",
        "application/atom+xml",
    }
)
"""Media types returned as text. `text/*`: all text types."""
PDF = "application/pdf"
DEFAULT_MEDIA_TYPES = TEXT_MEDIA_TYPES | {PDF}
"""Media types of pages and documents that a model can read."""
MAX_URL_CHARACTERS = 250
"""Maximum characters of a URL in the web fetch tool (Anthropic's page on the tool, error `url_too_long`)."""


class FetchedPage(Struct, frozen=True, kw_only=True):
    """The content of a URL."""

    url: str
    """Final URL, after redirects."""
    media_type: str
    """In lower case, without parameters: `text/html`, `application/pdf`, `image/png`."""
    title: str = ""
    """Title of an HTML page. "": none."""
    text: str | None = None
    """Text unchanged, HTML as Markdown. None: binary content, in `body`."""
    body: bytes = b""
    """Binary content: a PDF or an image."""

    @property
    def body_base64(self) -> str:
        """`body` in Base64, for a `base64` source."""
        return b64encode(self.body).decode()


class SearchResult(Struct, frozen=True, kw_only=True):
    """One result of a search."""

    url: str
    title: str
    snippet: str = ""
    """Excerpt from the search service."""
    page_age: str | None = None
    """Date of publication, in the format of the service."""


class WebFetch(Protocol):
    """Fetches one URL for a model. Private addresses are blocked."""

    async def __call__(
        self,
        url: str,
        *,
        media_types: Collection[str] = DEFAULT_MEDIA_TYPES,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        max_url_length: int = MAX_URL_CHARACTERS,
    ) -> FetchedPage:
        """Return the page. Domains are as in the tools of the API and apply to redirects too. Empty: all domains.

        Raises `WebFetchFailed`.
        """
        ...


class WebSearch(Protocol):
    """Queries the configured search service."""

    async def __call__(
        self, query: str, allowed_domains: Sequence[str] = (), blocked_domains: Sequence[str] = (), limit: int = 10
    ) -> Sequence[SearchResult]:
        """Return at most `limit` results, the best first. Raises `WebSearchFailed`."""
        ...
