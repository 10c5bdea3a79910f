"""The type of the table's rows, and groups of wires."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from tests.growth.measure import Build

TRANSLATED = ("server", "responses", "gemini", "ollama")
"""Wires with translated requests and replies."""
EVERY = (*TRANSLATED, "relay")
"""One wire of each kind."""
RECOVERING = ("server", "ollama")
"""Wires with replies that are searched for tool calls in text."""
CHECKED = ("groq",)
"""A wire with structured replies that the proxy checks."""
NO_WIRE = ("-",)
"""Stands for a part that all wires share."""


class Row(Struct, frozen=True):
    """One dimension of input and the wires that it affects."""

    name: str
    wires: Sequence[str]
    of_wire: Callable[[str], Build]
    n: int = 200
    """The size of the input; also measured: 2n and 4n."""
