"""Decoder of reasoning and signatures in the response fields `reasoning_details` and `extra_content`.

OpenRouter sends reasoning as a list of objects (`reasoning_details`), which later requests must repeat.
`ReasoningDetailsBuffer` joins the streamed fragments of the list, and `reasoning_details_text` returns its text. Google
sends the signature of a tool call, opaque state of the reasoning, in `extra_content`. `find_call_signature` returns it.
"""

from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.wire.json_repair import decode_repaired

_JOINED = ("text", "summary", "data", "signature")
"""String fields of an entry of `reasoning_details`. A stream sends them in fragments, which are joined."""


class ReasoningDetailsBuffer:
    """Joins streamed fragments of `reasoning_details` into the list that later requests send back to OpenRouter."""

    def __init__(self) -> None:
        self._details: list[dict[str, Any]] = []

    def feed(self, raw: Raw) -> None:
        """Add the fragments in `reasoning_details` of one chunk (a JSON list of objects)."""
        for fragment in _objects(raw):
            last = self._details[-1] if self._details else None
            if last is None or any(last.get(key) != fragment.get(key) for key in ("type", "index")):
                self._details.append(dict(fragment))
                continue
            for key, value in fragment.items():
                if key in _JOINED and isinstance(value, str) and isinstance(last.get(key), str):
                    last[key] += value
                elif value is not None:
                    last[key] = value

    def pop_json(self) -> str:
        """Return the joined list as JSON text and clear the buffer. "": the buffer is empty."""
        details, self._details = self._details, []
        return msgspec.json.encode(details).decode() if details else ""


def reasoning_details_text(raw: Raw) -> str:
    """Return the texts and summaries of all entries in `reasoning_details`, concatenated."""
    texts = (detail.get("text") or detail.get("summary") for detail in _objects(raw))
    return "".join(text for text in texts if isinstance(text, str))


def find_call_signature(raw: Raw) -> str:
    """Return the signature of a tool call: `google.thought_signature` in `extra_content`. "": missing."""
    extra = decode_repaired(raw)
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _objects(raw: Raw) -> list[dict[str, Any]]:
    content = decode_repaired(raw)
    return [detail for detail in content if isinstance(detail, dict)] if isinstance(content, list) else []
