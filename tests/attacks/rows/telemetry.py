"""Telemetry of clients that states another sender."""

import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row
from tests.attacks.upstream import UpstreamCall, respond
from tests.faults.client import Answer
from tests.support.waiting import wait_for

_FORGED = "boss@example.com"
_NAMES = ("user.id", "user.email", "user.groups", "user.team", "identity.source", "enduser.id", "user", "identity")


def _pair(name: str = "user.email") -> dict[str, Any]:
    return {"key": name, "value": {"stringValue": _FORGED}}


def _logs(resource: Any = (), scope: Any = (), record: Any = ()) -> dict[str, Any]:
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": [*resource]},
                "scopeLogs": [
                    {"scope": {"name": "s", "attributes": [*scope]}, "logRecords": [{"attributes": [*record]}]},
                ],
            }
        ]
    }


def _spans(**fields: Any) -> dict[str, Any]:
    span = {"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": "a", **fields}
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}


def _metrics(kind: str, **fields: Any) -> dict[str, Any]:
    metric = {"name": "a", kind: {"dataPoints": [{"timeUnixNano": "1", **fields}]}}
    return {"resourceMetrics": [{"resource": {}, "scopeMetrics": [{"scope": {}, "metrics": [metric]}]}]}


def _snake(value: Any) -> Any:
    """Return the value with the names of fields of the protobuf definition."""
    if isinstance(value, dict):
        return {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): _snake(v) for name, v in value.items()}
    return [_snake(entry) for entry in value] if isinstance(value, list) else value


def _double(value: dict[str, Any], other: dict[str, Any]) -> bytes:
    """Return an object with the members of both."""
    return b"%b,%b" % (json.dumps(value).encode()[:-1], json.dumps(other).encode()[1:])


_SAMPLES: Mapping[str, tuple[str, Any]] = {
    **{f"resource {name}": ("logs", _logs(resource=[_pair(name)])) for name in _NAMES},
    **{f"scope {name}": ("logs", _logs(scope=[_pair(name)])) for name in _NAMES},
    **{f"record {name}": ("logs", _logs(record=[_pair(name)])) for name in _NAMES},
    "twice": ("logs", _logs(resource=[_pair(), _pair()], record=[_pair(), _pair()])),
    "span": ("traces", _spans(attributes=[_pair()])),
    "event of a span": ("traces", _spans(events=[{"name": "e", "attributes": [_pair()]}])),
    "link of a span": (
        "traces",
        _spans(links=[{"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "attributes": [_pair()]}]),
    ),
    "exemplar": ("metrics", _metrics("sum", asInt="1", exemplars=[{"asInt": "1", "filteredAttributes": [_pair()]}])),
    "gauge": ("metrics", _metrics("gauge", asInt="1", attributes=[_pair()])),
    "summary": ("metrics", _metrics("summary", attributes=[_pair()])),
    "exponential histogram": ("metrics", _metrics("exponentialHistogram", scale=2, attributes=[_pair()])),
    "metadata of a metric": (
        "metrics",
        {
            "resourceMetrics": [
                {"scopeMetrics": [{"metrics": [{"name": "a", "gauge": {"dataPoints": []}, "metadata": [_pair()]}]}]}
            ]
        },
    ),
    "names of the definition": ("logs", _snake(_logs(resource=[_pair()]))),
    "names of the definition in a record": ("logs", _snake(_logs(record=[_pair()]))),
    "names of the definition in a span": ("traces", _snake(_spans(attributes=[_pair()]))),
    "both names": ("logs", {**_logs(), **_snake(_logs(record=[_pair()]))}),
    "both names of records": (
        "logs",
        {"resourceLogs": [{"scopeLogs": [], "scope_logs": [{"log_records": [{"attributes": [_pair()]}]}]}]},
    ),
    "a repeated member": ("logs", _double(_logs(), _logs(record=[_pair()]))),
    "a repeated member before": ("logs", _double(_logs(record=[_pair()]), _logs())),
    "a repeated key": (
        "logs",
        json.dumps(_logs(record=[_pair()])).replace('"key":', '"key":"model","key":').encode(),
    ),
    "a repeated key before": (
        "logs",
        json.dumps(_logs(record=[_pair()])).replace('"key": "user.email"', '"key": "user.email", "key": "x"').encode(),
    ),
    "an escaped key": ("logs", json.dumps(_logs(record=[_pair()])).replace("user.email", "\\u0075ser.email").encode()),
    "an escaped member": (
        "logs",
        json.dumps(_logs(record=[_pair()])).replace("resourceLogs", "resource\\u004cogs").encode(),
    ),
    "an unknown member of a record": (
        "logs",
        {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"userEmail": _FORGED}]}]}]},
    ),
    "entities of the resource": (
        "logs",
        {
            "resourceLogs": [
                {"resource": {"entityRefs": [{"type": "user", "idKeys": ["user.id"], "schemaUrl": _FORGED}]}}
            ]
        },
    ),
    "a byte order mark": ("logs", b"\xef\xbb\xbf" + json.dumps(_logs(record=[_pair()])).encode()),
    "another document behind": ("logs", json.dumps(_logs()).encode() + json.dumps(_logs(record=[_pair()])).encode()),
    "lines": ("logs", json.dumps(_logs()).encode() + b"\n" + json.dumps(_logs(record=[_pair()])).encode()),
    "UTF-16": ("logs", json.dumps(_logs(record=[_pair()])).encode("utf-16")),
    "a list of requests": ("logs", [_logs(record=[_pair()])]),
}


def _attribute(name: str = "user.email") -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=_FORGED))


def _field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes((number << 3 | 2, len(data))) + data


def _list_binaries() -> dict[str, tuple[str, bytes]]:
    resource = Resource(attributes=[_attribute()]).SerializeToString()
    plain = Resource(attributes=[KeyValue(key="a")]).SerializeToString()
    key, value = _field(1, b"user.email"), _field(2, AnyValue(string_value=_FORGED).SerializeToString())
    spans = ExportTraceServiceRequest()
    span = spans.resource_spans.add().scope_spans.add().spans.add()
    span.attributes.append(_attribute())
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add().attributes.append(_attribute())
    return {
        "a resource": ("logs", _field(1, _field(1, resource))),
        "a second resource": ("logs", _field(1, _field(1, plain) + _field(1, resource))),
        "a resource before another": ("logs", _field(1, _field(1, resource) + _field(1, plain))),
        "a record": ("logs", logs.SerializeToString()),
        "a span": ("traces", spans.SerializeToString()),
        "two keys": ("logs", _field(1, _field(1, _field(1, _field(1, b"a") + key + value)))),
        "two keys, the other last": ("logs", _field(1, _field(1, _field(1, key + _field(1, b"a") + value)))),
        "the value first": ("logs", _field(1, _field(1, _field(1, value + key)))),
        "a long length": ("logs", _field(1, bytes((10, 0x80 | len(resource), 0x80, 0)) + resource)),
        "an unknown field": ("logs", logs.SerializeToString() + _field(15, resource)),
        "an unknown field of a resource": ("logs", _field(1, _field(1, plain + _field(15, resource)))),
        "metrics as logs": ("metrics", logs.SerializeToString()),
        "cut": ("logs", logs.SerializeToString()[:-1]),
        "a byte behind": ("logs", logs.SerializeToString() + b"\x00"),
    }


_MESSAGES: Mapping[str, type[Message]] = {
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
}


def _read(call: UpstreamCall) -> Any:
    """Return the telemetry as a collector reads it."""
    if call.headers["content-type"].startswith("application/json"):
        return json.loads(call.raw)
    return MessageToDict(_MESSAGES[call.path].FromString(call.raw))


def _has_forged(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_forged, value))
    if not isinstance(value, dict):
        return False
    if value.get("key") in _NAMES and _FORGED in json.dumps(value):
        return True
    return any(map(_has_forged, value.values()))


def _forge(attack: Attack) -> list[Answer]:
    """No telemetry reaches the collector that names another sender."""
    attempts = Attempts()
    buyer = Buyer(attack, "mallory", team="build")
    attack.upstream.reply = lambda _: respond(b"{}")
    sent: dict[str, tuple[str, bytes, dict[str, str]]] = {}
    for name, (kind, sample) in _SAMPLES.items():
        data = sample if isinstance(sample, bytes) else json.dumps(sample).encode()
        sent[name] = (kind, data, {"content-type": "application/json"})
    for name, (kind, data) in _list_binaries().items():
        sent[f"binary: {name}"] = (kind, data, {"content-type": "application/x-protobuf"})
        sent[f"binary as JSON: {name}"] = (kind, data, {"content-type": "application/json"})
    usual = json.dumps(_logs(record=[_pair()])).encode()
    for name, (data, headers) in {
        "gzip": (gzip.compress(usual), {"content-encoding": "gzip"}),
        "gzip twice": (gzip.compress(gzip.compress(usual)), {"content-encoding": "gzip, gzip"}),
        "deflate": (zlib.compress(usual), {"content-encoding": "deflate"}),
        "two members of gzip": (gzip.compress(b"{") + gzip.compress(usual[1:]), {"content-encoding": "gzip"}),
        "a false encoding": (usual, {"content-encoding": "identity"}),
        "no type": (usual, {"content-type": ""}),
        "a type with a parameter": (usual, {"content-type": "application/json; charset=utf-16"}),
        "a type in capitals": (usual, {"content-type": "APPLICATION/JSON"}),
        "another type": (usual, {"content-type": "text/plain"}),
        "identity headers": (json.dumps(_logs()).encode(), {"x-user-email": _FORGED, "baggage": f"user.id={_FORGED}"}),
    }.items():
        sent[name] = ("logs", data, {"content-type": "application/json", **headers})
    received = 0
    for name, (kind, data, headers) in sent.items():
        attack.upstream.calls.clear()
        answer = buyer.client.post(f"/v1/{kind}", content=data, headers=headers)
        buyer.client.post("/v1/logs", json=_logs(record=[_pair("end")]))  # arrives behind it
        wait_for(lambda: any(b'"end"' in call.raw for call in attack.upstream.calls), bool)
        calls = [call for call in attack.upstream.calls if b'"end"' not in call.raw]
        shown = [(call.headers, call.raw) for call in calls]
        received += len(calls)
        is_forged = any(_has_forged(_read(call)) or _FORGED in str(call.headers) for call in calls)
        has_key = any(buyer.key in str(call.headers) for call in attack.upstream.calls)
        attempts.check(f"telemetry, {name}", answer.status_code < 500 and not is_forged and not has_key, shown)
    attempts.check("a control", received > len(sent) // 2, received)
    return attempts.finish(attack)


TELEMETRY: tuple[Row, ...] = (
    Row(
        name="telemetry: another sender",
        run=_forge,
        settings={**KEY_SETTINGS, "OTEL_EXPORTER_OTLP_ENDPOINT": "{upstream}", "OTEL_TRACES_EXPORTER": "none"},
    ),
)
