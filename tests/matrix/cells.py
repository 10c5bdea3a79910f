"""Fate of each feature at each backend, from the output and the notes of the real preparation and the real encoder."""

import functools
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.exchange.image_describing import IMAGE_MARK, note_description
from anthropic_proxy.engine.messages.documents import PDF_MARK, PdfContent, PdfPage, as_text_document, is_pdf
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.foreign_text import enclose_description
from anthropic_proxy.engine.messages.media import MediaBlock, replace_media
from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    TextBlock,
    decode_request_or_envelope,
    json_string,
)
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.routing.targets import Target, build_target_limits
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.thinking import ReasoningState, encode_signature
from anthropic_proxy.errors import ClientError
from tests.matrix.backends import ASKED, Backend

Fate = Literal["native", "hint", "emulated", "approximated", "dropped", "refused"]
FATES: tuple[Fate, ...] = ("native", "hint", "emulated", "approximated", "dropped", "refused")
"""From the best to the worst. `hint`: the backend receives nothing, and nothing is lost with it."""
OWN_SIGNATURE = "px1.own"
"""In a sample: a signature that the backend itself wrote."""


class Feature(Struct, frozen=True, eq=False, kw_only=True, forbid_unknown_fields=True):
    """A row of `features.toml`, which explains the fields. Equal only to itself."""

    name: str
    title: str
    request: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    uses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hint: str = ""
    shows: tuple[str, ...] = ()
    tests: dict[Fate, str] = {}

    @property
    def is_of_replies(self) -> bool:
        """Return whether scenarios show it, and no request asks for it."""
        return bool(self.shows)


class Group(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the matrix."""

    title: str
    feature: tuple[Feature, ...]


class Cell(Struct, frozen=True):
    """Fate of one feature at one backend, and the reason."""

    fate: Fate
    reasons: tuple[str, ...] = ()
    shared: bool = False
    """True if the steps before any language decide it, so that it is the same in all of them."""


class Unsaid(AssertionError):
    """A field that no backend receives and no note mentions: a gap in the notes."""


@functools.cache
def load_groups() -> tuple[Group, ...]:
    """Return the rows, by tables."""
    data = tomllib.loads(Path(__file__).with_name("features.toml").read_text("utf-8"))
    return msgspec.convert(data["group"], tuple[Group, ...])


def features() -> list[Feature]:
    """Return all rows."""
    return [feature for group in load_groups() for feature in group.feature]


@functools.cache
def cell_of(feature: Feature, backend: Backend) -> Cell:
    """Return the treatment of the feature's sample by the code. Raises `Unsaid`."""
    target = backend.target()
    if feature.name in _BESIDE:
        return _BESIDE[feature.name](target)
    if target.is_relayed:
        return Cell("native")
    try:
        request, read = with_read_documents(sample(feature.request, target), target)
        before = [*read, *prepare(request, build_target_limits(target, has_web_fetch=True)).notes]
    except ClientError as error:
        return Cell("refused", (error.message,), shared=True)
    try:
        notes, body = encode_upstream(request, target)
        notes = [*read, *notes]
    except ClientError as error:
        return Cell("refused", (error.message,))
    known, plain = encode_upstream(sample(feature.plain, target), target)
    notes = [note for note in notes if note not in known]
    if body == plain and not notes:
        if not feature.hint:
            raise Unsaid(f"{feature.name}: {backend.title} is told nothing of it, and no note says so")
        return Cell("hint", (feature.hint,))
    fate = worst_of(notes)
    shared = fate != "native" and worst_of(note for note in before if note in notes) == fate
    return Cell(fate, tuple(dict.fromkeys(note.reason for note in notes)), shared)


def _count(target: Target) -> Cell:
    provider, paths = target.provider, target.dialect.count_paths
    if not paths and target.base_url == provider.base_url:  # OpenAI counts over Responses, for any model
        paths = next(
            (config.dialect.count_paths for config in provider.wires.values() if config.dialect.count_paths), ()
        )
    if (target.is_relayed and target.dialect.has_count_tokens) or len(paths) == 1:
        return Cell("native")
    if paths:
        return Cell("approximated", ("llama.cpp and vLLM count; for other servers, an estimate",))
    return Cell("approximated", ("estimated here; the model's own counts correct the estimate",))


def _warm_up(target: Target) -> Cell:
    return Cell("native" if target.is_relayed else "emulated", ("answered here, without output",))


_BESIDE = {"count_tokens": _count, "warm_up": _warm_up}
"""Features that no encoder sees."""


def worst_of(notes: Iterable[FidelityNote]) -> Fate:
    """Return the fate that these notes describe together."""
    fates: list[Fate] = [note.handling for note in notes if note.handling != "kept"]
    return max(fates, key=FATES.index, default="native")


def concerns(note: FidelityNote, fields: Sequence[str]) -> bool:
    """Return whether a note is about one of these fields, or something below it."""
    return any(note.field == field or note.field.startswith((f"{field}.", f"{field}[")) for field in fields)


def sample(fields: dict[str, Any], target: Target) -> MessagesRequest:
    """Return a plain request with these fields."""
    body = {"model": ASKED, "max_tokens": 32_400, "messages": [{"role": "user", "content": "Hello"}], **fields}
    text = msgspec.json.encode(body).decode().replace(OWN_SIGNATURE, _signature_of(target))
    request = decode_request_or_envelope(text.encode())
    if request.decode_error is not None:
        raise request.decode_error
    request.citation_key = b"matrix"
    return request


def with_read_documents(request: MessagesRequest, target: Target) -> tuple[MessagesRequest, list[FidelityNote]]:
    """Return the request as the steps before the preparation leave it: PDFs are read for models that accept none, and
    pictures are described for models that do not see.
    """
    notes = list[FidelityNote]()
    content = PdfContent([PdfPage("Deed")])

    def replace(block: MediaBlock) -> Sequence[Block]:
        is_read = isinstance(block, DocumentBlock) and is_pdf(block)
        return (as_text_document(block, content, notes) if is_read else block,)

    def describe(block: MediaBlock) -> Sequence[Block]:
        if not isinstance(block, ImageBlock) or block.source.type != "base64":
            return (block,)
        notes.append(note_description("messages.image", "the model of [images]"))
        return (TextBlock(json_string(enclose_description("A deed"))),)

    limits = build_target_limits(target)
    if not limits.accepts_pdf:
        request = replace_media(request, PDF_MARK, replace)
    if not limits.accepts_images:
        request = replace_media(request, IMAGE_MARK, describe)
    return request, notes


def encode_upstream(request: MessagesRequest, target: Target) -> tuple[list[FidelityNote], bytes]:
    """Return the notes on a request and its body as it goes upstream."""
    prepared = prepare(request, build_target_limits(target, has_web_fetch=True))
    upstream = target.wire.encode_request(
        TranslatedCall(
            request=prepared.request,
            model=target.model,
            dialect=target.dialect,
            streams_upstream=request.stream,
            client_tool_names=prepared.aliases,
            new_id=lambda prefix: f"{prefix}1",
            provider_prefix=target.provider.prefix,
            base_url=target.base_url,
            context_window=target.capabilities.context_window if target.capabilities.known else None,
        )
    )
    return [*prepared.notes, *upstream.notes], upstream.body


def wire_name(target: Target) -> str:
    """Return the language that a target is spoken to in, as `tests/golden` names it."""
    return type(target.wire).__module__.rpartition(".")[2]


def _signature_of(target: Target) -> str:
    carries = {
        "openai_responses": ReasoningState(item_id="rs_1", encrypted="gAAA"),
        "gemini": ReasoningState(call_signature="c2ln"),
        "openai_chat": ReasoningState(replay=1, encrypted='[{"type":"reasoning.text","text":"Add them"}]'),
    }
    return encode_signature(
        getattr(target.dialect, "signature_tag", ""), carries.get(wire_name(target), ReasoningState())
    )
