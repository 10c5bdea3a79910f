"""PDF documents as text, for models that accept no PDF: the text of each page, and pictures of pages."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.foreign_text import enclose, hide_marks
from anthropic_proxy.engine.messages.media import MediaBlock
from anthropic_proxy.engine.messages.models import Block, DocumentBlock, ImageBlock, Source, TextBlock, json_string
from anthropic_proxy.errors import InvalidRequest

MAX_PAGES = 600
"""Maximum pages of the PDFs of one request. Source: "Maximum pages per request" of
platform.claude.com/docs/en/build-with-claude/pdf-support (2026-11): 600, and 100 for models with a window of 200,000
tokens. Here the window of the model decides by itself."""
MAX_CHARACTERS = 4_000_000
"""Maximum characters of the PDFs of one request: more than a window of 1,000,000 tokens holds."""
MAX_PICTURES_LENGTH = 16 * 1024 * 1024
"""Maximum length of the pictures of all pages of a request, in base64. Servers limit the size of a request, and a small
file may have large pictures."""
PDF_TYPE = "application/pdf"
PAGE_TYPE = "image/png"
"""Media type of the picture of a page."""
PDF_MARK = PDF_TYPE.encode()
"""Text in the JSON of each block with a PDF."""

_AS_TEXT = FidelityNote("emulated", "messages.document", "the model reads no PDF: the proxy sends its text by page")
_TO_CITE = FidelityNote("emulated", "messages.document", "the model gets the text of a PDF by page, to cite it")
_WITH_PICTURES = FidelityNote("emulated", "messages.document", "the proxy sends pictures of pages of a PDF")
_LOST_PAGES = FidelityNote("dropped", "messages.document", "pages of a PDF that have no text are not sent")
_CUT = FidelityNote("dropped", "messages.document", "the text of a long PDF is cut")
_UNREAD = FidelityNote(
    "dropped", "messages.document", "replaced by a text: the PDF needs too much time or memory to be read"
)
_UNREADABLE = FidelityNote(
    "dropped", "messages.document", "replaced by a text: the PDF is damaged, has a password or too many pages"
)
_BYTES_PER_PAGE = 300
"""Size of a page in memory apart from its texts."""


class PdfPage(Struct):
    text: str = ""
    picture: str = ""
    """PNG in base64. "": none."""
    description: str = ""
    """The text in place of the picture, for a model that does not see. "": none."""


class PdfContent(Struct):
    """What was read of a PDF."""

    pages: list[PdfPage] = []
    page_count: int = 0
    """Number of pages of a document with more than `MAX_PAGES`, of which none is read. 0: another document."""
    is_cut: bool = False
    """True if the text has more characters than are sent."""
    error: str = ""
    """Why it has no pages: `password`, `invalid`, `limits` of time and memory, `not installed`. "": it has pages."""

    @property
    def lacks_pages(self) -> bool:
        """True if some pages have neither text nor picture nor description."""
        return not all(page.text or page.picture or page.description for page in self.pages)

    @property
    def is_whole(self) -> bool:
        return bool(self.pages) and not (self.is_cut or self.lacks_pages)

    def measure(self) -> int:
        """Return the size in memory."""
        return _BYTES_PER_PAGE + sum(2 * len(page.text) + len(page.picture) + _BYTES_PER_PAGE for page in self.pages)


NOT_INSTALLED = PdfContent(error="not installed")


def is_pdf(block: MediaBlock) -> bool:
    """Return True for a PDF whose bytes are in the request."""
    source = block.source
    return isinstance(block, DocumentBlock) and source.type == "base64" and source.media_type == PDF_TYPE


BEYOND_LIMITS = PdfContent(error="limits")


class DocumentRoom(Struct):
    """What the PDFs of a request may still have. Those that stand first have it, so that the next request of the
    conversation has the same beginning.
    """

    pages: int = MAX_PAGES
    """Negative: the request has more than `MAX_PAGES`."""
    characters: int = MAX_CHARACTERS
    pictures_length: int = MAX_PICTURES_LENGTH
    size: int = 0
    """Size in memory of what was read so far."""

    def fit(self, content: PdfContent) -> PdfContent:
        """Take room for a document, and return what has room of it."""
        self.pages -= len(content.pages) + content.page_count
        if self.pages < 0:
            return BEYOND_LIMITS
        pages = [*map(self._fit_page, content.pages)]
        is_cut = any(len(new.text) < len(old.text) for new, old in zip(pages, content.pages, strict=True))
        fitting = structs.replace(content, pages=pages, is_cut=content.is_cut or is_cut)
        self.size += fitting.measure()
        return fitting

    def repeat(self, content: PdfContent) -> bool:
        """Take room for a document that stands in the request once more. False: there is none for the whole."""
        self.pages -= len(content.pages) + content.page_count
        characters = sum(len(page.text) for page in content.pages)
        length = sum(len(page.picture) for page in content.pages)
        if self.pages < 0 or characters > self.characters or length > self.pictures_length:
            return False
        self.characters -= characters
        self.pictures_length -= length
        self.size += content.measure()
        return True

    def _fit_page(self, page: PdfPage) -> PdfPage:
        text = page.text[: self.characters]
        picture = page.picture if len(page.picture) <= self.pictures_length else ""
        self.characters -= len(text)
        self.pictures_length -= len(picture)
        is_whole = len(text) == len(page.text) and picture == page.picture
        return page if is_whole else structs.replace(page, text=text, picture=picture)


def require_readable(path: str, content: PdfContent, room: DocumentRoom) -> None:
    """Raise the error of Anthropic's API for a PDF that it does not accept either. `room`: what is left behind it.

    Claude Code recognizes the texts (observed in its program, 2.1.330).
    """
    if room.pages < 0:
        reason = f"A maximum of {MAX_PAGES} PDF pages may be provided."
    elif content.error == "password":
        reason = "The PDF specified is password protected."
    elif content.error == "invalid":
        reason = "The PDF specified was not valid."
    else:
        return
    raise InvalidRequest(f"{path}.pdf.source.base64.data: {reason}", code="pdf-refused")


def as_text_document(block: DocumentBlock, content: PdfContent, notes: list[FidelityNote]) -> Block:
    """Return a document with the pages as blocks, or a text if it was not read.

    If it is to be cited, each text is a page. `MessagesRequest.pages` says so to `citations.py`: a source of a client
    may have the same form.
    """
    if not content.pages:
        if content.error != NOT_INSTALLED.error:
            notes.append(_UNREAD if content.error == "limits" else _UNREADABLE)
        return describe_omitted(block)
    notes.append(_TO_CITE if block.requests_citations else _AS_TEXT)
    if any(page.picture for page in content.pages):
        notes.append(_WITH_PICTURES)
    if content.lacks_pages:
        notes.append(_LOST_PAGES)
    if content.is_cut:
        notes.append(_CUT)
    list_blocks = _list_citable_blocks if block.requests_citations else _list_blocks
    blocks = Raw(msgspec.json.encode([*list_blocks(content.pages)]))
    return structs.replace(block, source=Source("content", content=blocks))


def digest_content(content: Raw) -> bytes:
    return blake2b(content, digest_size=16).digest()


def describe_omitted(block: DocumentBlock) -> TextBlock:
    return TextBlock(json_string(f"[document omitted: {block.title or block.source.media_type}]"))


def _list_blocks(pages: Sequence[PdfPage]) -> Iterator[Block]:
    """Yield one text for all pages up to the next picture."""
    texts = list[str]()
    for number, page in enumerate(pages, 1):
        texts.append(write_page(_text_of(page), number, page.description))
        if page.picture:
            yield TextBlock(json_string("\n".join(texts)))
            yield _picture_of(page)
            texts.clear()
    if texts:
        yield TextBlock(json_string("\n".join(texts)))


def write_page(text: str, number: int, description: str) -> str:
    """`description`: what is behind the page, in marks of its own. "": nothing."""
    return "\n".join(filter(None, (enclose("page", text, f' number="{number}"'), description)))


def write_pages(pages: Sequence[PdfPage]) -> str:
    return "\n".join(write_page(_text_of(page), number, "") for number, page in enumerate(pages, 1))


def _list_citable_blocks(pages: Sequence[PdfPage]) -> Iterator[Block]:
    for page in pages:
        yield TextBlock(json_string(hide_marks(_text_of(page)) + page.description))  # see `split_description`
        if page.picture:
            yield _picture_of(page)


def _text_of(page: PdfPage) -> str:
    if page.text or not (page.picture or page.description):
        return page.text or "[no text]"
    return f"[no text; a {'picture' if page.picture else 'description'} of the page follows]"


def _picture_of(page: PdfPage) -> ImageBlock:
    return ImageBlock(Source("base64", media_type=PAGE_TYPE, data=page.picture))
