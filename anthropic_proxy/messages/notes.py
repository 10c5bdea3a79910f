"""The fidelity report's entries: what the translation could not keep as the client wrote it."""

from typing import Literal

from msgspec import Struct

Fate = Literal["approximated", "emulated", "dropped"]


class Note(Struct, frozen=True):
    """One thing that reaches the backend otherwise than asked.

    >>> Note("approximated", "max_tokens", "64000 → 32768, the model's limit")
    """

    fate: Fate
    field: str
    """Path in the request: `top_k`, `tools[7].name`."""
    reason: str
