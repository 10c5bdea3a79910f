"""Sources of the cells that state a fact about a backend: it accepts a field, or has none."""

import functools
import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.matrix.backends import Backend
from tests.matrix.cells import Cell, Fate, Feature, wire_name
from tests.matrix.proofs import load_proofs, place_of

CLAIMS: tuple[Fate, ...] = ("native", "dropped")
"""Fates that state something about a backend. The others state only the behavior of the proxy."""


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of `sources.toml`."""

    backends: tuple[str, ...]
    page: str
    read: str
    accepts: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


@functools.cache
def load_sources() -> tuple[Source, ...]:
    """Return the entries of `sources.toml`."""
    data = tomllib.loads(Path(__file__).with_name("sources.toml").read_text("utf-8"))
    return msgspec.convert(data["source"], tuple[Source, ...])


def is_sourced(feature: Feature, backend: Backend, cell: Cell) -> bool:
    """Return True if a source states the fact of a cell about its backend, or if the cell states none."""
    target = backend.target()
    if cell.fate not in CLAIMS or feature.is_of_replies or wire_name(target) == "anthropic":
        return True
    if any(
        backend.title in source.backends and feature.name in (source.accepts if cell.fate == "native" else source.lacks)
        for source in load_sources()
    ):
        return True
    return any(
        place_of(proof.scenario.target) == place_of(target)
        and proof.scenario.target.model == target.model
        and proof.scenario.fields["source"] != "written by hand"
        and (there := proof.cell_of(feature)) is not None
        and there.fate == cell.fate
        for proof in load_proofs().get(feature.name, ())
    )
