"""What Claude Code reports about its work in metrics (OTLP): lines, commits, decisions about edits, active time.

All other metrics are left out. Source of names and attributes: code.claude.com/docs/en/monitoring-usage, and requests
of Claude Code 2.1.330 (seen 2026-11-29).
"""

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from anthropic_proxy.console.gateway_protocol.protobuf import FieldReader, decode_bits
from anthropic_proxy.console.gateway_protocol.telemetry_identity import is_personal
from anthropic_proxy.console.ledger.activity import Measurement
from anthropic_proxy.console.units import DAY_SECONDS, MICROSECONDS
from anthropic_proxy.engine.json_decoding import decode_json

MAX_POINTS = 1_000
"""Maximum number of data points of a request that count. Claude Code sends about ten."""
_MAX_COUNT = 1_000_000
_MAX_TIME = DAY_SECONDS * MICROSECONDS
"""Maximum of one data point, so that no client can make sums exceed the numbers of the database."""
_MAX_TIMESTAMP = 2**63 - 1
_MAX_NAME_CHARACTERS = 200


class _Kind(NamedTuple):
    name: str
    """Field of `Activity`."""
    metric: str
    attribute: str = ""
    value: str = ""
    """What the attribute must say."""
    unit: int = 1
    maximum: int = _MAX_COUNT


_LINES = "claude_code.lines_of_code.count"
_DECISIONS = "claude_code.code_edit_tool.decision"
_TIME = "claude_code.active_time.total"
_KINDS = (
    _Kind("lines_added", _LINES, "type", "added"),
    _Kind("lines_removed", _LINES, "type", "removed"),
    _Kind("edits_accepted", _DECISIONS, "decision", "accept"),
    _Kind("edits_rejected", _DECISIONS, "decision", "reject"),
    _Kind("commits", "claude_code.commit.count"),
    _Kind("pull_requests", "claude_code.pull_request.count"),
    _Kind("user_microseconds", _TIME, "type", "user", MICROSECONDS, _MAX_TIME),
    _Kind("client_microseconds", _TIME, "type", "cli", MICROSECONDS, _MAX_TIME),
)
_METRICS = frozenset(kind.metric for kind in _KINDS)
_DELTA = (1, "AGGREGATION_TEMPORALITY_DELTA")
_CUMULATIVE = (2, "AGGREGATION_TEMPORALITY_CUMULATIVE")


class _Point(NamedTuple):
    metric: str
    resource: bytes
    """Hash of the attributes of its resource."""
    temporality: int | str
    attributes: Mapping[str, tuple[str, bytes]]
    """Key → text and encoded attribute. "": the value is no text."""
    start: int
    """Nanoseconds since the epoch, as `end`. 0: not stated."""
    end: int
    value: float


def read_measurements(body: bytes, *, is_json: bool) -> Sequence[Measurement]:
    """Return at most `MAX_POINTS`. Raises `ValueError` for a body that is not valid OTLP."""
    found = []
    try:
        for point in _list_json_points(body) if is_json else _list_points(body):
            if (one := _measure(point)) is not None:
                found.append(one)
                if len(found) == MAX_POINTS:
                    break
    except (OverflowError, struct.error) as error:
        raise ValueError(f"a number is not valid: {error}") from None
    return found


def _measure(point: _Point) -> Measurement | None:
    """Return None for a point that says nothing about work, or has no place in its series."""
    texts = {key: text for key, (text, _) in point.attributes.items()}
    kind = next(
        (one for one in _KINDS if one.metric == point.metric and texts.get(one.attribute, "") == one.value), None
    )
    # a sum since the start of the client is stated again and again, with the same start
    grows = point.temporality in _CUMULATIVE
    place = point.start if grows else point.end
    if kind is None or not (grows or point.temporality in _DELTA) or not 0 < place <= _MAX_TIMESTAMP:
        return None
    if not math.isfinite(point.value) or point.value <= 0:
        return None
    return Measurement(
        series=_hash([kind.name.encode(), point.resource], point.attributes),
        place=place,
        grows=grows,
        name=kind.name,
        value=min(round(point.value * kind.unit), kind.maximum),
        session=_find_name(texts, "session.id"),
        requested_model=_find_name(texts, "model"),
    )


def _hash(beginning: Sequence[bytes], attributes: Mapping[str, tuple[str, bytes]]) -> str:
    """The proxy itself writes who the sender is, so a change of its team must not change the hash."""
    own = sorted(encoded for key, (_, encoded) in attributes.items() if not is_personal(key))
    digest = hashlib.sha256()
    for part in (*beginning, *own):
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()[:32]


def _find_name(texts: Mapping[str, str], key: str) -> str:
    text = texts.get(key, "")
    return text if len(text) <= _MAX_NAME_CHARACTERS and text.isascii() and text.isprintable() else ""


class _JsonAttribute(Struct):
    key: str = ""
    value: dict[str, Any] = {}


class _JsonPoint(Struct, rename="camel"):
    attributes: Sequence[_JsonAttribute] = ()
    start_time_unix_nano: int | str = 0
    time_unix_nano: int | str = 0
    as_double: float | str = 0.0
    as_int: int | str = 0


class _JsonSum(Struct, rename="camel"):
    data_points: Sequence[_JsonPoint] = ()
    aggregation_temporality: int | str = 0
    is_monotonic: bool = False


class _JsonMetric(Struct):
    name: str = ""
    sum: _JsonSum | None = None


class _JsonScope(Struct):
    metrics: Sequence[_JsonMetric] = ()


class _JsonDescription(Struct):
    attributes: Sequence[_JsonAttribute] = ()


class _JsonResource(Struct, rename="camel"):
    resource: _JsonDescription | None = None
    scope_metrics: Sequence[_JsonScope] = ()


class _JsonRequest(Struct, rename="camel"):
    resource_metrics: Sequence[_JsonResource] = ()


def _list_json_points(body: bytes) -> Iterator[_Point]:
    for resource in decode_json(body, _JsonRequest).resource_metrics:
        described = resource.resource.attributes if resource.resource is not None else ()
        shared = _hash([], _list_json_attributes(described)).encode()
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            if metric.name not in _METRICS or metric.sum is None or not metric.sum.is_monotonic:
                continue
            for point in metric.sum.data_points:
                yield _Point(
                    metric.name,
                    shared,
                    metric.sum.aggregation_temporality,
                    _list_json_attributes(point.attributes),
                    int(point.start_time_unix_nano),
                    int(point.time_unix_nano),
                    float(point.as_double) or float(point.as_int),
                )


def _list_json_attributes(attributes: Sequence[_JsonAttribute]) -> Mapping[str, tuple[str, bytes]]:
    found = {}
    for attribute in attributes:
        text = attribute.value.get("stringValue")
        encoded = msgspec.json.encode((attribute.key, attribute.value))
        found[attribute.key] = (text if isinstance(text, str) else "", encoded)
    return found


def _list_points(body: bytes) -> Iterator[_Point]:
    """The numbers of fields are those of opentelemetry-proto 1.10."""
    fields = FieldReader()
    for resource in _select(fields, body, 1):
        described = [one for part in _select(fields, resource, 1) for one in _select(fields, part, 1)]
        shared = _hash([], _list_attributes(fields, described)).encode()
        for scope in _select(fields, resource, 2):
            for metric in _select(fields, scope, 2):
                yield from _list_points_of_metric(fields, metric, shared)


def _list_points_of_metric(fields: FieldReader, metric: bytes, resource: bytes) -> Iterator[_Point]:
    name = b"".join(_select(fields, metric, 1)).decode("utf-8", "replace")
    for total in _select(fields, metric, 7) if name in _METRICS else ():
        numbers = _read_numbers(fields, total)
        if not numbers.get(3):  # a sum that may fall
            continue
        for point in _select(fields, total, 1):
            values = _read_numbers(fields, point)
            as_double = struct.unpack("<d", values.get(4, 0).to_bytes(8, "little"))[0]
            as_int = struct.unpack("<q", values.get(6, 0).to_bytes(8, "little"))[0]
            attributes = _list_attributes(fields, _select(fields, point, 7))
            start, end = values.get(2, 0), values.get(3, 0)
            yield _Point(name, resource, numbers.get(2, 0), attributes, start, end, as_double or float(as_int))


def _select(fields: FieldReader, message: bytes, number: int) -> Iterator[bytes]:
    """Yield the texts and nested messages of a field."""
    return (content for found, _, content in fields.split(message) if found == number and content is not None)


def _read_numbers(fields: FieldReader, message: bytes) -> Mapping[int, int]:
    """Return number of a field → its bits. Of a repeated field, the last one counts."""
    return {number: decode_bits(piece) for number, piece, content in fields.split(message) if content is None}


def _list_attributes(fields: FieldReader, encoded: Iterable[bytes]) -> Mapping[str, tuple[str, bytes]]:
    found = {}
    for attribute in encoded:
        key = b"".join(_select(fields, attribute, 1)).decode("utf-8", "replace")
        value = b"".join(one for part in _select(fields, attribute, 2) for one in _select(fields, part, 1))
        found[key] = (value.decode("utf-8", "replace"), attribute)
    return found
