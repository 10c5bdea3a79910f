"""The thought signatures that a stand-in gave, and whether one that comes back is where it belongs."""

import base64
import random
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.gemini.contents import Content, responses_of
from tests.support.fakes.gemini.models import Model
from tests.support.fakes.server import ContractViolation

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


def check_signatures(
    contents: list[Content], model: Model, name: str, signatures: Signatures
) -> Iterator[ContractViolation]:
    start = _start_of_turn(contents)
    for number, content in enumerate(contents):
        is_first = model.signs and number > start
        parts = content.get("parts") or []
        for part in parts:
            signature, call = part.get("thoughtSignature"), part.get("functionCall")
            if "toolCall" in part or "toolResponse" in part:
                is_first = False  # it has the signature of the step
                if part not in signatures.own_parts:
                    yield ContractViolation("own_tool", "Corrupted tool call.")
            for missing in signatures.beside.get((call or {}).get("id"), ()):
                if missing not in parts:
                    yield ContractViolation("own_tool", f"{next(iter(missing))} is missing beside {call}")
            if call is not None and is_first:
                is_first = False
                if not signature:
                    yield _missing(call["name"], number + 1)
            if signature and not signatures.knows(signature, name, call["name"] if call else ""):
                yield ContractViolation("signature", "Corrupted thought signature.")


def _missing(name: str, position: int) -> ContractViolation:
    text = (
        "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
        "correctly, and missing thought_signature may lead to degraded model performance. Additional data, function "
        f"call `default_api:{name}` , position {position}. Please refer to "
        "https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
    )
    return ContractViolation("signature_missing", text)


def _start_of_turn(contents: list[Content]) -> int:
    """Return the place of the last content that a person wrote: not responses, and nothing right after them."""
    start = 0
    for number, content in enumerate(contents):
        answers = bool(responses_of(content)) or (number > 0 and bool(responses_of(contents[number - 1])))
        if content.get("role") == "user" and not answers:
            start = number
    return start
