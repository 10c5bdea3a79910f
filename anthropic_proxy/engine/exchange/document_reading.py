"""`read_documents`: the PDFs of a request as text, for a model that accepts none, or is to cite them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from anthropic_proxy.engine.background import PayerWork
from anthropic_proxy.engine.documents.reader import DocumentReader, PagePictures, ReadingTime
from anthropic_proxy.engine.exchange.inspection import InspectAdded
from anthropic_proxy.engine.messages.documents import (
    BEYOND_LIMITS,
    NOT_INSTALLED,
    PAGE_TYPE,
    PDF_MARK,
    DocumentRoom,
    PdfContent,
    as_text_document,
    digest_content,
    is_pdf,
    require_readable,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.media import MediaBlock, list_media, replace_media
from anthropic_proxy.engine.messages.models import Block, DocumentBlock, MessagesRequest, Source
from anthropic_proxy.engine.messages.preparation import TargetLimits
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.errors import build_extra_install_command

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.image_describing import ImageDescriber

_MAX_SIZE_ON_LOOP = 256 * 1024
"""Maximum size of what was read and is put into the request on the event loop: up to 20 ms, if it is full of marks."""


async def read_documents(
    reader: DocumentReader,
    background: PayerWork,
    request: MessagesRequest,
    target: Target,
    limits: TargetLimits,
    *,
    is_large: bool,
    describer: "ImageDescriber | None",
    inspect: InspectAdded | None,
    count_read: Callable[[int], Awaitable[None]],
) -> tuple[MessagesRequest, Sequence[FidelityNote], int]:
    """Return the request with the text of each PDF in its place, notes on it, and the size of what was read. If the
    model accepts PDFs, only those are replaced that it is to cite, and of which nothing is lost.

    A model that sees gets pictures of pages too. For another one, `describer` describes the pages without text; None:
    nothing does. `inspect`: reads the texts. None: there are no inspectors. `count_read`: waits for memory for what is
    read. Raises `InvalidRequest` for a document that Anthropic's API does not accept either.
    """
    pictures: PagePictures = "all" if limits.accepts_images else "none"
    found = await background.run_in_thread_if_large(is_large, _list_pdfs, request, limits)
    if not found:
        return request, (), 0
    describes = not limits.accepts_images and describer is not None and await describer.may_describe()
    if describes:
        pictures = "scanned"
    contents, counts = dict[str, PdfContent](), Counter[str]()
    is_installed = reader.is_installed
    time, room = ReadingTime(), DocumentRoom()
    # a server that has refused a document must not end the conversation
    may_refuse = not (limits.accepts_pdf or target.capabilities.rejects_documents)
    for path, data in found:
        content = contents.get(data)
        has_room = True
        if not is_installed:
            content = NOT_INSTALLED
        elif content is None:
            chosen: PagePictures = pictures if room.pictures_length > 0 else "none"
            read = await reader.read(background, data, chosen, time)
            await count_read(room.size + read.measure())
            content = room.fit(read)
        else:
            has_room = room.repeat(content)
        if may_refuse:
            require_readable(path, content, room)
        contents[data] = content
        counts[data] += has_room
        await count_read(room.size)
    if limits.accepts_pdf:  # it reads the others itself
        contents = {data: content for data, content in contents.items() if content.is_whole}
    if inspect is not None:
        contents = await _inspect_pages(inspect, contents)
    notes = list[FidelityNote]()
    if not is_installed and contents:
        command = build_extra_install_command("documents")
        reason = f"replaced by a text: pypdfium2, which reads PDFs, is not installed. Install it with: {command}"
        notes.append(FidelityNote("dropped", "messages.document", reason))
    if describes and describer is not None:
        contents = await _describe_pages(describer, contents, notes)
    pages = set[bytes]()
    replace = partial(_replace, contents, counts, notes, pages, keeps_others=limits.accepts_pdf)
    is_large = is_large or room.size > _MAX_SIZE_ON_LOOP
    replaced = await background.run_in_thread_if_large(is_large, replace_media, request, PDF_MARK, replace)
    replaced.pages = pages
    return replaced, notes, room.size


async def _inspect_pages(inspect: InspectAdded, contents: Mapping[str, PdfContent]) -> dict[str, PdfContent]:
    texts = iter(await inspect([page.text for content in contents.values() for page in content.pages], "user"))
    return {
        data: structs.replace(content, pages=[structs.replace(page, text=next(texts)) for page in content.pages])
        for data, content in contents.items()
    }


async def _describe_pages(
    describer: "ImageDescriber", contents: Mapping[str, PdfContent], notes: list[FidelityNote]
) -> dict[str, PdfContent]:
    """Return the documents with descriptions in place of the pictures of pages."""
    pictures = [page.picture for content in contents.values() for page in content.pages if page.picture]
    sources = [Source("base64", media_type=PAGE_TYPE, data=picture) for picture in pictures]
    texts, found = await describer.describe(sources, "messages.document")
    notes += found
    return {
        data: structs.replace(
            content,
            pages=[
                structs.replace(page, picture="", description=texts[page.picture]) if page.picture else page
                for page in content.pages
            ],
        )
        for data, content in contents.items()
    }


def _list_pdfs(request: MessagesRequest, limits: TargetLimits) -> list[tuple[str, str]]:
    """Return path and data of each PDF that the model cannot read or cite."""
    return [
        (path, block.source.data)
        for path, block in list_media(request.messages, PDF_MARK)
        if isinstance(block, DocumentBlock) and is_pdf(block) and (block.requests_citations or not limits.accepts_pdf)
    ]


def _replace(
    contents: Mapping[str, PdfContent],
    counts: Counter[str],
    notes: list[FidelityNote],
    pages: set[bytes],
    block: MediaBlock,
    *,
    keeps_others: bool,
) -> Sequence[Block]:
    """`counts`: how often there is room for a document. `keeps_others`: the model reads the others itself."""
    if not isinstance(block, DocumentBlock) or not is_pdf(block) or block.source.data not in contents:
        return (block,)
    data = block.source.data
    has_room = counts[data] > 0
    if keeps_others and not has_room:
        return (block,)
    counts[data] -= 1
    read = as_text_document(block, contents[data] if has_room else BEYOND_LIMITS, notes)
    if isinstance(read, DocumentBlock) and read.requests_citations:
        pages.add(digest_content(read.source.content))
    return (read,)
