"""The thought signatures that a stand-in gave, and whether one that comes back is where it belongs."""

import base64
import random
from typing import Any

PLACEHOLDER = "skip_thought_signature_validator"


def decode(signature: str) -> bytes:
    """Return a signature's bytes; both alphabets of base64 are taken. Raises `ValueError`."""
    return base64.b64decode(signature.replace("-", "+").replace("_", "/"), validate=True)


class Signatures:
    """Signatures given so far."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.given: dict[bytes, tuple[str, str]] = {}
        """Signature → the model, and the function of the call it belongs to; "": a text."""
        self.own_parts: list[dict[str, Any]] = []
        """Parts about the provider's own tools, which come back unchanged."""
        self.beside: dict[str | None, list[dict[str, Any]]] = {}
        """Id of a function call → these parts of its reply."""
        self.returned: list[str] = []
        """Those that came back, as they were written."""

    def give(self, model: str, function: str = "") -> str:
        signature = b"\x12" + self._chance.randbytes(90)
        self.given[signature] = (model, function)
        return base64.b64encode(signature).decode()

    def knows(self, signature: str, model: str, function: str) -> bool:
        """Return whether a signature is one that this model gave for such a part, or the placeholder for a call."""
        if signature == PLACEHOLDER:
            return bool(function)
        try:
            raw = decode(signature)
        except ValueError:
            return False
        self.returned.append(signature)
        return self.given.get(raw) == (model, function)
