"""Who sent telemetry (OTLP): `name_sender` writes it into metrics, logs and traces, in place of what the client says.

Claude Code states its user itself, and repeats it in each data point. So what names a person is removed from all lists
of attributes, and the names of `build_attributes` are set in each resource, data point, log record and span.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.console.gateway_protocol.protobuf import BYTES_TYPE, TOO_MANY_PARTS, FieldReader
from anthropic_proxy.console.ledger.users import find_address
from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.plugins import Client

SOURCE = "anthropic-proxy"
MAX_NAMED = 10_000
"""Maximum number of resources, data points, records and spans of a message. A small message can have millions of empty
ones, each of which gets attributes."""
MAX_ADDED_BYTES = 4 * 1024 * 1024
"""Maximum size of all attributes that are added to a message. Those of a service can have many groups."""
_NAMES = ("identity.source", "user.id", "user.email", "user.groups", "user.team", "user.cost_center")
_PERSONAL = frozenset({"user", "enduser", "identity"})
"""First words of the names of attributes about a person (opentelemetry.io/docs/specs/semconv/registry, "user" and
"enduser"; `identity.source` is of Claude Code)."""
_PERSONAL_WORD = compile_later(rb"user|identity", re.IGNORECASE)
"""Each of them has one of these."""
_OLD_SCOPES = 1_000
"""Field of the scopes in version 0.15 of OTLP. The OpenTelemetry Collector reads it if there are no others (`Migrate…`
in its package `pdata/internal/otlp`, read 2026-11)."""


class _Node(Struct, frozen=True):
    """A message in protobuf, by the numbers of its fields."""

    attributes: int = 0
    """The field with its attributes. 0: none."""
    is_named: bool = False
    """True if the sender is added to the attributes."""
    children: Mapping[int, "_Node"] = {}


def _points(attributes: int, exemplars: int = 0) -> _Node:
    return _Node(children={1: _Node(attributes, is_named=True, children={exemplars: _Node(7)} if exemplars else {})})


def _telemetry(item: _Node) -> _Node:
    """Resources, in these scopes, and in these items."""
    scopes = _Node(children={1: _Node(3), 2: item})
    resource = {1: _Node(1, is_named=True), 2: scopes, _OLD_SCOPES: scopes}
    return _Node(children={1: _Node(children=resource)})


_MESSAGES: Mapping[str, _Node] = {
    "metrics": _telemetry(
        _Node(12, children={5: _points(7, 5), 7: _points(7, 5), 9: _points(9, 8), 10: _points(1, 11), 11: _points(7)})
    ),
    "logs": _telemetry(_Node(6, is_named=True)),
    "traces": _telemetry(_Node(9, is_named=True, children={11: _Node(3), 13: _Node(4)})),
}
"""Kind of telemetry → its message. Source: opentelemetry-proto 1.10, `metrics.proto`, `logs.proto`, `trace.proto`,
`common.proto` and `resource.proto` (read 2026-11-27)."""
_JSON_ATTRIBUTES = frozenset({"attributes", "filteredAttributes", "filtered_attributes", "metadata"})
"""Fields of OTLP in JSON with attributes. Servers accept both spellings."""
_JSON_PARENTS = frozenset({"resource", "dataPoints", "data_points", "logRecords", "log_records", "spans"})
"""Fields whose objects name the sender."""


def build_attributes(client: Client) -> Mapping[str, str]:
    """Return the facts about the sender that the proxy knows. The name of the key stands for a missing owner."""
    person = client.owner or client.name
    address = find_address(person) if "@" in person else ""
    values = (SOURCE, person, address, ",".join(client.groups), client.team, client.cost_center)
    return {name: value for name, value in zip(_NAMES, values, strict=True) if value}


def name_sender(kind: str, body: bytes, attributes: Mapping[str, str], *, is_json: bool) -> bytes:
    """`kind`: `metrics`, `logs` or `traces`. Raises `ValueError` for a body that is not valid OTLP."""
    if is_json:
        added = [{"key": name, "value": {"stringValue": value}} for name, value in attributes.items()]
        decoded = decode_json(body)
        try:
            if _edit_json(decoded, added) > _find_max_named(msgspec.json.encode(added)):
                raise ValueError(TOO_MANY_PARTS)
        except RecursionError:
            raise ValueError("the message is nested too deeply") from None
        return msgspec.json.encode(decoded)
    encoded = [
        _encode_field(1, name.encode()) + _encode_field(2, _encode_field(1, value.encode()))
        for name, value in attributes.items()
    ]
    return _Editor(encoded).edit(body, _MESSAGES[kind])


def _find_max_named(*attributes: bytes) -> int:
    """Return the maximum number of objects that get these attributes."""
    return min(MAX_NAMED, MAX_ADDED_BYTES // max(1, sum(map(len, attributes))))


def _edit_json(value: Any, added: list[Any], parent: str = "") -> int:
    """Return the number of objects that name the sender now."""
    count = 0
    if isinstance(value, list):
        for item in value:
            count += _edit_json(item, added, parent)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in _JSON_ATTRIBUTES:
                given = item if isinstance(item, list) else []
                value[name] = [
                    attribute
                    for attribute in given
                    if not (isinstance(attribute, dict) and is_personal(attribute.get("key")))
                ]
            else:
                count += _edit_json(item, added, name)
        if parent in _JSON_PARENTS:
            value["attributes"] = [*value.get("attributes", ()), *added]
            count += 1
    return count


def is_personal(name: Any) -> bool:
    return isinstance(name, str) and name.partition(".")[0].strip().lower() in _PERSONAL


class _Editor:
    """Edits one message in protobuf. Raises `ValueError` as `FieldReader`, and for too many names."""

    def __init__(self, attributes: Sequence[bytes]) -> None:
        self._attributes = attributes
        self._max_named = _find_max_named(*attributes)
        self._fields = FieldReader()
        self._named = 0

    def edit(self, message: bytes, node: _Node) -> bytes:
        pieces = []
        for number, piece, content in self._fields.split(message):
            if content is not None:
                if number == node.attributes:
                    if self._is_personal(content):
                        continue
                elif (child := node.children.get(number)) is not None:
                    pieces.append(_encode_field(number, self.edit(content, child)))
                    continue
            pieces.append(piece)
        if node.is_named:
            self._named += 1
            if self._named > self._max_named:
                raise ValueError(TOO_MANY_PARTS)
            pieces += [_encode_field(node.attributes, attribute) for attribute in self._attributes]
        return b"".join(pieces)

    def _is_personal(self, attribute: bytes) -> bool:
        """Of a repeated field, the last one counts."""
        if not _PERSONAL_WORD.search(attribute):
            return False
        fields = self._fields.split(attribute)
        names = [content for number, _, content in fields if number == 1 and content is not None]
        return bool(names) and is_personal(names[-1].decode("utf-8", "replace"))


def _encode_field(number: int, content: bytes) -> bytes:
    return _encode_number(number << 3 | BYTES_TYPE) + _encode_number(len(content)) + content


def _encode_number(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))
