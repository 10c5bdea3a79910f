"""What `models.toml` says."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from anthropic_proxy.routing.catalogue.facts import ModelFacts

_FILE = Path(__file__).parent.with_name("models.toml")


def find_in_table(provider: str, model: str) -> ModelFacts:
    """Return the facts of the row with the longest matching start, or the provider's fallback."""
    rows, fallback = _load_rows().get(provider, ((), ModelFacts()))
    # dates and `-latest` stand at the end, so a match by the start passes over them
    name = model.lower().removeprefix("models/").removeprefix("ft:")
    for start, facts in rows:
        if name.startswith(start):
            return facts
    vendor, slash, rest = name.partition("/")
    return find_in_table(provider, rest) if slash and vendor == provider else fallback


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
