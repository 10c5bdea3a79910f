"""The log: two lines an exchange, never a key, never message text.

Coloured on a terminal, plain elsewhere, one JSON object an exchange where `LOG_FORMAT=json` asks for it.
"""

import re
import sys
import time
import traceback
from typing import Literal, TextIO

import msgspec

from anthropic_proxy.hooks import Receipt

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COLOURS = {"ok": "32", "warn": "33", "error": "1;31", "quiet": "2", "type": "36", "title": "1"}
_FIRST_COLUMN, _SECOND_COLUMN = 49, 34


class Log:
    """Writes to one stream; what stands in a line is counts, names and times."""

    def __init__(self, stream: TextIO | None = None, form: Literal["auto", "plain", "json"] = "auto") -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._json = form == "json"
        self.colours = form == "auto" and self._stream.isatty()
        """Whether lines are coloured; the environment's wishes (`NO_COLOR`) are the settings' to know."""
        self._said: set[str] = set()

    def exchange(self, receipt: Receipt) -> None:
        """Write an exchange's two lines, its outcome being known."""
        self._write(_json_line(receipt) if self._json else self._lines(receipt))

    def refusal(self, receipt: Receipt) -> None:
        """Write the line of a request that no exchange served."""
        self._write(_json_line(receipt) if self._json else self._lines(receipt).partition("\n")[0])

    def line(self, text: str, role: str = "") -> None:
        """Write one line, as a start-up message or a warning."""
        self._write(msgspec.json.encode({"message": text}).decode() if self._json else self.paint(text, role))

    def once(self, text: str) -> None:
        """Write a line the first time that it is given: what happens again at every request is said once a run."""
        if text not in self._said and len(self._said) < 10_000:
            self._said.add(text)
            self.line(clean(text))

    def trace(self, request_id: str) -> None:
        """Write the trace of the exception that is being handled: it is our bug."""
        self._write(f"{request_id}  {traceback.format_exc().rstrip()}")

    def paint(self, text: str, role: str) -> str:
        """Return `text` in the colour of its role, one of ok, warn, error, quiet, type and title, if colours are on."""
        return f"\x1b[{_COLOURS[role]}m{text}\x1b[0m" if self.colours and role else text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # a closed terminal must not end a request

    def _lines(self, receipt: Receipt) -> str:
        status = receipt.status
        role = "ok" if status < 400 else "warn" if status < 500 else "error"
        clock = time.strftime("%H:%M:%S", time.localtime(receipt.started))
        head = f"{receipt.method} {clean(receipt.path)} "
        middle = clean(_unusual(receipt))
        first = (
            f"{self.paint(clock, 'quiet')}  {head}{self.paint(str(status), role)}"
            f"{' ' * max(_FIRST_COLUMN - 10 - len(head) - 3, 2)}{middle:<{_SECOND_COLUMN}}  "
            f"{self.paint(receipt.request_id, 'quiet')}"
        )
        return f"{first}\n          {clean(_summary(receipt))}"


def clean(text: str) -> str:
    """Return `text` with control characters escaped, so that no header or name can write lines of its own."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _unusual(receipt: Receipt) -> str:
    tried = ", ".join(receipt.tried)
    if receipt.error:
        return (f"↻ {tried}; " if tried else "") + f"✕ {receipt.error[:160]}"
    if receipt.outcome == "cancelled":
        return "– client left"
    if tried:
        return f"↻ {tried}, then {receipt.provider}"
    return {"max_tokens": "! cut off", "refusal": "! refused"}.get(receipt.outcome, "")


def _summary(receipt: Receipt) -> str:
    target = f" → {receipt.provider}/{receipt.model}" if receipt.model else ""
    context = receipt.input_tokens + receipt.cache_read_tokens + receipt.cache_write_tokens
    first = "–" if receipt.first_delta_seconds is None else f"{receipt.first_delta_seconds:.2f}s"
    return (
        f"{receipt.asked_model or '–'}{target}  {receipt.tools} tools {receipt.messages} msgs"
        f"{' stream' if receipt.stream else ''}  in {_count(context)} out {_count(receipt.output_tokens)}"
        f"  {first} {receipt.seconds:.1f}s"
    )


def _count(tokens: int) -> str:
    return f"{tokens / 1000:.1f}k" if tokens >= 10_000 else str(tokens)


def _json_line(receipt: Receipt) -> str:
    return msgspec.json.encode(receipt).decode()
