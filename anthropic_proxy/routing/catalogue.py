"""What is known about models: windows, limits, abilities (`models.toml`), and what providers said that they have."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What one model can do; the fallback row where nothing is known."""

    window: int = 128_000
    """Tokens of input and output together."""
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


class Catalogue:
    """Looks models up; made anew at a reload.

    `listings`: provider name → the ids that it said it has, the largest model first; a provider that did not answer, or
    was not asked, is absent.
    """

    def __init__(self, listings: Mapping[str, Sequence[str]] | None = None) -> None:
        self._listings = listings or {}
        self._found: dict[tuple[str, str], ModelFacts] = {}

    def listing(self, provider: str) -> Sequence[str] | None:
        """Return the ids that a provider said it has, the largest model first; None: it said nothing."""
        return self._listings.get(provider)

    def find(self, provider: str, model: str) -> ModelFacts:
        """Return the facts of the row with the longest matching start, or the provider's fallback."""
        facts = self._found.get((provider, model))
        if facts is None:
            facts = _look_up(provider, model)
            if len(self._found) < _MOST_REMEMBERED:  # clients may ask for any name
                self._found[provider, model] = facts
        return facts


def load_catalogue(ollama_models: Sequence[str] | None = None) -> Catalogue:
    """Return what is known at start; `ollama_models`: what Ollama has, the largest first, None: it does not answer."""
    return Catalogue({} if ollama_models is None else {"ollama": tuple(ollama_models)})


_MOST_REMEMBERED = 4096
_FILE = Path(__file__).with_name("models.toml")


def _look_up(provider: str, model: str) -> ModelFacts:
    rows, fallback = _load_rows().get(provider, ((), ModelFacts()))
    # dates and `-latest` stand at the end, so a match by the start passes over them
    name = model.lower().removeprefix("models/").removeprefix("ft:")
    for start, facts in rows:
        if name.startswith(start):
            return facts
    vendor, slash, rest = name.partition("/")
    return _look_up(provider, rest) if slash and vendor == provider else fallback


@cache
def _load_rows() -> dict[str, tuple[tuple[tuple[str, ModelFacts], ...], ModelFacts]]:
    """Return provider → rows, the longest start first, and its fallback. Read at the first request, not at start."""
    import tomllib  # noqa: PLC0415  # for the same reason

    tables: dict[str, dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    loaded = {}
    for provider, table in tables.items():
        rows = {
            start: msgspec.convert({**row, "known": True}, ModelFacts)
            for row in table.get("models", ())
            for start in row.pop("starts")
        }
        longest_first = sorted(rows.items(), key=lambda item: -len(item[0]))
        fallback = msgspec.convert(table.get("fallback", {}), ModelFacts)
        for name in (provider, *table.get("also", ())):
            loaded[name] = (tuple(longest_first), fallback)
    return loaded
