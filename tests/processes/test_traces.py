"""Spans of a running server, received by an OTLP collector: their tree, attributes and errors, and excluded values."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from anthropic_proxy import __version__
from anthropic_proxy.gateway.telemetry.traces.exporter import CONVENTIONS_URL
from tests.support.fakes.server import Running
from tests.support.process_checks import MESSAGES, ask
from tests.support.secret_canaries import new_canary
from tests.support.server_process import hold_port, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=x", "user-agent": "agent/1"}
SESSION = {"x-claude-code-session-id": "session-1", "x-claude-code-agent-id": "agent-1"}


UNREACHABLE = (
    "Traces cannot be sent: Connection refused. Requests are not affected. Check OTEL_EXPORTER_OTLP_ENDPOINT, "
    "[collectors] and the collector.\n"
)


@dataclass
class Collector:
    """OTLP collector over HTTP on loopback."""

    url: str = ""
    status: int = 200
    """Status of its answers."""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    accepted: list[tuple[str, ExportTraceServiceRequest]] = field(default_factory=list)
    """Path and body of each accepted message."""

    @property
    def bodies(self) -> list[ExportTraceServiceRequest]:
        return [body for _, body in self.accepted]

    def spans(self, path: str = "") -> list[Span]:
        """`path`: of the messages with them. "": any."""
        bodies = [body for at, body in self.accepted if path in ("", at)]
        return [span for body in bodies for group in body.resource_spans for s in group.scope_spans for span in s.spans]

    def resource(self) -> dict[str, Any]:
        return {pair.key: value_of(pair.value) for pair in self.bodies[0].resource_spans[0].resource.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.paths.append(self.path)
            found.headers.append({name.lower(): text for name, text in self.headers.items()})
            if found.status == 200:
                found.accepted.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()
    thread.join(timeout=WAIT_SECONDS)


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    found = getattr(value, kind)
    return [value_of(each) for each in found.values] if kind == "array_value" else found


def attributes_of(span: Span) -> dict[str, Any]:
    return {pair.key: value_of(pair.value) for pair in span.attributes}


def with_traces(settings: dict[str, str], collector: Collector, **more: str) -> dict[str, str]:
    fast = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    return {**settings, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **fast, **more}


def test_a_request_and_its_attempts_are_one_tree(
    openai: Running, settings: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    openai.journal.exchanges.clear()
    key, secret = new_canary("otlp-"), "The eagle lands at midnight."
    variables = with_traces(settings, collector, OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer {key}")
    with running_proxy(
        tmp_path, {**variables, "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    ) as proxy:
        body = ask(f"{secret} [fault:overloaded times=1]", stream=True)
        assert proxy.client().post(MESSAGES, json=body, headers={**CLIENT, **SESSION}).status_code == 200
        wait_for(lambda: len(collector.spans()) == 3)
    failed, answered, request = collector.spans()
    assert [span.trace_id.hex() for span in (failed, answered, request)] == [TRACE] * 3
    assert (request.parent_span_id.hex(), request.trace_state) == (PARENT, "vendor=x")
    assert failed.parent_span_id == answered.parent_span_id == request.span_id
    sent = [exchange.headers for exchange in openai.journal.exchanges]
    assert [headers["traceparent"] for headers in sent] == [
        f"00-{TRACE}-{span.span_id.hex()}-01" for span in (failed, answered)
    ]
    assert {headers["tracestate"] for headers in sent} == {"vendor=x"}
    check_times(request, failed, answered)
    check_attributes(request, failed, answered, openai.url)
    assert collector.paths[0] == "/v1/traces"
    assert collector.headers[0]["authorization"] == f"Bearer {key}"
    own = {"service.name": "anthropic-proxy", "service.version": __version__, "deployment.environment.name": "test"}
    assert own.items() <= collector.resource().items()
    scope = collector.bodies[0].resource_spans[0].scope_spans[0]
    assert (scope.scope.name, scope.schema_url) == ("anthropic_proxy", CONVENTIONS_URL)
    assert "eagle" not in str(collector.bodies)
    assert settings["OPENAI_API_KEY"] not in str(collector.bodies)


def test_each_collector_gets_the_spans_with_its_own_headers(
    settings: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(
        f"""
[collectors.silent]
endpoint = "http://127.0.0.1:1"

[collectors.second]
endpoint = "{collector.url}/second"
headers = {{ X-Tenant = "b" }}

[collectors.metrics]
endpoint = "{collector.url}/metrics"
signals = ["metrics"]
"""
    )
    variables = with_traces(settings, collector, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer first")
    with running_proxy(tmp_path, variables) as proxy:
        assert proxy.client().post(MESSAGES, json=ask("hello"), headers=CLIENT).status_code == 200
        # a collector gets the spans in one message or in two
        wait_for(lambda: [len(collector.spans(path)) for path in ("/v1/traces", "/second/v1/traces")] == [2, 2])
    found = dict(zip(collector.paths, collector.headers, strict=True))
    assert {path: (headers.get("authorization"), headers.get("x-tenant")) for path, headers in found.items()} == {
        "/v1/traces": ("Bearer first", None),
        "/second/v1/traces": (None, "b"),
    }
    assert collector.spans("/v1/traces") == collector.spans("/second/v1/traces")


def check_times(request: Span, failed: Span, answered: Span) -> None:
    assert request.start_time_unix_nano < failed.start_time_unix_nano < failed.end_time_unix_nano
    assert failed.end_time_unix_nano < answered.start_time_unix_nano < answered.end_time_unix_nano
    assert answered.end_time_unix_nano <= request.end_time_unix_nano


def check_attributes(request: Span, failed: Span, answered: Span, url: str) -> None:
    assert (request.name, request.kind, request.status.code) == ("POST /v1/messages", Span.SPAN_KIND_SERVER, 0)
    found = attributes_of(request)
    assert found["anthropic_proxy.request_id"].startswith("req_")
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/messages",
        "http.response.status_code": 200,
        "user_agent.original": "agent/1",
        "session.id": "session-1",
        "anthropic_proxy.agent": "agent-1",
        "anthropic_proxy.requested_model": "claude-sonnet-4-5",
        "anthropic_proxy.provider": "openai",
        "anthropic_proxy.outcome": "end_turn",
        "anthropic_proxy.failed_attempts": ["openai 503"],
    }
    assert {name: found.get(name) for name in expected} == expected
    model = found["anthropic_proxy.model"]
    assert not [
        name for name in found if name.startswith("gen_ai.usage")
    ]  # a sum over all spans counts each token once
    assert {span.name for span in (failed, answered)} == {f"chat {model}"}
    assert {span.kind for span in (failed, answered)} == {Span.SPAN_KIND_CLIENT}
    host, _, port = url.removeprefix("http://").partition(":")
    both = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": "session-1",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        "gen_ai.request.stream": True,
        "server.address": host,
        "server.port": int(port),
    }
    first, second = attributes_of(failed), attributes_of(answered)
    assert {name: first.get(name) for name in both} == {name: second.get(name) for name in both} == both
    assert (failed.status.code, first["error.type"]) == (Status.STATUS_CODE_ERROR, "overloaded_error")
    assert (first["http.response.status_code"], first["gen_ai.response.finish_reasons"]) == (503, ["error"])
    assert (answered.status.code, second["gen_ai.response.finish_reasons"]) == (0, ["end_turn"])
    assert second["gen_ai.usage.input_tokens"] > 0
    assert second["gen_ai.usage.output_tokens"] > 0
    assert second["gen_ai.response.time_to_first_chunk"] > 0


def test_requests_without_a_model_call_have_a_span_and_a_trace_of_their_own(
    settings: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    with running_proxy(tmp_path, {**with_traces(settings, collector), "LOG_FORMAT": "json"}) as proxy:
        client = proxy.client()
        client.get("/health")
        client.get("/nowhere")
        client.post(MESSAGES, content=b"{", headers=SESSION)
        client.post(f"{MESSAGES}/count_tokens", json=ask("hello", model="groq/llama-3.3-70b-versatile"))
        client.get("/v1/models/claude-opus-4-6")
        wait_for(lambda: len(collector.spans()) == 4)
        wait_for(lambda: "claude-opus-4-6" in proxy.log)
        lines = [json.loads(line) for line in proxy.log.splitlines()]
    spans = collector.spans()
    names = ["GET", "POST /v1/messages", "POST /v1/messages/count_tokens", "GET /v1/models/{model_id}"]
    assert [span.name for span in spans] == names
    assert len({span.trace_id for span in spans}) == 4
    assert {(span.parent_span_id, span.status.code) for span in spans} == {
        (b"", 0)
    }  # errors of clients are no failures
    statuses = [attributes_of(span)["http.response.status_code"] for span in spans]
    assert statuses == [404, 400, 200, 200]
    assert attributes_of(spans[1])["error.type"] == "invalid_request_error"
    (rejected,) = [line for line in lines if line.get("status") == 400]
    assert (rejected["session"], rejected["agent"]) == ("session-1", "agent-1")
    assert rejected["request_id"] == attributes_of(spans[1])["anthropic_proxy.request_id"]
    logged = {(line["trace_id"], line["span_id"]) for line in lines if "span_id" in line}
    assert logged >= {(span.trace_id.hex(), span.span_id.hex()) for span in (*spans[:2], spans[3])}


def test_a_failure_of_all_attempts_is_an_error_of_the_request(
    openai: Running, settings: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    key = new_canary("sk-proj-")
    with running_proxy(tmp_path, {**with_traces(settings, collector), "LOG_FORMAT": "json"}) as proxy:
        body = ask("Hi [fault:overloaded]", model=f"openai/{key}")
        assert proxy.client().post(MESSAGES, json=body, headers={"x-project": key}).status_code >= 400
        wait_for(lambda: len(collector.spans()) == 2)
        assert key not in str(collector.bodies)
        wait_for(lambda: MESSAGES in proxy.log)
        assert key not in proxy.log
        assert proxy.client().post(MESSAGES, json=ask("Hi [fault:overloaded]")).status_code == 529
        wait_for(lambda: len(collector.spans()) == 5)
    *attempts, request = collector.spans()[2:]
    assert (request.status.code, attributes_of(request)["error.type"]) == (Status.STATUS_CODE_ERROR, "overloaded_error")
    assert request.status.message.startswith("openai: ")
    assert [span.status.code for span in attempts] == [Status.STATUS_CODE_ERROR] * 2
    assert not [name for span in attempts for name in attributes_of(span) if name.startswith("gen_ai.usage")]


def test_an_unsampled_trace_is_passed_on_and_not_exported(
    openai: Running, settings: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    openai.journal.exchanges.clear()
    with running_proxy(tmp_path, with_traces(settings, collector)) as proxy:
        unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert proxy.client().post(MESSAGES, json=ask("hello"), headers=unsampled).status_code == 200
        assert proxy.client().post(MESSAGES, json=ask("hello")).status_code == 200
        wait_for(lambda: len(collector.spans()) == 2)
    first, second = (exchange.headers["traceparent"] for exchange in openai.journal.exchanges)
    assert first.startswith(f"00-{TRACE}-")
    assert first.endswith("-00")
    assert PARENT not in first
    assert second == f"00-{collector.spans()[1].trace_id.hex()}-{collector.spans()[0].span_id.hex()}-01"


def test_a_collector_that_fails_or_is_missing_changes_no_request(
    settings: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    collector.status = 400
    with running_proxy(tmp_path, with_traces(settings, collector)) as proxy:
        for _ in range(3):
            assert proxy.client().post(MESSAGES, json=ask("hello")).status_code == 200
        wait_for(lambda: "Traces cannot be sent: " in proxy.log)
        assert proxy.stop() == 0
        assert proxy.log.count("Traces cannot be sent: ") == 1
        assert "Traceback" not in proxy.log
    with hold_port() as port:
        missing = with_traces(settings, Collector(f"http://127.0.0.1:{port}"))
        with running_proxy(tmp_path, missing) as proxy:
            assert proxy.client().post(MESSAGES, json=ask("hello")).status_code == 200
            wait_for(lambda: UNREACHABLE in proxy.log)
            assert proxy.stop() == 0
            assert "Traceback" not in proxy.log


def test_variables_of_the_env_file_reach_the_sdk(
    settings: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    lines = {**with_traces({}, collector), "OTEL_SERVICE_NAME": "my-proxy"}
    (tmp_path / ".env").write_text("\n".join(f"{name}={value}" for name, value in lines.items()))
    with running_proxy(tmp_path, settings) as proxy:
        assert proxy.client().post(MESSAGES, json=ask("hello")).status_code == 200
        wait_for(lambda: len(collector.spans()) == 2)
    assert collector.resource()["service.name"] == "my-proxy"
