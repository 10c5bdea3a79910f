"""What the proxy fetches for a model itself: pages and searches, as the corridor sees them.

Types only. The street fills them (`upstream/pages`, `upstream/search.py`), `app.py` puts them into the house, and the
corridor turns their failures into the API's error blocks, whose codes they bear (`FetchFailed`, `SearchFailed`).
"""

from base64 import b64encode
from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""Media types that an image block may have (the API's own list)."""
TEXTS = frozenset(
    {
        "text/*",
        "application/xhtml+xml",
        "application/json",
        "application/xml",
        "application/rss+xml",
        "application/atom+xml",
    }
)
"""Media types that come as text; `text/*` means every one of that kind."""
PDF = "application/pdf"
READABLE = TEXTS | {PDF}
"""Media types that a model can read of a page, and that a document may have."""
LONGEST_URL = 250
"""Characters of an address that the web fetch tool takes (Anthropic's page on the tool, error `url_too_long`)."""


class Page(Struct, frozen=True, kw_only=True):
    """What an address gave."""

    url: str
    """Where it was found in the end: after redirections."""
    media_type: str
    """In lower case, without parameters: `text/html`, `application/pdf`, `image/png`."""
    title: str = ""
    """Of an HTML page; "": it has none."""
    text: str | None = None
    """A text as it came, an HTML page as Markdown; None: it is none, and `body` has it."""
    body: bytes = b""
    """What is no text: a PDF, a picture."""

    @property
    def base64(self) -> str:
        """The body as a `base64` source has it."""
        return b64encode(self.body).decode()


class FoundPage(Struct, frozen=True, kw_only=True):
    """One result of a search."""

    url: str
    title: str
    content: str = ""
    """What the page says about the query, as far as the search service shows it."""
    page_age: str | None = None
    """When it was published, in the service's own words."""


class Fetch(Protocol):
    """Fetches one page for a model, past the guard against private addresses."""

    async def __call__(
        self,
        url: str,
        *,
        media_types: Collection[str] = READABLE,
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        longest_url: int = LONGEST_URL,
    ) -> Page:
        """Return the page. Domains as the API's tools name them; empty: every one. They hold for redirections too.

        Raises `FetchFailed`.
        """
        ...


class Search(Protocol):
    """Asks the search service that the user has set."""

    async def __call__(
        self, query: str, allowed_domains: Sequence[str] = (), blocked_domains: Sequence[str] = (), limit: int = 10
    ) -> Sequence[FoundPage]:
        """Return at most `limit` results, the best first; none is no failure. Raises `SearchFailed`."""
        ...
