"""The facts of one model."""

from msgspec import Struct


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What one model can do; the fallback row where nothing is known."""

    window: int = 128_000
    """Tokens of input and output together."""
    max_input: int | None = None
    """Tokens of input alone, where they are fewer than the window; None: as many."""
    max_output: int = 8_192
    """Tokens that one reply may have."""
    efforts: tuple[str, ...] = ()
    """Levels that it knows, of none, minimal, low, medium, high, xhigh, max; empty: none can be asked for."""
    default_effort: str | None = None
    """What it does when no level is sent; None: not known."""
    vision: bool = False
    pdf: bool = False
    tools: bool = True
    known: bool = False
    """False: these are the fallback's numbers."""
