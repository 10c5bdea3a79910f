"""The log: two lines an exchange, never a key, never message text.

Coloured on a terminal, plain elsewhere, one JSON object an exchange where `LOG_FORMAT=json` asks for it.
`lines` words them, `spool` writes them from a thread of its own.
"""

import io
import json
import sys
import time
import traceback
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, TextIO

import msgspec

from anthropic_proxy.hooks import Receipt
from anthropic_proxy.log.lines import (
    INDENT,
    cause_of,
    clean,
    clean_json,
    clock_of,
    describe_exchange,
    describe_note,
    describe_request,
    with_plain_signs,
    without_keys,
)
from anthropic_proxy.log.spool import MOST_WAITING, Spool
from anthropic_proxy.redaction import hide_secrets, mask_keys

Level = Literal["debug", "info", "warning", "error"]
_WEIGHTS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_COLOURS = {"ok": "32", "warn": "33", "error": "1;31", "quiet": "2", "type": "36", "title": "1"}
_MOST_CAUSES = 10_000

__all__ = ["Level", "Log", "clean"]


class Log:
    """Writes to one stream; what stands in a line is counts, names and times.

    A stream with a file descriptor is written from a thread, and `most_waiting` texts may wait for its reader; one in
    memory at once. `colours`: None leaves it to whether the stream is a terminal. `secrets` are taken out of
    traces, of which nobody knows what stands in them.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        form: Literal["auto", "plain", "json"] = "auto",
        *,
        level: Level = "info",
        colours: bool | None = None,
        most_waiting: int = MOST_WAITING,
        secrets: Iterable[str] = (),
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._json = form == "json"
        self._secrets = tuple(secrets)
        self._least = _WEIGHTS[level]
        self.colours = form == "auto" and (self._stream.isatty() if colours is None else colours)
        """Whether lines are coloured."""
        self._encoding = "utf-8" if self._json else getattr(self._stream, "encoding", None) or "utf-8"
        self._has_signs = "utf" in self._encoding.lower()
        self._said: set[Hashable] = set()
        self._spool: Spool | None = None
        with suppress(io.UnsupportedOperation):  # a stream in memory, which needs no reader
            self._spool = Spool(self._stream.fileno(), self._encode, self._describe_lost, most_waiting)

    def follow(self, before: "Log") -> None:
        """Take the place of a log: lines keep their order, no thread is left behind, and what is said once was said."""
        if self._stream is before._stream and before._spool is not None:
            self._said, self._spool = before._said, before._spool
            self._spool.serve(self._encode, self._describe_lost)

    def exchange(self, receipt: Receipt) -> None:
        """Write an exchange's two lines, its outcome being known, and once a run what the provider did not get."""
        if self._is_wanted("info") and not self._json:
            for note in receipt.notes:
                if note.fate != "kept" and self._is_new(cause_of(note, receipt.provider)):
                    self.line(f"{clock_of(receipt.started)}  {clean(describe_note(note, receipt.provider))}")
        level = _level_of(receipt)
        if not self._is_wanted(level):
            return
        receipt = without_keys(receipt)
        if self._json:
            self._write(_encode_receipt(receipt, level))
            return
        lines = [describe_request(receipt, self.paint), describe_exchange(receipt)]
        if receipt.excerpt:
            lines.append(f"{INDENT}{receipt.provider} answered: {clean(receipt.excerpt)}")
        self._write("\n".join(lines))

    def request(self, receipt: Receipt, level: Level = "info") -> None:
        """Write the line of a request that no exchange served; `level` is that of a request that went well."""
        level = level if _level_of(receipt) == "info" else _level_of(receipt)
        if self._is_wanted(level):
            receipt = without_keys(receipt)
            self._write(
                _encode_receipt(receipt, level) if self._json else describe_request(receipt, self.paint).rstrip()
            )

    def line(self, text: str, role: str = "", level: Level = "info") -> None:
        """Write one line, as a start-up message or a warning."""
        if not self._is_wanted(level):
            return
        if not self._json:
            self._write(self.paint(text, role))
        elif text.strip():
            self._write(_encode_fields(level=level, message=text.strip()))

    def once(self, text: str) -> None:
        """Write a line the first time that it is given: what happens again at every request is said once a run."""
        if self._is_new(text):
            text = mask_keys(text)
            self.line(clean(text) if self._json else f"{clock_of(time.time())}  {clean(text)}")

    def trace(self, request_id: str) -> None:
        """Write the trace of the exception that is being handled: it is our bug."""
        self._write_trace(request_id, traceback.format_exc())

    def report(self, context: Mapping[str, Any]) -> None:
        """Write what the event loop found that nobody waits for (`loop.set_exception_handler`)."""
        error = context.get("exception")
        lines = traceback.format_exception(error) if isinstance(error, BaseException) else ()
        self._write_trace("–", "".join((f"{context['message']}\n", *lines)))

    def _write_trace(self, request_id: str, text: str) -> None:
        trace = hide_secrets(text.rstrip(), self._secrets)
        if self._json:
            self._write(_encode_fields(level="error", request_id=request_id, trace=trace))
        else:
            self._write(f"{request_id}  " + f"\n{INDENT}".join(map(clean, trace.split("\n"))))

    def paint(self, text: str, role: str) -> str:
        """Return `text` in the colour of its role, one of ok, warn, error, quiet, type and title, if colours are on."""
        return f"\x1b[{_COLOURS[role]}m{text}\x1b[0m" if self.colours and role else text

    def flush(self) -> None:
        """Wait until everything is written, a second at most."""
        if self._spool is not None:
            self._spool.flush()

    def _is_wanted(self, level: Level) -> bool:
        return _WEIGHTS[level] >= self._least

    def _is_new(self, cause: Hashable) -> bool:
        if cause in self._said or len(self._said) >= _MOST_CAUSES:
            return False
        self._said.add(cause)
        return True

    def _write(self, text: str) -> None:
        text = f"{text if self._has_signs else with_plain_signs(text)}\n"
        if self._spool is not None:
            self._spool.put(text)
            return
        try:
            self._stream.write(text)
        except ValueError:
            return  # closed: that must not end a request

    def _encode(self, text: str) -> bytes:
        return text.encode(self._encoding, "backslashreplace")

    def _describe_lost(self, number: int) -> str:
        text = f"{number} entries of the log were lost, because nobody read it fast enough."
        return f"{_encode_fields(level='warning', message=text) if self._json else text}\n"


def _level_of(receipt: Receipt) -> Level:
    if receipt.outcome == "cancelled" or receipt.status < 400:
        return "info"
    return "warning" if receipt.status < 500 else "error"


def _encode_receipt(receipt: Receipt, level: Level) -> str:
    try:
        told = msgspec.json.encode(receipt)
    except UnicodeEncodeError:  # headers of a provider are any bytes, and what is no text is kept as half characters
        fields = json.dumps(msgspec.to_builtins(receipt), ensure_ascii=False, separators=(",", ":"))
        told = fields.encode(errors="replace")
    return clean_json(f'{{"level":"{level}",{told.decode()[1:]}')


def _encode_fields(**fields: str) -> str:
    whole = {name: text.encode(errors="backslashreplace").decode() for name, text in fields.items()}
    return clean_json(msgspec.json.encode(whole).decode())
