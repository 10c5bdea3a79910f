"""Clients with rules: a relay sends only fields of the Messages API, and policies know each model that a body names."""

import json
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.plugins import AdmissionRequest, AdmissionTarget, Client, Headers, Receipt
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-4-5"
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": OPUS}
USAGE = {"input_tokens": 7, "output_tokens": 9}
REPLY = {"type": "message", "content": [{"type": "text", "text": "Hi."}], "stop_reason": "end_turn", "usage": USAGE}
RESTRICTED = Client(name="ci", role="member", key_id="key_1", is_restricted=True)
BODY = {"model": HAIKU, "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}


class Recorder:
    def __init__(self) -> None:
        self.requests: list[AdmissionRequest] = []

    async def identify(self, headers: Headers) -> Client | None:
        return None

    async def admit(self, request: AdmissionRequest) -> None:
        self.requests.append(request)


class Relay:
    """A proxy with one provider, and what it sends."""

    def __init__(self, **settings: str) -> None:
        self.sent: list[UpstreamRequest] = []
        self.policy = Recorder()
        self.stream = b""
        """Reply in place of the usual one."""
        usual = {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k", "PREFERRED_PROVIDER": "anthropic"}
        self.built = ProxyHarness(self._answer, **{**usual, **settings})
        self.built.services = structs.replace(self.built.services, policies=(self.policy,))

    def _answer(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.sent.append(request)
        if self.stream:
            return FakeResponse(200, self.stream)
        return FakeResponse(200, json.dumps({"input_tokens": 5} if "count" in request.path else REPLY).encode())

    async def post(self, client: Client = RESTRICTED, query: str = "", **fields: Any) -> Receipt:
        body = json.dumps({**BODY, **fields}, indent=1).encode()
        incoming, sink = new_client_request(body, client=client, query=query), RecordingSink()
        sink.receipt = incoming.receipt
        await Exchange(self.built.services, incoming, sink).run()
        assert sink.error is None, sink.error
        return incoming.receipt

    def list_named(self) -> list[AdmissionTarget]:
        return [named for target in self.policy.requests[-1].targets for named in target.named_models]


async def test_other_fields_of_a_restricted_client_are_left_out_with_a_note() -> None:
    relay = Relay()
    receipt = await relay.post(models=[OPUS], route="fallback", metadata={"user_id": "u", "router": "x"})
    assert json.loads(relay.sent[0].body) == {**BODY, "metadata": {"user_id": "u"}}
    assert sorted(note.field for note in receipt.notes) == ["metadata.router", "models", "route"]


async def test_the_body_of_another_client_keeps_each_byte() -> None:
    relay, fields = Relay(), {"models": [OPUS], "route": "fallback", "tools": [ADVISOR], "fallbacks": "default"}
    receipt = await relay.post(Client(name="ci", role="member", key_id="key_1"), "beta=true&route=x", **fields)
    assert relay.sent[0].body == json.dumps({**BODY, **fields}, indent=1).encode()
    assert (relay.sent[0].path, receipt.notes) == ("/v1/messages?beta=true&route=x", [])


async def test_a_restricted_client_without_other_fields_keeps_each_byte() -> None:
    relay = Relay()
    await relay.post(system="a", temperature=1)
    assert relay.sent[0].body == json.dumps({**BODY, "system": "a", "temperature": 1}, indent=1).encode()


async def test_a_field_that_nobody_knows_fails_no_request_of_the_mode_strict() -> None:
    relay = Relay(FIDELITY="strict")
    receipt = await relay.post(feature_of_next_year={"enabled": True})
    assert (json.loads(relay.sent[0].body), receipt.status) == (BODY, 200)


async def test_only_parameters_of_the_api_are_sent() -> None:
    relay = Relay()
    await relay.post(query="beta=true&model=x&route=y")
    assert relay.sent[0].path == "/v1/messages?beta=true"


async def test_what_the_settings_add_is_sent(tmp_path: Any) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text('[providers.anthropic.body]\nroute = "eu"\n', "utf-8")
    relay = Relay()
    relay.built = ProxyHarness(
        relay._answer, env_file=str(tmp_path / ".env"), ANTHROPIC_API_KEY="k", PREFERRED_PROVIDER="anthropic"
    )
    await relay.post(route="us")
    assert json.loads(relay.sent[0].body)["route"] == "eu"


async def test_a_count_of_tokens_has_only_fields_of_the_api() -> None:
    relay = Relay()
    body = json.dumps({**BODY, "models": [OPUS], "tools": [ADVISOR]}).encode()
    incoming = new_client_request(body, client=RESTRICTED, path="/v1/messages/count_tokens", query="beta=true&x=y")
    counted = await count_tokens(relay.built.services, incoming, RecordingSink().wait_disconnected)
    assert counted.body == b'{"input_tokens": 5}'
    assert json.loads(relay.sent[0].body) == {**BODY, "tools": [ADVISOR]}
    assert relay.sent[0].path == "/v1/messages/count_tokens?beta=true"
    assert relay.list_named() == []  # nothing is called


async def test_policies_know_the_models_that_a_body_names() -> None:
    relay = Relay()
    fallbacks = [{"model": "claude-opus-4-6", "max_tokens": 500}, {"model": "claude-sonnet-4-6", "speed": "fast"}]
    tools = [{"name": "read", "input_schema": {}}, {**ADVISOR, "max_uses": 2, "max_tokens": 300}]
    await relay.post(tools=tools, fallbacks=fallbacks, inference_geo="us")
    expected = [
        AdmissionTarget(prefix="anthropic", model=OPUS, max_output_tokens=300, field="tools.1.model", max_calls=2),
        AdmissionTarget(prefix="anthropic", model="claude-opus-4-6", max_output_tokens=500, field="fallbacks.0.model"),
        AdmissionTarget(
            prefix="anthropic",
            model="claude-sonnet-4-6",
            max_output_tokens=64,
            field="fallbacks.1.model",
            service_tier="fast",
        ),
    ]
    assert relay.list_named() == [structs.replace(one, region="us") for one in expected]
    assert relay.policy.requests[0].targets[0].region == "us"
    assert json.loads(relay.sent[0].body)["fallbacks"] == fallbacks


async def test_an_advisor_without_limits_counts_as_three_calls_of_its_whole_output() -> None:
    relay = Relay()
    await relay.post(tools=[ADVISOR])
    (named,) = relay.list_named()
    assert (named.max_calls, named.max_output_tokens) == (3, 64_000)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("openai/gpt-4.1-mini", {}),  # translated: the tool is not sent
        # the server has neither advisors nor fallbacks
        ("bedrock/global.anthropic.claude-haiku-4-5", {"AWS_BEARER_TOKEN_BEDROCK": "k", "AWS_REGION": "us-east-1"}),
    ],
)
async def test_a_model_that_does_not_reach_the_provider_is_none_of_the_request(
    model: str, settings: dict[str, str]
) -> None:
    relay, fields = Relay(**settings), {"tools": [ADVISOR], "fallbacks": [{"model": OPUS}]}
    sink, incoming = RecordingSink(), new_client_request(json.dumps({**BODY, **fields, "model": model}).encode())
    incoming.receipt.client, sink.receipt = RESTRICTED, incoming.receipt
    incoming.headers = {"anthropic-beta": "server-side-fallback-2026-07-01"}
    await Exchange(relay.built.services, incoming, sink).run()
    assert relay.list_named() == []
    assert relay.sent
    assert all(OPUS.encode() not in sent.body for sent in relay.sent)


async def test_a_body_that_cannot_be_compared_is_not_sent() -> None:
    relay = Relay()
    incoming, sink = new_client_request(b'{"model": "claude-haiku-4-5", "a": 1e}', client=RESTRICTED), RecordingSink()
    sink.receipt = incoming.receipt
    await Exchange(relay.built.services, incoming, sink).run()
    assert sink.error is not None
    assert (sink.error.status, relay.sent) == (400, [])


def write_events(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


CUT_BEHIND_ADVICE = write_events(
    {"type": "message_start", "message": {"model": HAIKU, "content": [], "usage": {**USAGE, "input_tokens": 100}}},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "advisor_tool_result", "tool_use_id": "srvtoolu_1", "content": {"text": "Use a."}},
    },
    {"type": "content_block_stop", "index": 0},
)
"""A stream that ends before its usage."""
ADDED = {"role": "system", "content": [{"type": "tool_addition", "tool": {"type": "inline", "definition": ADVISOR}}]}


async def test_an_advisor_of_a_later_message_counts_in_a_stream_that_ends_before_its_usage() -> None:
    relay = Relay()
    relay.stream = CUT_BEHIND_ADVICE
    incoming = new_client_request(
        json.dumps({**BODY, "stream": True, "messages": [*BODY["messages"], ADDED]}).encode(), client=RESTRICTED
    )
    await Exchange(relay.built.services, incoming, RecordingSink()).run()
    assert [(one.kind, one.model, one.input_tokens) for one in incoming.receipt.iterations] == [
        ("advisor_message", OPUS, 100)
    ]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (
            b'"tools": [{"type": "advisor_20260301", "name": "advisor", "\\u006dodel": "claude-opus-4-5"}]',
            "advisor_message",
        ),
        (b'"context_management": {"edits": [{"type": "\\u0063ompact_20260112"}]}', "compaction"),
    ],
)
async def test_escapes_hide_no_call_in_a_stream_that_ends_before_its_usage(fields: bytes, kind: str) -> None:
    relay = Relay()
    compaction = {"type": "content_block_start", "index": 1, "content_block": {"type": "compaction", "content": None}}
    relay.stream = CUT_BEHIND_ADVICE + write_events(compaction, {"type": "content_block_stop", "index": 1})
    body = json.dumps({**BODY, "stream": True}).encode()[:-1] + b", " + fields + b"}"
    incoming = new_client_request(body, client=Client(name="ci", role="member", key_id="key_1"))
    await Exchange(relay.built.services, incoming, RecordingSink()).run()
    assert kind in [one.kind for one in incoming.receipt.iterations]
