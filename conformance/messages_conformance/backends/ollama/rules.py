"""Ollama's rules on a chat request. It passes over fields that it does not know."""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.ollama.shapes import check
from messages_conformance.backends.wire import IMAGE_BEGINNINGS, ContractViolation


def check_format(format_: Any) -> Iterator[ContractViolation]:
    if format_ is not None and format_ != "json" and not isinstance(format_, dict):
        text = f'invalid format: "{format_}"; expected "json" or a valid JSON Schema object'
        yield ContractViolation("format", text, "format")


def check_images(message: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    """Yield the images of a message that cannot be read."""
    for picture in message.get("images") or ():
        try:
            data = base64.b64decode(picture, validate=True)
        except binascii.Error:
            yield ContractViolation("image", "illegal base64 data at input byte 4", f"{where}.images")
            continue
        if not data.startswith(tuple(IMAGE_BEGINNINGS.values())):
            yield ContractViolation("image", "image: unknown format", f"{where}.images")


def check_body(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield every rule that a chat request breaks; the real server would name the first."""
    if not body.get("model"):
        yield ContractViolation("missing", "model is required", "model")
    shapes = [breach for breach in check(body, "ChatRequest", "ChatRequest") if breach.rule not in _PASSED_OVER]
    yield from shapes
    if shapes:
        return
    yield from check_format(body.get("format"))
    for position, message in enumerate(body.get("messages") or ()):
        yield from check_images(message, f"messages[{position}]")


_PASSED_OVER = ("unknown_field", "missing")
