"""The capabilities of one model."""

from msgspec import Struct


class ModelCapabilities(Struct, frozen=True, kw_only=True):
    """The capabilities of one model. The defaults hold for unknown models."""

    context_window: int = 128_000
    """Tokens of input and output together."""
    max_input: int | None = None
    """Tokens of input alone. None: the whole context window."""
    max_output: int = 8_192
    """Tokens of one reply."""
    efforts: tuple[str, ...] = ()
    """Supported levels of: none, minimal, low, medium, high, xhigh, max. Empty: effort is unsupported."""
    default_effort: str | None = None
    """Level of a request without a level. None: unknown."""
    accepts_images: bool = False
    accepts_pdf: bool = False
    tools: bool = True
    known: bool = False
    """False: fallback values of an unknown model."""
    stated_window: int | None = None
    """Window that an error of the server stated; it takes precedence over the table. None: not stated."""
    stated_output: int | None = None
    """Output limit that an error of the server stated. None: not stated."""
    rejects_images: bool = False
    """True if an error of the server stated so."""
    rejects_documents: bool = False
    """True if an error of the server stated so."""
