"""What is known about models: windows, limits, abilities."""

from msgspec import Struct


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What one model can do; the fallback row where nothing is known."""

    window: int = 128_000
    max_output: int = 8_192
    efforts: tuple[str, ...] = ()
    default_effort: str | None = None
    vision: bool = False
    pdf: bool = False
    tools: bool = True
    known: bool = False
    """False: these are the fallback's numbers."""


class Catalogue:
    """Looks models up in `models.toml`, then in what the providers' own listings said."""

    def find(self, provider: str, model: str) -> ModelFacts:
        """Return the facts of the longest matching row, or the provider's fallback."""
        raise NotImplementedError
