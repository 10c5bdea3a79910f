"""Reasoning that arrives otherwise than as a plain field of its own or as text."""

from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.wire.json_repair import decode_repaired

_JOINED = ("text", "summary", "data", "signature")
"""Fields of a reasoning detail that arrive in fragments."""


class ReasoningDetailsBuffer:
    """Joins the fragments of `reasoning_details` into the list that OpenRouter wants back ("Reasoning tokens")."""

    def __init__(self) -> None:
        self._details: list[dict[str, Any]] = []

    def feed(self, raw: Raw) -> None:
        """Take the fragments of one frame."""
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
        """Return the list as JSON text and forget it; empty where there is none."""
        details, self._details = self._details, []
        return msgspec.json.encode(details).decode() if details else ""


def reasoning_details_text(raw: Raw) -> str:
    """Return the readable part of `reasoning_details`."""
    texts = (detail.get("text") or detail.get("summary") for detail in _objects(raw))
    return "".join(text for text in texts if isinstance(text, str))


def find_call_signature(raw: Raw) -> str:
    """Return `google.thought_signature` of an `extra_content`; empty where there is none."""
    extra = decode_repaired(raw)
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _objects(raw: Raw) -> list[dict[str, Any]]:
    content = decode_repaired(raw)
    return [detail for detail in content if isinstance(detail, dict)] if isinstance(content, list) else []
