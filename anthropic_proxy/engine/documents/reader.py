"""`DocumentReader`: reads each PDF once, in a process of its own, and keeps what was read.

A client sends a document again with each request of a conversation. What the model gets must be the same each time,
because its provider's cache begins with it.
"""

import asyncio
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.background import MAX_BYTES_ON_LOOP, PayerWork
from anthropic_proxy.engine.bounded import BoundedDict, SizedCache
from anthropic_proxy.engine.keyed_lock import KeyedLock
from anthropic_proxy.engine.memory_plan import PDF_BYTES
from anthropic_proxy.engine.messages.documents import BEYOND_LIMITS, MAX_PAGES, PdfContent
from anthropic_proxy.engine.platforms import sandbox
from anthropic_proxy.engine.platforms.sandbox import SandboxedProgram, SandboxFailed
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.turns import SharedWorker, Turns
from anthropic_proxy.errors import is_installed

MAX_PICTURES = 20
"""Maximum pages of a document that become pictures. Servers accept few pictures in a request."""
MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Maximum size of what is kept of all documents. What was used least recently is dropped."""
PROCESSES = SharedWorker(
    name="the processes that read PDFs", places=2, share=1, max_waiting=100, max_wait_seconds=120.0
)
MAX_WORK_SECONDS = 120.0
"""Time of reading after which no further document of a request is begun. Otherwise the many documents of one client
would hold its requests forever."""
REFUSAL_SECONDS = 600.0
"""Time for which a document that is beyond the limits is not read again. The limits may be those of a busy machine."""
_MAX_REFUSALS = 1_000
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


class ReadingTime(Struct):
    """Seconds that a request has spent with its documents."""

    work: float = 0.0
    waiting: float = 0.0


class DocumentReader:
    """What was read of documents, by owner and content, in the memory of one process."""

    def __init__(
        self,
        max_kept_bytes: int = MAX_KEPT_BYTES,
        program: SandboxedProgram = PDF_PROGRAM,
        worker: SharedWorker = PROCESSES,
        max_work_seconds: float = MAX_WORK_SECONDS,
    ) -> None:
        self._program = program
        self._worker = worker
        self._max_work_seconds = max_work_seconds
        self.read_count = 0
        """Number of documents for which a process was started."""
        self._kept = SizedCache[_Key, PdfContent](max_kept_bytes)
        self._lock = KeyedLock[_Key]()
        self._refused_until = BoundedDict[_Key, float](_MAX_REFUSALS)
        """Document that is beyond the limits → time of the event loop."""
        self._turns = Turns(worker)

    @cached_property
    def is_installed(self) -> bool:
        """True if the extra `documents` is installed."""
        return is_installed("pypdfium2")

    async def read(
        self, background: PayerWork, data: str, pictures: PagePictures, time: ReadingTime | None = None
    ) -> PdfContent:
        """Return what a PDF in base64 contains. Nothing that was read for another payer is returned.

        `background`: that of the payer. `time`: that of the request so far, to which this adds. Raises `WorkerBusy` if
        the documents of the request have waited too long.
        """
        is_large = len(data) > MAX_BYTES_ON_LOOP
        key = background.payer, await background.run_in_thread_if_large(is_large, _digest, data), pictures
        time = time or ReadingTime()
        async with self._lock.hold(key):  # an equal document that is being read is waited for
            if (kept := self._kept.get(key)) is not None:
                return kept
            now = asyncio.get_running_loop().time
            if time.work >= self._max_work_seconds or self._refused_until.get(key, 0.0) > now():
                return BEYOND_LIMITS
            began = now()
            await self._turns.acquire(background.payer, max_seconds=self._worker.max_wait_seconds - time.waiting)
            try:
                time.waiting += now() - began
                began = now()
                try:
                    found = await self._read(background, data, pictures, is_large=is_large)
                finally:
                    time.work += now() - began
            except OSError:  # no process could be started, which says nothing of the document
                return BEYOND_LIMITS
            finally:
                self._turns.release(background.payer)
            if found is None:
                self._refused_until[key] = now() + REFUSAL_SECONDS
                return BEYOND_LIMITS
            self._kept.put(key, found, found.measure())
            return found

    async def _read(
        self, background: PayerWork, data: str, pictures: PagePictures, *, is_large: bool
    ) -> PdfContent | None:
        """None: the document is beyond the limits. Raises `OSError` if no process can be started."""
        self.read_count += 1
        query = await background.run_in_thread_if_large(is_large, _encode_query, data, pictures)
        try:
            output = await sandbox.run_sandboxed(self._program, query)
            return await background.run_in_thread_if_large(
                len(output) > MAX_REPLY_BYTES_ON_LOOP, _decode_content, output
            )
        except (TimeoutError, SandboxFailed, msgspec.DecodeError, UnicodeDecodeError):
            return None  # a document that has taken over the process writes anything


def _digest(data: str) -> bytes:
    return hashlib.sha256(data.encode(errors="replace")).digest()


def _encode_query(data: str, pictures: PagePictures) -> Raw:
    count = 0 if pictures == "none" else MAX_PICTURES
    query = {"data": data, "max_pages": MAX_PAGES, "pictures": pictures, "max_pictures": count}
    return Raw(msgspec.json.encode(query))
