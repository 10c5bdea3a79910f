"""The proxy's own spans: what one client or provider sends, loses nobody else's spans and shows no key."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.attacks.buyer import ADMIN_KEY, KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import Reply, UpstreamCall, reply_text, respond
from tests.faults.client import Answer
from tests.support.waiting import wait_for

_CHAT, _RELAYED = "openai/gpt-4.1", "claude-haiku-4-5"
_USUAL = reply_text("All is well.")
_TRACE = f"00-{'1' * 32}-{'2' * 16}-01"
_MAX_BYTES = 200_000


def _answer(text: bytes, status: int = 200) -> Reply:
    return lambda _: respond(text, status=status)


def _whole(count: str) -> bytes:
    head = b'{"id":"x\\ud83d","object":"chat.completion","created":1,"model":"m\\ud83d","choices":[{"index":0,'
    choice = b'"finish_reason":"stop","message":{"role":"assistant","content":"hi"}}],"usage":'
    counts = b'{"prompt_tokens":%b,"completion_tokens":%b,"total_tokens":3}}'
    return head + choice + counts % (count.encode(), count.encode())


def _relayed(count: str) -> bytes:
    head = b'{"id":"msg\\ud83d","type":"message","role":"assistant","model":"m\\ud83d","content":[{"type":"text",'
    end = b'"text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":%b,"output_tokens":%b,'
    inner = b'"iterations":[{"type":"advisor_message\\ud83d","model":"m\\ud83d","input_tokens":%b,"output_tokens":3}]}}'
    return head + (end + inner) % ((count.encode(),) * 3)


def _list_attempts(keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any], dict[str, str], Reply]]:
    body = ordinary(_CHAT)
    yield "a usual request", body, {}, _USUAL
    for name in ("gpt\ud83d", "gpt\0", "gpt\x1b[2J", "g" * 90, "gpt\u2028x"):
        yield f"the model {name[:20]!r}", {**body, "model": f"openai/{name}"}, {}, _USUAL
    for key in keys:
        for header in ("user-agent", "x-claude-code-session-id", "x-claude-code-agent-id", "x-project", "x-app"):
            yield f"a key as {header}", body, {header: f"{key}"}, _USUAL
        yield "a key as the model", {**body, "model": f"openai/{key}"}, {}, _USUAL
        quoted = json.dumps({"error": {"message": f"bad key {key}", "type": "server_error"}}).encode()
        yield "a key in an error", body, {}, _answer(quoted, 500)
    yield "a long name of the program", body, {"user-agent": "u" * 30_000}, _USUAL
    for error in (b'{"error":{"message":"half \\ud83d","type":"a\\ud83d"}}', b"\xff\xfe", b"x" * 5_000_000):
        for model in (_CHAT, _RELAYED):
            yield f"the error {error[:20]!r} of {model}", ordinary(model), {}, _answer(error, 500)
    for count in ("2e18", "1e30", "9223372036854775808", "-5", "1.5", "1e400", "null", '"7"'):
        yield f"the count {count}", body, {}, _answer(_whole(count))
        yield f"the count {count} of a relay", ordinary(_RELAYED), {}, _answer(_relayed(count))
    for state in ("a@b@c=x,1=~,foo*/=bar", "a=b,a=c", "a=" + "b" * 500, ",".join(f"k{n}=v" for n in range(60)), "=,="):
        yield f"the state {state[:20]!r}", body, {"traceparent": _TRACE, "tracestate": state}, _USUAL
    for parent in (
        f"00-{'f' * 32}-{'f' * 16}-ff",
        f"cc-{'1' * 32}-{'1' * 16}-01-x",
        f"00-{'0' * 32}-{'1' * 16}-01",
        "x",
    ):
        yield f"the parent {parent[-20:]!r}", body, {"traceparent": parent}, _USUAL


def _read_spans(calls: list[UpstreamCall]) -> list[Span]:
    sent = [ExportTraceServiceRequest.FromString(call.raw) for call in calls if call.path == "/v1/traces"]
    return [span for one in sent for group in one.resource_spans for part in group.scope_spans for span in part.spans]


def _is_of(span: Span, program: str) -> bool:
    pairs = [(pair.key, pair.value.string_value) for pair in span.attributes]
    return ("user_agent.original", program) in pairs


def _have(program: str, spans: list[Span]) -> bool:
    return any(_is_of(span, program) for span in spans)


def _trace(attack: Attack) -> list[Answer]:
    attempts = Attempts()
    buyer, neighbour = Buyer(attack), Buyer(attack, "neighbour")
    calls = attack.upstream.calls
    keys = buyer.key, ADMIN_KEY, KEY_SETTINGS["PROXY_API_KEY"], "sk-live-0a1b2c3d4e5f6g7h8i9j"
    for number, (name, body, headers, reply) in enumerate(_list_attempts(keys)):
        calls.clear()
        attack.upstream.reply = lambda call, reply=reply: respond(b"{}") if call.path == "/v1/traces" else reply(call)
        answer = buyer.post(json.dumps(body).encode(), **headers)
        attack.upstream.reply = lambda call: respond(b"{}") if call.path == "/v1/traces" else _USUAL(call)
        program = f"neighbour/{number}"
        neighbour.post(ordinary(_CHAT), **{"user-agent": program})
        spans = wait_for(lambda: _read_spans(calls), partial(_have, program))
        own = [span for span in spans if not _is_of(span, program) and span.kind == Span.SPAN_KIND_SERVER]
        raw = b"".join(call.raw for call in calls if call.path == "/v1/traces")
        shown = [key for key in keys if key.encode() in raw]
        is_held = bool(own) and not shown and len(raw) < _MAX_BYTES and answer.status_code != 0
        attempts.check(name, is_held, (len(own), shown, len(raw)))
    return attempts.finish(attack)


SPANS: tuple[Row, ...] = (
    Row(
        name="spans: texts and counts of others",
        run=_trace,
        settings={
            **KEY_SETTINGS,
            "PREFERRED_PROVIDER": "anthropic",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "{upstream}",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        },
    ),
)
