"""Pages and characters that are found in a PDF."""

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.models import Source
from anthropic_proxy.engine.messages.tokens import PdfSize, measure_pdf, measure_pdf_source

HEAD = b"%PDF-1.7\n"
PAGE = b"<< /Type /Page /Parent 1 0 R >>\n"


def stream(plain: bytes, keys: bytes = b"") -> bytes:
    packed = zlib.compress(plain)
    dictionary = b"7 0 obj\n<< /Length %d /Filter /FlateDecode %b >>\n" % (len(packed), keys)
    return dictionary + b"stream\r\n" + packed + b"\nendstream\nendobj\n"


def objects(pages: int) -> bytes:
    return stream(b"1 0 2 20 << /Type /Pages /Count 9 >> " + PAGE * pages, b"/Type /ObjStm /N 9")


def text(*operators: bytes) -> bytes:
    return stream(b"q BT /F1 12 Tf " + b" ".join(operators) + b" ET Q")


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (PAGE * 3, PdfSize(3, 0)),
        (objects(5), PdfSize(5, 0)),
        (PAGE + objects(5) + objects(4), PdfSize(10, 0)),
        (objects(5) * 20, PdfSize(100, 0)),
        (PAGE + text(b"(Sample PDF) Tj"), PdfSize(1, 10)),
        (PAGE + text(rb"[(Lor) 17 (em) -91 (\(x\))] TJ"), PdfSize(1, 8)),
        (PAGE + text(b"(one (two) Tj (th", b"(four)) Tj"), PdfSize(1, 7)),
        (PAGE + text(b"<01020303> Tj <04> Tj"), PdfSize(1, 5)),
        (PAGE + text(b"<00010002> Tj <0003> Tj"), PdfSize(1, 3)),
        ((PAGE + text(b"(Sample PDF) Tj")) * 30, PdfSize(30, 300)),
        (PAGE + stream(b"BT (Sample PDF) Tj ET", b"/Subtype /Image"), PdfSize(1, 0)),
        (PAGE + stream(b"BT (Sample PDF) Tj ET", b"/Length1 9"), PdfSize(1, 0)),
        (PAGE + text(b"(Sample PDF) Tj").replace(b"x\x9c", b"\x00\x00"), PdfSize(1, 0)),
        (b"", PdfSize(0, 0)),
    ],
)
def test_pages_and_characters_are_counted_also_where_they_are_compressed(body: bytes, size: PdfSize) -> None:
    assert measure_pdf(HEAD + body) == size


def test_only_the_beginning_of_a_stream_that_unpacks_to_much_more_is_read() -> None:
    bomb = stream(PAGE * 3_000_000, b"/Type /ObjStm") * 200
    assert 200 < measure_pdf(bomb).pages < 200 * 3_000


@given(st.binary(max_size=300))
def test_any_bytes_have_a_size(data: bytes) -> None:
    for body in (data, PAGE + b"obj << /FlateDecode >> stream\n" + data, text(data), stream(data, b"/ObjStm")):
        size = measure_pdf(HEAD + body)
        assert size.pages >= 0
        assert size.characters >= 0


def test_a_long_pdf_is_extrapolated_and_its_size_is_bounded() -> None:
    def measure(data: bytes) -> PdfSize:
        return measure_pdf_source(Source(type="base64", data=base64.b64encode(data).decode()))

    filler = b"\x00" * 100_000
    assert measure(b"no PDF") == PdfSize(1, 0)
    assert measure(HEAD + (PAGE + filler) * 60).pages == pytest.approx(60, rel=0.05)
    assert measure(HEAD + objects(7)) == PdfSize(7, 0)
    assert measure(HEAD + b"/Type /Page " * 100_000) == PdfSize(1_000, 0)
    assert measure(HEAD + PAGE + text(b"(" + b"x" * 30_000 + b") Tj") * 90) == PdfSize(1, 20_000)
