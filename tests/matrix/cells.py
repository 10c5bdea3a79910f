"""What becomes of a feature at a backend, read off what the real preparation and the real encoder say and note."""

import functools
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import ClientError
from anthropic_proxy.exchange.attempts import limits_of
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import prepare
from anthropic_proxy.messages.types import MessagesRequest, decode_request, read_request
from anthropic_proxy.routing.router import Target
from anthropic_proxy.wire.carry import Carry, encode_carry
from anthropic_proxy.wire.contract import Call, relays
from tests.matrix.backends import ASKED, BACKENDS, Backend

Fate = Literal["native", "ignored", "emulated", "approximated", "dropped", "refused"]
FATES: tuple[Fate, ...] = ("native", "ignored", "emulated", "approximated", "dropped", "refused")
"""From the best to the worst; `ignored`: the backend is told nothing, and nobody says so."""
OWN_SIGNATURE = "px1.own"
"""In a sample: a signature that the backend itself wrote."""


class Feature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of `features.toml`, which says what the fields mean."""

    name: str
    title: str
    request: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    hint: str = ""
    shows: str = ""
    tests: tuple[str, ...] = ()


class Group(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the matrix."""

    title: str
    feature: tuple[Feature, ...]


class Cell(Struct, frozen=True):
    """What becomes of one feature at one backend, and why."""

    fate: Fate
    reasons: tuple[str, ...] = ()


@functools.cache
def load_groups() -> tuple[Group, ...]:
    """Return the rows, by tables."""
    data = tomllib.loads(Path(__file__).with_name("features.toml").read_text("utf-8"))
    return msgspec.convert(data["group"], tuple[Group, ...])


def features() -> list[Feature]:
    """Return all rows."""
    return [feature for group in load_groups() for feature in group.feature]


def cell_of(feature: Feature, backend: Backend) -> Cell:
    """Return what the code does with the feature's sample there."""
    target = backend.target()
    if relays(target.wire):
        return Cell("native")
    try:
        notes, body = said(sample(feature.request, target), target)
    except ClientError as error:
        return Cell("refused", (error.message,))
    known, plain = said(sample(feature.plain, target), target)
    notes = [note for note in notes if note not in known]
    return Cell(worst(notes, same_body=body == plain), tuple(dict.fromkeys(note.reason for note in notes)))


def worst(notes: list[Note], *, same_body: bool = False) -> Fate:
    """Return the fate that these notes tell together."""
    fates: list[Fate] = [note.fate for note in notes if note.fate != "kept"]
    if not notes and same_body:
        return "ignored"
    return max(fates, key=FATES.index, default="native")


def sample(fields: dict[str, Any], target: Target) -> MessagesRequest:
    """Return a plain request with these fields."""
    body = {"model": ASKED, "max_tokens": 1024, "messages": [{"role": "user", "content": "Hello"}], **fields}
    text = msgspec.json.encode(body).decode().replace(OWN_SIGNATURE, _signature_of(target))
    request = read_request(text.encode())
    if request.refusal is not None:
        raise request.refusal
    return request


def said(request: MessagesRequest, target: Target) -> tuple[list[Note], bytes]:
    """Return the notes on a request and its body as it goes upstream."""
    prepared = prepare(request, limits_of(target))
    upstream = target.wire.encode_request(
        Call(
            request=prepared.request,
            model=target.model,
            dialect=target.dialect,
            stream=request.stream,
            aliases=prepared.aliases,
            new_id=lambda prefix: f"{prefix}1",
            provider=target.provider.name,
            window=target.facts.window if target.facts.known else None,
        )
    )
    return [*prepared.notes, *upstream.notes], upstream.body


def _signature_of(target: Target) -> str:
    tag = getattr(target.dialect, "carry_tag", "")
    carries = {
        "openai_responses": Carry(item="rs_1", encrypted="gAAA"),
        "gemini": Carry(call_signature="c2ln"),
        "openai_chat": Carry(replay=1, encrypted='[{"type":"reasoning.text","text":"Add them"}]'),
    }
    return encode_carry(tag, carries.get(target.wire.__name__.rpartition(".")[2], Carry()))  # type: ignore[attr-defined]


def all_cells() -> dict[tuple[str, str], Cell]:
    """Return every cell, by the names of its row and its column."""
    return {(feature.name, backend.title): cell_of(feature, backend) for feature in features() for backend in BACKENDS}


__all__ = ["Cell", "Fate", "Feature", "Group", "all_cells", "cell_of", "decode_request", "features", "load_groups"]
