"""PDF files, written by hand: pages of text, pages that are only pictures, and hostile ones."""

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.documents.reader import PDF_PROGRAM
from anthropic_proxy.engine.platforms.sandbox import SandboxedProgram

PICTURE = b"1 0 0 rg 100 100 300 300 re f"
"""Operators of a page that is only a red square, like a scanned page without text."""


def write_pdf(
    *pages: str | bytes, box: str = "0 0 612 792", trailer: bytes = b"", objects: Sequence[bytes] = ()
) -> bytes:
    """Return a PDF. A page is its text, or the operators that draw it. `objects`: further ones, after the others."""
    kids = " ".join(f"{4 + 2 * place} 0 R" for place in range(len(pages)))
    written = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for place, page in enumerate(pages):
        resources = "<< /Font << /F1 3 0 R >> >>"
        contents = f"/MediaBox [{box}] /Resources {resources} /Contents {5 + 2 * place} 0 R"
        written.append(f"<< /Type /Page /Parent 2 0 R {contents} >>".encode())
        written.append(write_stream(page if isinstance(page, bytes) else write_text(page)))
    return join_objects([*written, *objects], trailer)


def write_text(text: str) -> bytes:
    """Return the operators that draw a text, with `\\n` between its lines."""
    escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    lines = " ".join(f"({line}) Tj T*" for line in escaped.split("\n"))
    return f"BT /F1 12 Tf 14 TL 72 700 Td {lines} ET".encode("latin-1")


def write_stream(data: bytes, fields: bytes = b"") -> bytes:
    return b"<< /Length %d %b >>\nstream\n%b\nendstream" % (len(data), fields, data)


def write_bomb(size: int) -> bytes:
    """Return the stream of a page that is `size` bytes long when it is inflated, and small in the file."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(b" " * 1_000_000) for _ in range(size // 1_000_000)]
    return write_stream(b"".join(parts) + packer.flush(), b"/Filter /FlateDecode")


def join_objects(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Return a file of these objects, of which the first is the catalog."""
    parts, offsets, size = [b"%PDF-1.7\n"], [], 9
    for number, body in enumerate(objects, 1):
        offsets.append(size)
        parts.append(b"%d 0 obj\n%b\nendobj\n" % (number, body))
        size += len(parts[-1])
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(objects) + 1, table)
    end = b"trailer\n<< /Size %d /Root 1 0 R %b >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, size)
    return b"".join([*parts, head, end])


def write_encrypted_pdf() -> bytes:
    """Return a PDF with the standard encryption, whose password is not empty."""
    encryption = b"<< /Filter /Standard /V 1 /R 2 /O <%b> /U <%b> /P -4 >>" % (b"41" * 32, b"42" * 32)
    trailer = b"/Encrypt 6 0 R /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>]"
    return write_pdf("secret", trailer=trailer, objects=[encryption])


def document(file: bytes, **fields: Any) -> dict[str, Any]:
    """Return the block of the Messages API with a file."""
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(file).decode()}
    return {"type": "document", "source": source, **fields}


QUICK = "quick"
_ENDLESS = """\
import time
def main(query):
    while query["data"] != "quick":
        time.sleep(60)
    return {"pages": [{"text": query["data"]}]}
"""


def write_endless_program(folder: Path) -> SandboxedProgram:
    """Return a program in place of that which reads PDFs: it reads each of them forever, except for `QUICK`."""
    path = folder / "endless.py"
    path.write_text(_ENDLESS, "utf-8")
    return structs.replace(PDF_PROGRAM, path=str(path))


_FULL = """\
def main(query):
    picture = "" if query["pictures"] == "none" else "A" * {picture}
    return {{"pages": [{{"text": "a" * {text}, "picture": picture}}] * {pages}}}
"""


def write_full_program(folder: Path, pages: int, text: int = 0, picture: int = 0) -> SandboxedProgram:
    """Return a program that finds in each file so many pages, with texts and pictures of these lengths."""
    path = folder / "full.py"
    path.write_text(_FULL.format(pages=pages, text=text, picture=picture), "utf-8")
    return structs.replace(PDF_PROGRAM, path=str(path))
