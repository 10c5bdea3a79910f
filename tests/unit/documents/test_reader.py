"""PDF documents: what is read of them, what is refused, and what hostile ones cost."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.documents.pdf_program import MAX_PICTURE_BYTES
from anthropic_proxy.engine.documents.reader import (
    MAX_PICTURES,
    PDF_PROGRAM,
    REFUSAL_SECONDS,
    DocumentReader,
    PagePictures,
)
from anthropic_proxy.engine.messages.documents import MAX_PAGES, PdfContent, PdfPage
from tests.support.pdf import (
    PICTURE,
    QUICK,
    join_objects,
    write_bomb,
    write_encrypted_pdf,
    write_endless_program,
    write_pdf,
    write_stream,
    write_text,
)
from tests.support.platform_marks import needs_process_limits
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import WAIT_SECONDS, wait_for_async

FILE = base64.b64encode(write_pdf("text")).decode()


async def read(file: bytes, pictures: PagePictures = "none") -> PdfContent:
    return await DocumentReader().read(BackgroundWork().of("key local"), base64.b64encode(file).decode(), pictures)


async def test_the_text_of_each_page_is_read() -> None:
    found = await read(write_pdf("Deed of sale\nof a (large) house", "", "The end"))
    assert found == PdfContent([PdfPage("Deed of sale\nof a (large) house"), PdfPage(), PdfPage("The end")])


@pytest.mark.parametrize(("pictures", "drawn"), [("none", []), ("scanned", [1]), ("all", [0, 1])])
async def test_pages_become_pictures(pictures: PagePictures, drawn: Sequence[int]) -> None:
    found = await read(write_pdf("text", PICTURE), pictures)
    assert [place for place, page in enumerate(found.pages) if page.picture] == drawn
    for page in found.pages:
        if page.picture:
            file = base64.b64decode(page.picture)
            assert file.startswith(b"\x89PNG\r\n\x1a\n")
            assert (int.from_bytes(file[16:20]), int.from_bytes(file[20:24])) == (1_082, 1_400)


async def test_pages_without_text_get_the_pictures_first() -> None:
    pages: list[str | bytes] = ["text"] * MAX_PICTURES
    found = await read(write_pdf(*pages, PICTURE), "all")
    assert [bool(page.picture) for page in found.pages] == [*[True] * (MAX_PICTURES - 1), False, True]


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (write_encrypted_pdf(), "password"),
        (b"", "invalid"),
        (b"no document", "invalid"),
        (b"%PDF-1.7\n" + b"\0" * 10_000, "invalid"),
        (write_pdf("text")[:200], "invalid"),
        (write_pdf(), "invalid"),  # no page
    ],
)
async def test_a_file_that_cannot_be_read_has_a_reason(file: bytes, error: str) -> None:
    assert await read(file) == PdfContent(error=error)


async def test_data_that_are_no_base64_are_no_document() -> None:
    assert await DocumentReader().read(BackgroundWork().of("key local"), "=%ü", "none") == PdfContent(error="invalid")


async def test_a_damaged_table_of_objects_is_repaired() -> None:
    file = write_pdf("Hello")
    assert await read(file.replace(b"xref\n0", b"xxxx\n0")) == PdfContent([PdfPage("Hello")])


async def test_the_largest_document_is_read_whole() -> None:
    words = "All work and no play makes Jack a dull boy.\n" * 40
    found = await read(write_pdf(*(f"Page {number}\n{words}" for number in range(MAX_PAGES))))
    assert len(found.pages) == MAX_PAGES
    assert found.pages[-1].text.startswith(f"Page {MAX_PAGES - 1}\n")


async def test_of_a_longer_document_only_the_number_of_pages_is_read() -> None:
    assert await read(write_pdf(*["text"] * 1_000)) == PdfContent(page_count=1_000)


# Hostile files


def write_deep_tree(depth: int) -> bytes:
    """Return a document whose page is below a chain of `depth` nodes."""
    nodes = [b"<< /Type /Pages /Count 1 /Kids [%d 0 R] >>" % (number + 3) for number in range(depth)]
    leaf = b"<< /Type /Page /MediaBox [0 0 9 9] >>"
    return join_objects([b"<< /Type /Catalog /Pages 2 0 R >>", *nodes, leaf])


def write_circle() -> bytes:
    return join_objects([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 1 /Kids [2 0 R] >>"])


def write_page_with(stream: bytes) -> bytes:
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R >>"
    pages = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    return join_objects([b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, stream])


@needs_process_limits
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda: write_deep_tree(100_000), id="deep tree"),
        pytest.param(write_circle, id="circle"),
        pytest.param(
            lambda: write_page_with(write_bomb(3_000_000_000)), id="decompression bomb", marks=pytest.mark.merge
        ),
        pytest.param(lambda: write_pdf(write_text("x" * 5_000_000)), id="endless page"),
        pytest.param(lambda: write_pdf(PICTURE, box="0 0 1e9 1e9"), id="huge page"),
        pytest.param(lambda: write_pdf(PICTURE, box="0 0 1e9 1"), id="wide page"),
        pytest.param(lambda: write_pdf(PICTURE, box="0 0 0 0"), id="empty page"),
        pytest.param(lambda: write_page_with(write_stream(b"q " * 3_000_000 + PICTURE)), id="deep stack"),
        pytest.param(
            lambda: write_page_with(write_stream(b"0 0 600 700 re f " * 500_000)),
            id="many paths",
            marks=pytest.mark.merge,
        ),
    ],
)
async def test_a_hostile_file_ends_within_the_limits(write: Callable[[], bytes]) -> None:
    file = write()
    quick = structs.replace(PDF_PROGRAM, cpu_seconds=4)
    data = base64.b64encode(file).decode()
    found = await DocumentReader(program=quick).read(BackgroundWork().of("key local"), data, "all")
    assert found.error in ("", "invalid", "limits")
    assert found.measure() < quick.max_output_bytes
    assert all(len(page.picture) <= MAX_PICTURE_BYTES * 4 / 3 + 4 for page in found.pages)


# What is kept


async def test_a_document_is_read_once_for_each_owner() -> None:
    documents, background = DocumentReader(), BackgroundWork()
    data = base64.b64encode(write_pdf("text")).decode()
    both = await asyncio.gather(*(documents.read(background.of("key ann"), data, "none") for _ in range(2)))
    assert [content.pages for content in both] == [[PdfPage("text")]] * 2
    assert documents.read_count == 1
    await documents.read(background.of("key bob"), data, "none")
    await documents.read(background.of("key ann"), data, "all")
    assert documents.read_count == 3


async def test_what_was_used_least_recently_is_dropped() -> None:
    documents, background = DocumentReader(max_kept_bytes=1_400), BackgroundWork()
    files = [base64.b64encode(write_pdf(text * 10)).decode() for text in "abc"]
    for place in (0, 1, 0, 2, 0, 1):
        await documents.read(background.of("key local"), files[place], "none")
    assert documents.read_count == 4


# Turns


def test_a_document_beyond_the_limits_is_read_again_after_ten_minutes(tmp_path: Path) -> None:
    documents, background = DocumentReader(program=write_endless_program(tmp_path)), BackgroundWork()

    @in_virtual_time
    async def run() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(3):  # in each turn of a conversation
            assert await documents.read(background.of("key ann"), FILE, "none") == PdfContent(error="limits")
        assert (documents.read_count, loop.time() - began) == (1, PDF_PROGRAM.timeout_seconds)
        assert await documents.read(background.of("key bob"), FILE, "none") == PdfContent(error="limits")
        assert documents.read_count == 2, "what one client caused is kept for nobody else"
        await asyncio.sleep(REFUSAL_SECONDS)
        await documents.read(background.of("key ann"), FILE, "none")
        assert documents.read_count == 3

    run()


async def test_slow_documents_of_one_leave_a_process_for_others(tmp_path: Path) -> None:
    documents, background = DocumentReader(program=write_endless_program(tmp_path)), BackgroundWork()
    files = [base64.b64encode(b"%PDF-" + bytes([number])).decode() for number in range(5)]
    slow = [asyncio.ensure_future(documents.read(background.of("key ann"), file, "none")) for file in files]
    await wait_for_async(lambda: documents.read_count, lambda count: count == 1)
    read = await asyncio.wait_for(documents.read(background.of("key bob"), QUICK, "none"), WAIT_SECONDS)
    assert read == PdfContent([PdfPage("quick")])
    assert documents.read_count == 2
    for one in slow:
        one.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
