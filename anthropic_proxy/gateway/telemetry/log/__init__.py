"""`Log`: the log of the proxy on standard error, with an entry for each client request.

It contains no API keys and no message content. A thread writes the entries, because the program that reads the log may
be blocked.
"""

import atexit
import io
import json
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any, Literal, TextIO

import msgspec

from anthropic_proxy.engine.hooks import NEGOTIATED, LogLevel
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.errors import replace_quotes
from anthropic_proxy.gateway.telemetry.log.columns import wrap_text
from anthropic_proxy.gateway.telemetry.log.lines import (
    COLORS,
    INDENT,
    MIN_WRAP_COLUMNS,
    QUARTER_HOUR,
    escape_unprintable,
    escape_unprintable_json,
    format_exchange_lines,
    format_local_day,
    format_local_time,
    format_note_line,
    format_notes_line,
    format_request_lines,
    format_utc_time,
    note_deduplication_key,
    paint_commands,
    redact_receipt,
    to_ascii_symbols,
)
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.secrets import list_secret_encodings, redact_secrets

MAX_QUEUED_ENTRIES = 5_000
"""Maximum number of queued log entries. Further entries are dropped and counted."""
BATCH_INTERVAL_SECONDS = 0.05
FLUSH_TIMEOUT_SECONDS = 1.0
"""Maximum seconds for which `flush` waits, because the program that reads the log may be blocked."""
MAX_WRITE_BYTES = 4096
"""Maximum size of one write of several entries (PIPE_BUF). The kernel does not mix such writes of several processes in
a pipe. A longer entry is written by itself."""


class BackgroundWriter:
    """Queue of log entries, and the thread that writes them to the file `descriptor`. If `max_queued` entries wait, new
    entries are dropped. The thread then reports their number by the log entry that `describe_dropped` returns.
    """

    def __init__(
        self,
        descriptor: int,
        encode: Callable[[str], bytes],
        describe_dropped: Callable[[int], str],
        max_queued: int = MAX_QUEUED_ENTRIES,
    ) -> None:
        self._descriptor = descriptor
        self._encode = encode
        self._describe_dropped = describe_dropped
        self._max_queued = max_queued
        self._dropped = 0
        self._queue: SimpleQueue[str | threading.Event] = SimpleQueue()
        """Log entries, and events that calls of `flush` wait for."""
        self._flush_requested = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        """Held by the thread that starts `_thread`. Others do not wait for it: a signal handler may log too."""

    def set_encoder(self, encode: Callable[[str], bytes], describe_dropped: Callable[[int], str]) -> None:
        self._encode = encode
        self._describe_dropped = describe_dropped

    def enqueue(self, text: str) -> None:
        """An entry ends with a line end. Above the maximum it is dropped and counted. Any thread may call."""
        if self._queue.qsize() >= self._max_queued:
            self._dropped += 1
            return
        self._queue.put(text)
        # another thread may start the thread; if the system has no thread left, the next entry tries again
        if self._thread is not None or not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="log", daemon=True)
                thread.start()
                self._thread = thread
                atexit.register(self.flush)
        except RuntimeError:
            return  # a request must not fail because its log entry waits
        finally:
            self._starting.release()

    def flush(self, seconds: float = FLUSH_TIMEOUT_SECONDS) -> None:
        if self._thread is not None:
            written = threading.Event()
            self._queue.put(written)
            self._flush_requested.set()
            written.wait(seconds)

    def _run(self) -> None:
        reported = 0
        while True:
            batch = bytearray()
            flushed: list[threading.Event] = []
            items = [self._queue.get()]
            with suppress(Empty):
                while True:
                    items.append(self._queue.get_nowait())
            for item in items:
                if isinstance(item, threading.Event):
                    flushed.append(item)
                    continue
                data = self._encode(item)
                if len(batch) + len(data) > MAX_WRITE_BYTES:
                    self._write(batch)
                    batch = bytearray()
                batch += data
            if dropped := self._dropped - reported:
                reported += dropped
                batch += self._encode(self._describe_dropped(dropped))
            self._write(batch)
            for event in flushed:
                self._flush_requested.clear()
                event.set()
            self._flush_requested.wait(BATCH_INTERVAL_SECONDS)

    def _write(self, data: bytes | bytearray) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another program that shares the descriptor set O_NONBLOCK
                select.select([], [self._descriptor], [])
            except OSError:
                return  # a closed terminal must not fail requests


_WEIGHTS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_MAX_ONCE_KEYS = 10_000


class Log:
    """Log on one stream, such as standard error. Entries have counts, names and times, but no message content.
    `secrets` are keys that are masked in each entry. With `has_ledger`, lines name the command `explain`.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        form: Literal["auto", "plain", "json"] = "auto",
        *,
        level: LogLevel = "info",
        color: bool | None = None,
        max_queued: int = MAX_QUEUED_ENTRIES,
        secrets: Iterable[str] = (),
        columns: int | None = None,
        has_ledger: bool = True,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._json = form == "json"
        self._secrets = tuple(secrets)
        self._columns = columns
        self._has_ledger = has_ledger
        self._spellings = list_secret_encodings(self._secrets)
        self._min_weight = _WEIGHTS[level]
        self._is_terminal = self._stream.isatty()
        self.color = form == "auto" and (self._is_terminal if color is None else color)
        self._encoding = "utf-8" if self._json else getattr(self._stream, "encoding", None) or "utf-8"
        self._has_signs = "utf" in self._encoding.lower()
        self._written_once: set[Hashable] = set()
        self._quarter = -1
        """Quarter of an hour since the epoch of the latest entry about a request. -1: there is none yet."""
        self._day = ""
        """Local day of the latest entry about a request. "": there is none yet."""
        self._writer: BackgroundWriter | None = None
        with suppress(io.UnsupportedOperation):  # a stream in memory
            self._writer = BackgroundWriter(self._stream.fileno(), self._encode, self._describe_lost, max_queued)

    def add_secret(self, secret: str) -> None:
        self._secrets = (*self._secrets, secret)
        self._spellings = list_secret_encodings(self._secrets)

    def inherit_from(self, previous_log: "Log") -> None:
        """Continue the queue, the thread and the texts of `write_once` of the log before a reload, if the stream is the
        same.
        """
        if self._stream is previous_log._stream and previous_log._writer is not None:
            self._written_once = previous_log._written_once
            self._writer = previous_log._writer
            self._day = previous_log._day
            self._writer.set_encoder(self._encode, self._describe_lost)

    def write_exchange(self, receipt: Receipt) -> None:
        if receipt.notes and not self._json and self._min_weight <= _WEIGHTS["info"]:
            new = [
                note
                for note in receipt.notes
                if note.handling != "kept"
                and self._is_new((receipt.model, *note_deduplication_key(note, receipt.prefix)))
            ]
            if self._is_wanted("debug"):
                lines = [format_note_line(note, receipt.prefix) for note in new]
            else:
                lines = [format_notes_line(new, receipt, has_ledger=self._has_ledger)] if new else []
            if lines:
                self._write_day(receipt)
            for line in map(escape_unprintable, lines):
                self.write_line(f"{format_local_time(receipt.started_at)}  {self.fold(line, INDENT)}", "quiet")
        if _WEIGHTS[_level_of(receipt)] >= self._min_weight:
            self._write_day(receipt)
            self._write(self.format_exchange(receipt))

    def format_exchange(self, receipt: Receipt, cost: str = "") -> str:
        """`cost` is shown on a terminal with room for it."""
        receipt = redact_receipt(receipt, self._secrets)
        if self._json:
            return _encode_receipt(receipt, _level_of(receipt))
        paint = self.paint if self.color else None
        width = self.terminal_width if self._is_terminal else self._columns
        lines = format_exchange_lines(receipt, paint, width, cost, has_ledger=self._has_ledger)
        if receipt.upstream_excerpt:
            lines.append(f"{INDENT}{receipt.prefix} answered: {escape_unprintable(receipt.upstream_excerpt)}")
        return "\n".join(lines)

    def write_request(self, receipt: Receipt, level: LogLevel = "info") -> None:
        """`level` is its level if the request did not fail."""
        level = level if _level_of(receipt) == "info" else _level_of(receipt)
        if self._is_wanted(level):
            self._write_day(receipt)
            self._write(self.format_request(receipt, level))

    def _write_day(self, receipt: Receipt) -> None:
        quarter = int(receipt.started_at) // QUARTER_HOUR
        if quarter != self._quarter:  # each day begins with one
            self._quarter = quarter
            if line := self.begin_day(receipt.started_at):
                self._write(line.rstrip())

    def begin_day(self, when: float) -> str:
        """Return a line with the date if an entry at the time `when` (seconds since the epoch) begins another local day
        than the entry before. "": it is the same day, or the first entry, or the log is JSON, whose entries have dates.
        """
        day = format_local_day(when)
        before = self._day
        self._day = day
        if self._json or before in ("", day):
            return ""
        return f"{self.paint(day, 'title')}\n"

    def format_request(self, receipt: Receipt, level: LogLevel = "info") -> str:
        level = level if _level_of(receipt) == "info" else _level_of(receipt)
        receipt = redact_receipt(receipt, self._secrets)
        if self._json:
            return _encode_receipt(receipt, level)
        return "\n".join(format_request_lines(receipt, self.paint if self.color else None, self.terminal_width))

    def write_line(self, text: str, role: str = "", level: LogLevel = "info") -> None:
        """Write a line. `role` selects the color: ok, warn, error, quiet, type or title. "": no color."""
        if not self._is_wanted(level):
            return
        if not self._json:
            self._write(self.paint(text, role))
        elif text.strip():
            self._write(_encode_fields(level=level, message=text.strip()))

    @property
    def is_json(self) -> bool:
        return self._json

    def write_json_event(self, name: str, **fields: object) -> None:
        """Write a JSON object with the field `event` at level info. Call this only if `is_json` is True."""
        if self._is_wanted("info"):
            self._write(_encode_fields(level="info", event=name, **fields))

    def write_warning(self, text: str) -> None:
        """Write a warning line, also if the same text was already written. Any thread may call this."""
        text = escape_unprintable(redact_secrets(text, self._secrets))
        self.write_line(f"{self.paint('!', 'warn')} {self.fold(text, '  ')}", level="warning")

    def write_once(self, text: str, level: LogLevel = "info", *, key: str | None = None) -> None:
        """Write a line with the time of day to the log, unless this process has already written the same text, or one
        with the same `key`.
        """
        if self._is_new(text if key is None else key):
            text = escape_unprintable(redact_secrets(text, self._secrets))
            timed = f"{format_local_time(time.time())}  {self.fold(text, INDENT)}"
            self.write_line(text if self._json else timed, level=level)

    def fold(self, text: str, indent: str) -> str:
        """Return the text behind the beginning of a line, with its further lines on a terminal after `indent`."""
        if self._json:
            return text
        width = self.terminal_width
        columns = None if width is None else max(width, len(indent) + MIN_WRAP_COLUMNS)
        return "\n".join(wrap_text(indent + paint_commands(text, self.paint), columns)).removeprefix(indent)

    def write_traceback(self, request_id: str, quotes: Mapping[str, str] = MappingProxyType({})) -> None:
        self._write_trace(request_id, replace_quotes(traceback.format_exc(), quotes))

    def write_event_loop_error(self, context: Mapping[str, Any]) -> None:
        """`context` is that of `loop.set_exception_handler`."""
        error = context.get("exception")
        lines = traceback.format_exception(error) if isinstance(error, BaseException) else ()
        self._write_trace("–", "".join((f"{context['message']}\n", *lines)))

    def _write_trace(self, request_id: str, text: str) -> None:
        trace = redact_secrets(text.rstrip(), self._secrets)
        if self._json:
            self._write(_encode_fields(level="error", request_id=request_id, trace=trace))
        else:
            self._write(f"{request_id}  " + f"\n{INDENT}".join(map(escape_unprintable, trace.split("\n"))))

    def paint(self, text: str, role: str) -> str:
        # before the escape sequence, whose end looks like a part of the name
        return f"\x1b[{COLORS[role]}m{name_program(text)}\x1b[0m" if self.color and role else text

    @property
    def terminal_width(self) -> int | None:
        """Maximum number of columns of a log line. None: the stream is no terminal, or its width is unknown."""
        if self._columns is not None or not self._is_terminal:
            return self._columns
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or None
        except (OSError, ValueError):  # closed
            return None

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _is_wanted(self, level: LogLevel) -> bool:
        return _WEIGHTS[level] >= self._min_weight

    def _is_new(self, key: Hashable) -> bool:
        if key in self._written_once or len(self._written_once) >= _MAX_ONCE_KEYS:
            return False
        self._written_once.add(key)
        return True

    def to_encodable(self, text: str) -> str:
        return text if self._has_signs else to_ascii_symbols(text)

    def _write(self, text: str) -> None:
        for spelling in self._spellings:
            if spelling in text:
                text = redact_secrets(text, self._secrets)
                break
        text = text if self._json else name_program(text)
        text = f"{text if self._has_signs else to_ascii_symbols(text)}\n"
        if self._writer is not None:
            self._writer.enqueue(text)
            return
        try:
            self._stream.write(text)
        except ValueError:
            return  # a closed stream must not fail a request

    def _encode(self, text: str) -> bytes:
        return text.encode(self._encoding, "backslashreplace")

    def _describe_lost(self, number: int) -> str:
        text = f"{number} log entries were dropped because standard error was not read fast enough."
        return f"{_encode_fields(level='warning', message=text) if self._json else text}\n"


def _level_of(receipt: Receipt) -> LogLevel:
    if receipt.outcome == NEGOTIATED:
        return "debug"
    if receipt.outcome == "cancelled" or receipt.status < 400:
        return "info"
    return "warning" if receipt.status < 500 else "error"


def _encode_receipt(receipt: Receipt, level: LogLevel) -> str:
    try:
        encoded = msgspec.json.encode(receipt)
    except UnicodeEncodeError:  # provider headers may hold bytes that are not UTF-8; they decode to lone surrogates
        fields = json.dumps(msgspec.to_builtins(receipt), ensure_ascii=False, separators=(",", ":"))
        encoded = fields.encode(errors="replace")
    # the counts are inherited fields, which msgspec writes first
    counts, name, others = encoded.decode()[1:-1].partition('"request_id":')
    started_at = format_utc_time(receipt.started_at)
    fields = f"{name}{others},{counts[:-1]}}}"
    number = f'"started_at":{msgspec.json.encode(receipt.started_at).decode()}'
    fields = fields.replace(number, f'"started_at":"{started_at}"', 1)
    trace = receipt.trace
    if trace is None:
        fields = fields.replace(',"trace":null', "", 1)
    else:  # one field per id, with the names of OpenTelemetry
        span = f',"span_id":"{trace.span_id}"' if trace.span_id else ""
        flat = f',"trace_id":"{trace.trace_id}"{span},"trace_flags":"{trace.flags}"'
        fields = fields.replace(f',"trace":{msgspec.json.encode(trace).decode()}', flat, 1)
    return escape_unprintable_json(f'{{"time":"{started_at}","level":"{level}",{fields}')


def _encode_fields(**fields: object) -> str:
    complete = {"time": format_utc_time(time.time()), **fields}
    try:
        return escape_unprintable_json(msgspec.json.encode(complete).decode())
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(complete), ensure_ascii=False, separators=(",", ":"))
        return escape_unprintable_json(text.encode(errors="backslashreplace").decode())
