"""Which fields of a body are those of the Messages API, and which models it names beside `model`.

A server behind a relay may be a gateway, which reads further fields: of routing, or lists of models. A client with
rules could name there what its rules exclude. So only the fields of the API are sent for such a client, at each depth.
`api_fields.json` has them: it is written from the types of the official SDK, and a test compares both. Fields that the
SDK does not have, with their source, are in `_FURTHER_FIELDS`.

Theory of operation. An object of the API is a place, such as `messages.content`, whatever its type is: a block may have
each field that some block has. Nearly all bodies have only known fields and name no other model. One decoding shows
this, in which each place is a struct without further fields (`_build_decoder`). Any other body is read and written
place by place (`_Reader`): without other fields, and with each field once, because servers read another one of two
values. A value that is no place, such as a text, has no objects; only schemas and the input of a tool have any content,
which is not read. Each field `model`, except those of the request and of earlier replies, names a model that the
provider may call in addition.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import require_bounded_members
from anthropic_proxy.engine.messages.models.client_json import read_with_source
from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.anthropic import json_spans

Places = Mapping[str, Mapping[str, str]]
_ANY, _MAP = "*", "{}"
"""Value of a field with any content, and the beginning of that of a field with keys of the client's own."""
_FURTHER_FIELDS: Places = {
    "": {
        # no longer in the types of the SDK, and still sent by clients
        **dict.fromkeys(("temperature", "top_k", "top_p"), ""),
        "output_format": "output_config.format",  # of the beta structured-outputs-2025-11-13
        **dict.fromkeys(("anthropic_beta", "anthropic_version"), ""),  # fields of clouds (docs.aws.amazon.com/bedrock)
        "safeguards": "safeguards",
    },
    "safeguards": {"type": "", "classifier_context": _ANY},  # auto mode of Claude Code 2.1.332
    "cache_control": {"scope": ""},  # of the beta prompt-caching-scope-2026-01-05 (Claude Code 2.1.332)
    "messages.content": {"connector_text": ""},  # platform.claude.com, "Refusals and fallback", read 2026-11
}
_MODEL, _FALLBACKS = "model", "fallbacks"
_OTHER_MODELS = frozenset(("", "messages.content.from"))
"""Places whose field `model` is that of the request, or of an earlier reply."""
_NO_FIELD = "no field of the Messages API; the rules or the budget of this key allow only these"
_NO_MODEL = "names no model, so the rules and the budget of this key cannot be applied to it"
_MAX_NOTES, _MAX_NAME = 50, 100
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_elements = msgspec.json.Decoder(list[Raw]).decode
_ABSENT_VALUES = (ABSENT, Raw(b"null"))
_OBJECT = compile_anchored(rb'(?:[^"{]++|"(?:[^"\\]++|\\.)*+")*+\{')
"""Matches a JSON text up to the beginning of its first object, which is in no string."""


class NamedModel(Struct, frozen=True):
    """A model that a body names beside `model`, and that the provider may call in addition."""

    field: str
    """Place in the body: `tools.0.model`."""
    model: str
    tool_type: str = ""
    """Type of the tool that names it. "": a tool of the client, or a fallback."""
    max_tokens: int | None = None
    """Output limit of one call. None: that of the model."""
    max_uses: int | None = None
    """Maximum number of calls of the tool. None: no limit of the client."""
    is_fast: bool = False

    @property
    def is_fallback(self) -> bool:
        return self.field.startswith(_FALLBACKS)


class ApiBody(Struct, frozen=True):
    """A body with the fields of the API only."""

    body: bytes
    """The bytes of the client, if it has no other fields."""
    named_models: Sequence[NamedModel] = ()
    notes: Sequence[FidelityNote] = ()
    """One for each name of a field that was left out."""


def keep_api_fields(body: bytes) -> ApiBody:
    """Return a request body without fields that are not those of the Messages API, and the models that it names.

    Raises `InvalidRequest` for a body that is not JSON, which could not be compared.
    """
    kept, source = read_with_source(body, _keep_fields)
    return kept or ApiBody(source)


def _keep_fields(body: bytes) -> ApiBody | None:
    """None: the body has no other fields, and names no further model."""
    require_bounded_members(body)
    json_spans.find_members(body)  # raises an error for a repeated field, of which servers read another one
    try:
        _build_decoder().decode(body)
    except msgspec.ValidationError:
        reader = _Reader()
        kept = reader.keep_fields(Raw(body.strip()), "", ())
        return ApiBody(bytes(kept), reader.named_models, [*reader.notes.values()])
    return None


@cache
def load_places() -> Places:
    """Return the fields of each object: name → place of its value; "": no object."""
    listed = msgspec.json.decode(Path(__file__).with_name("api_fields.json").read_bytes(), type=dict[str, Any])
    places = {*listed, *_FURTHER_FIELDS}
    return {place: {**listed.get(place, {}), **_FURTHER_FIELDS.get(place, {})} for place in places}


@cache
def _build_decoder() -> msgspec.json.Decoder[Any]:
    """Return a decoder that raises `ValidationError` for a body with other fields, or with one that names a model."""
    places, built = load_places(), dict[str, Any]()

    def build_value(place: str) -> Any:
        """Return the type of a value of any JSON type, of whose objects only the fields of the place are accepted. ""
        is the place of a value without objects.
        """
        if place == _ANY:
            return Raw
        scalar = str | int | float | bool | None
        if place == "":
            return scalar | list[scalar]
        kind = build_object(place)
        items: Any = list[kind | scalar]  # type: ignore[valid-type]
        found: Any = dict[str, kind] if place.startswith(_MAP) else kind  # type: ignore[valid-type]
        return found | items | scalar

    def build_object(place: str) -> Any:
        place = place.removeprefix(_MAP)
        if place not in built:
            own = places[place].keys() - {_FALLBACKS if place == "" else "" if place in _OTHER_MODELS else _MODEL}
            names = {f"field_{number}": name for number, name in enumerate(sorted(own))}
            fields = [(field, build_value(places[place][name]), ABSENT) for field, name in names.items()]
            built[place] = msgspec.defstruct("Place", fields, rename=names, forbid_unknown_fields=True, gc=False)
        return built[place]

    return msgspec.json.Decoder(build_object(""))


class _NamingObject(Struct):
    type: Any = ""
    model: Any = None
    max_tokens: Any = None
    max_uses: Any = None
    speed: Any = None


class _Reader:
    """Reads one body place by place."""

    def __init__(self) -> None:
        self._places = load_places()
        self.named_models: list[NamedModel] = []
        self.notes: dict[str, FidelityNote] = {}

    def keep_fields(self, text: Raw, place: str, path: tuple[str | int, ...]) -> Raw:
        """Return the value at a place without other fields. `path`: its keys and indexes in the body."""
        first = _read_first_byte(text)
        if first == b"[":
            elements = enumerate(_decode_elements(text))
            return Raw(msgspec.json.encode([self.keep_fields(each, place, (*path, index)) for index, each in elements]))
        if first != b"{":
            return text
        members = _decode_members(text)
        if place.startswith(_MAP):
            fields: Mapping[str, str] = dict.fromkeys(members, place.removeprefix(_MAP))
        else:
            fields = self._places[place]
        found: dict[str, Raw] = {}
        for name, value in members.items():
            below = fields.get(name)
            if below is None or (below == "" and _OBJECT.match(value)):
                self._note((*path, name), _NO_FIELD)
            elif (place, name) == ("", _FALLBACKS):
                if (fallbacks := self._keep_fallbacks(value)) is not None:
                    found[name] = fallbacks
            else:
                found[name] = value if below in ("", _ANY) else self.keep_fields(value, below, (*path, name))
        kept = Raw(msgspec.json.encode(found))
        if place not in _OTHER_MODELS and found.get(_MODEL, ABSENT) not in _ABSENT_VALUES:
            self._add_model(kept, path)
        return kept

    def _keep_fallbacks(self, text: Raw) -> Raw | None:
        """Return the fallbacks that name a model each. None: there are none.

        Others are names of models or of lists of them, which only gateways read (LiteLLM: `fallbacks: ["name"]`), or
        let the server choose.
        """
        if text in _ABSENT_VALUES:
            return text
        is_list = _read_first_byte(text) == b"["
        entries = _decode_elements(text) if is_list else [text]
        kept = {index: entry for index, entry in enumerate(entries) if _names_model(entry)}
        if len(kept) < len(entries):
            self._note((_FALLBACKS,), _NO_MODEL)
            if not kept:
                return None
        if not is_list:
            return self.keep_fields(text, _FALLBACKS, (_FALLBACKS,))
        objects = [self.keep_fields(entry, _FALLBACKS, (_FALLBACKS, index)) for index, entry in kept.items()]
        return Raw(msgspec.json.encode(objects))

    def _add_model(self, text: Raw, path: tuple[str | int, ...]) -> None:
        read = msgspec.json.decode(text, type=_NamingObject)
        self.named_models.append(
            NamedModel(
                field=".".join(map(str, (*path, _MODEL))),
                model=read.model if isinstance(read.model, str) else msgspec.json.encode(read.model).decode(),
                tool_type=str(read.type) if path[0] != _FALLBACKS else "",
                max_tokens=read.max_tokens if type(read.max_tokens) is int else None,
                max_uses=read.max_uses if type(read.max_uses) is int else None,
                is_fast=read.speed == "fast",
            )
        )

    def _note(self, path: tuple[str | int, ...], reason: str) -> None:
        field = ".".join(name[:_MAX_NAME] for name in path if isinstance(name, str))
        if len(self.notes) < _MAX_NOTES:
            self.notes.setdefault(field, FidelityNote("approximated", field, reason))


def _names_model(text: Raw) -> bool:
    return _read_first_byte(text) == b"{" and _decode_members(text).get(_MODEL, ABSENT) not in _ABSENT_VALUES


def _read_first_byte(text: Raw) -> bytes:
    return memoryview(text)[:1].tobytes()
