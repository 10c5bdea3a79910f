"""`DocumentReader`: reads each PDF once, in a process of its own, and keeps what was read.

A client sends a document again with each request of a conversation. What the model gets must be the same each time,
because its provider's cache begins with it.
"""

import asyncio
import hashlib
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.background import MAX_BYTES_ON_LOOP, MAX_REPLY_BYTES_ON_LOOP, PayerWork
from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.keyed_lock import KeyedLock
from anthropic_proxy.engine.memory_plan import PDF_BYTES
from anthropic_proxy.engine.messages.documents import MAX_PAGES, PdfContent
from anthropic_proxy.engine.platforms import sandbox
from anthropic_proxy.engine.platforms.sandbox import SandboxedProgram, SandboxFailed
from anthropic_proxy.errors import is_installed

MAX_PICTURES = 20
"""Maximum pages of a document that become pictures. Servers accept few pictures in a request."""
MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Maximum size of what is kept of all documents. What was used least recently is dropped."""
MAX_PROCESSES = 2
"""Maximum number of documents that are read at the same time."""
PDF_PROGRAM = SandboxedProgram(
    path=str(Path(__file__).with_name("pdf_program.py")),
    timeout_seconds=60.0,
    cpu_seconds=20,
    memory_bytes=PDF_BYTES,
    max_output_bytes=32 * 1024 * 1024,
    imports_packages=True,
)
"""A document of 600 pages of text needs 0.2 s, and 20 pictures of its pages 1 s."""
PagePictures = Literal["none", "scanned", "all"]
"""Pages that become pictures. `scanned`: those without text."""
_decode_content = msgspec.json.Decoder(PdfContent).decode
_Key = tuple[str, bytes, PagePictures]
_BEYOND_LIMITS = PdfContent(error="limits")


class DocumentReader:
    """What was read of documents, by owner and content, in the memory of one process."""

    def __init__(self, max_kept_bytes: int = MAX_KEPT_BYTES, program: SandboxedProgram = PDF_PROGRAM) -> None:
        self._program = program
        self.read_count = 0
        """Number of documents for which a process was started."""
        self._kept = SizedCache[_Key, PdfContent](max_kept_bytes)
        self._lock = KeyedLock[_Key]()
        self._slots = asyncio.Semaphore(MAX_PROCESSES)

    @cached_property
    def is_installed(self) -> bool:
        """True if the extra `documents` is installed."""
        return is_installed("pypdfium2")

    async def read(self, background: PayerWork, data: str, pictures: PagePictures, deadline: float = inf) -> PdfContent:
        """Return what a PDF in base64 contains. Nothing that was read for another payer is returned.

        `background`: that of the payer. `deadline`: time of the event loop from which on no process is started.
        """
        is_large = len(data) > MAX_BYTES_ON_LOOP
        key = background.payer, await background.run_in_thread_if_large(is_large, _digest, data), pictures
        async with self._lock.hold(key):  # an equal document that is being read is waited for
            if (kept := self._kept.get(key)) is not None:
                return kept
            query = await background.run_in_thread_if_large(is_large, _encode_query, data, pictures)
            async with self._slots:
                if asyncio.get_running_loop().time() >= deadline:
                    return _BEYOND_LIMITS
                self.read_count += 1
                try:
                    output = await sandbox.run_sandboxed(self._program, query)
                except (TimeoutError, SandboxFailed, OSError):
                    return _BEYOND_LIMITS  # not kept: they may be those of a busy machine
            try:
                found = await background.run_in_thread_if_large(
                    len(output) > MAX_REPLY_BYTES_ON_LOOP, _decode_content, output
                )
            except (msgspec.DecodeError, UnicodeDecodeError):  # the document has taken over the process
                return _BEYOND_LIMITS
            self._kept.put(key, found, found.measure())
            return found


def _digest(data: str) -> bytes:
    return hashlib.sha256(data.encode(errors="replace")).digest()


def _encode_query(data: str, pictures: PagePictures) -> Raw:
    count = 0 if pictures == "none" else MAX_PICTURES
    query = {"data": data, "max_pages": MAX_PAGES, "pictures": pictures, "max_pictures": count}
    return Raw(msgspec.json.encode(query))
