"""The relay: relayed bytes stay equal except for the rewritten fields, and a break is reported once."""

import asyncio
import itertools
import json
import random
import re
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.exchange import forwarding
from anthropic_proxy.engine.exchange.client_side import encode_error_response, encode_events
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import JsonReply
from anthropic_proxy.engine.exchange.relay import RelayStream, build_relay_call, forwarded_headers
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.models.raw_json import TOO_DEEP_MESSAGE
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires import anthropic
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import ClientError, InvalidRequest, UpstreamError, UpstreamProtocolError
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import Client
from tests.support import replies
from tests.support.event_grammar import check_bytes
from tests.support.golden_relay import ANY_USAGE
from tests.support.harness import STALL, FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.messages import exactly
from tests.support.provider_replies.messages import DOUBLE_START, MESSAGE_STREAMS, block, message_start
from tests.support.virtual_time import in_virtual_time

ASKED, TARGET = "claude-sonnet-4-5", "claude-opus-5-5"


def target_of(model: str = ASKED, **dialect: Any) -> Target:
    settings = load_settings({"ANTHROPIC_API_KEY": "k", "PREFERRED_PROVIDER": "anthropic"}, PROVIDERS, env_file=None)
    target = build_plan(RoutingQuery(model), settings, Catalog()).targets[0]
    return structs.replace(target, dialect=structs.replace(target.dialect, **dialect))


def call_of(body: bytes, target: Target, *, stream: bool = True, asked: str = ASKED, **inbound: Any) -> RelayCall:
    request = MessagesRequest(model=asked, messages=[], stream=stream)
    arrived = new_client_request(body, headers=inbound.pop("headers", {}), **inbound)
    return build_relay_call(arrived, request, target)


def sent(body: bytes, target: Target | None = None) -> bytes:
    return anthropic.WIRE.encode_request(call_of(body, target or target_of())).body


# The request


WHITE = st.text(st.sampled_from(" \t\r\n"), max_size=3)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.one_of(st.sampled_from('"\\/px1.\u2028é😀{}[],:'), st.characters(codec="utf-8")), max_size=8),
    st.sampled_from(['"model":"claude-sonnet-4-5"', "web_search_", "px1", ASKED]),
)
KEYS = st.one_of(st.sampled_from(["model", "messages", "content", "type"]), st.text(max_size=4))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """JSON text of a value, with any white space and any escapes."""
    around = draw(WHITE), draw(WHITE)
    if isinstance(value, dict):
        members = [f"{draw(written(key))}:{draw(written(inner))}" for key, inner in value.items()]
        return f"{around[0]}{{{draw(WHITE)}{','.join(members)}}}{around[1]}"
    if isinstance(value, list):
        return f"{around[0]}[{draw(WHITE)}{','.join(draw(written(inner)) for inner in value)}]{around[1]}"
    return f"{around[0]}{json.dumps(value, ensure_ascii=draw(st.booleans()))}{around[1]}"


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a body in two strings: before the value of its own `model`, and after it."""
    before = draw(st.dictionaries(KEYS.filter("model".__ne__), VALUES, max_size=3))
    behind = draw(st.dictionaries(KEYS.filter(lambda key: key != "model" and key not in before), VALUES, max_size=3))
    members = [[f"{draw(written(key))}:{draw(written(value))}," for key, value in before.items()]]
    members += [[f",{draw(written(key))}:{draw(written(value))}" for key, value in behind.items()]]
    start = f'{draw(WHITE)}{{{"".join(members[0])}{draw(WHITE)}"model"{draw(WHITE)}:{draw(WHITE)}'
    return start, f"{draw(WHITE)}{''.join(members[1])}}}{draw(WHITE)}"


@given(bodies())
def test_any_body_passes_as_it_is_and_only_the_name_of_the_model_is_ever_another(body: tuple[str, str]) -> None:
    before, behind = body
    raw = f'{before}"{ASKED}"{behind}'.encode()
    assert sent(raw) == raw
    assert sent(raw, target_of("claude-haiku-4-5")) == f'{before}"claude-haiku-4-5"{behind}'.encode()


HALF = b"\\ud83d"
"""Half of a surrogate pair, as `JSON.stringify` writes it for a text that was cut in the middle of an emoji."""
FOREIGN = b'{"type":"thinking","thinking":"t","signature":"px1.file-ds.eyJyIjoxfQ"}'


def test_half_of_a_surrogate_pair_stays_as_it_is_and_every_edit_is_applied() -> None:
    body = (
        b'{"model":"%b","metadata":{"user_id":"u"},"system":"x-anthropic-billing-header: a;\\n%b","messages":['
        b'{"role":"user","content":"cut %b"},{"role":"assistant","content":[%b,{"type":"text","text":"%b"}]}]}'
    ) % (ASKED.encode(), HALF, HALF, FOREIGN, HALF)
    edited = sent(body, target_of(TARGET, forwards_metadata=False))
    assert edited == (
        b'{"model":"%b","system":"%b","messages":['
        b'{"role":"user","content":"cut %b"},{"role":"assistant","content":[{"type":"text","text":"%b"}]}]}'
    ) % (TARGET.encode(), b"\xef\xbf\xbd", HALF, HALF)


def test_only_a_turn_with_a_system_message_is_written_again() -> None:
    untouched = b'{"content": "%b" , "role": "user"},{"role":"assistant","content":"a"}' % HALF
    turn = b'{"role":"user","content":"go"},{"role":"system","content":"%b"}' % HALF
    body = b'{"model":"%b","messages":[%b,%b]}' % (ASKED.encode(), untouched, turn)
    reminder = b'{"type":"text","text":"<system-reminder>\\n\xef\xbf\xbd\\n</system-reminder>"}'
    expected = b'{"role":"user","content":[{"type":"text","text":"go"},%b]}' % reminder
    assert sent(body, target_of(accepts_system_messages=False)) == body.replace(turn, expected)


def test_a_byte_order_mark_before_a_body_is_removed_with_the_edits() -> None:
    body = b'{"model":"%b"}' % ASKED.encode()
    assert sent(b"\xef\xbb\xbf" + body, target_of(TARGET)) == body.replace(ASKED.encode(), TARGET.encode())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "The request body is not valid JSON: Input data was truncated."),
        (b'{"\xff":1}', "The request body is not valid UTF-8: invalid start byte."),
        (b'{"x":%b1%b}' % (b"[" * 100_000, b"]" * 100_000), f"The request body {TOO_DEEP_MESSAGE}."),
    ],
)
def test_a_body_that_cannot_be_edited_is_refused(body: bytes, message: str) -> None:
    assert sent(body) == body
    with pytest.raises(InvalidRequest, match=exactly(message)):
        sent(body, target_of(TARGET))


def test_a_repeated_key_is_sent_once() -> None:
    body = b'{"model": "a", "max_tokens": 1.50, "model" : "claude-sonnet-4-5", "x": [1, 2]}'
    renamed = json.loads(sent(body, target_of(TARGET)))
    assert renamed == {"model": TARGET, "max_tokens": 1.5, "x": [1, 2]}
    same = b'{"model": "claude-sonnet-4-5", "model": "claude-sonnet-4-5"}'
    assert sent(same, target_of(TARGET)).count(TARGET.encode()) == 2


TOO_MANY_MEMBERS = "The request body contains more than 250,000 list elements and object members."
MANY_KEYS = b",".join(b'"k%d":1' % number for number in range(260_000))
DECODED = {
    "keys": b'{"model":"%b",%b}',
    "keys of a message": b'{"model":"%b","messages":[{"role":"assistant","content":[],"x":"px1.",%b}]}',
    "repeated key": b'{"model":"%b","a":1,"a":2,"x":{%b}}',
}
"""Bodies with many keys in an object that an edit of the relay decodes."""


@pytest.mark.slow
@pytest.mark.parametrize("body", DECODED.values(), ids=DECODED)
def test_a_relayed_body_of_too_many_members_is_refused_before_it_is_decoded(body: bytes) -> None:
    data = body % (ASKED.encode(), MANY_KEYS)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match=exactly(TOO_MANY_MEMBERS)):
            sent(data, target_of(TARGET))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


def test_a_relayed_body_with_many_members_of_many_objects_is_edited() -> None:
    message = b'{"role":"user","content":[{"type":"text","text":"a"}]}'
    data = b'{"model":"%b","messages":[%b]}' % (ASKED.encode(), b",".join([message] * 100_000))
    assert data.count(b",") > 250_000
    assert sent(data, target_of(TARGET)) == data.replace(ASKED.encode(), TARGET.encode())


OURS = st.sampled_from(["oai", "xai", "gem", "vtx", "groq", "kimi", "ds", "oll", "ka", "some-server"]).map(
    lambda tag: {"type": "thinking", "thinking": "t", "signature": f"px1.{tag}.e30"}
) | st.just({"type": "redacted_thinking", "data": "px1.oai.e30"})
THEIRS = st.sampled_from(
    [
        {"type": "thinking", "thinking": "px1.oai.e30", "signature": "EpUB"},
        {"type": "redacted_thinking", "data": "EmwK"},
        {"type": "text", "text": "px1.gem.e30", "citations": None},
        {"type": "tool_use", "id": "toolu_px1", "name": "n", "input": {"signature": "px1.oai.e30"}},
        {"type": "hologram", "signature": "px1.oai.e30"},
        {"type": "thinking", "thinking": "", "signature": ""},
    ]
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": st.lists(OURS | THEIRS, max_size=5) | st.text()}
    ),
    max_size=5,
)


def is_ours(block: dict[str, Any]) -> bool:
    carried = {"thinking": block.get("signature"), "redacted_thinking": block.get("data")}.get(block["type"])
    return str(carried).startswith("px1.")


def with_unique_ids(messages: list[Any]) -> list[Any]:
    numbers = itertools.count()
    return [
        {
            **message,
            "content": [
                {**block, "id": f"toolu_px{next(numbers)}"} if block["type"] == "tool_use" else block
                for block in message["content"]
            ],
        }
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


@given(MESSAGES.map(with_unique_ids).flatmap(lambda messages: st.tuples(st.just(messages), written(messages))))
def test_thinking_that_we_signed_is_cut_out_wherever_it_stands(given_messages: tuple[list[Any], str]) -> None:
    messages, text = given_messages
    raw = f'{{"max_tokens": 1.0, "messages":{text}, "model":"{ASKED}" }}'.encode()
    expected = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list) and any(map(is_ours, content)):
            kept = [block for block in content if not is_ours(block)]
            content = kept or [{"type": "text", "text": "…"}]
        expected.append({"role": message["role"], "content": content})
    out = sent(raw)
    assert json.loads(out) == {"max_tokens": 1.0, "messages": expected, "model": ASKED}
    assert out.startswith(b'{"max_tokens": 1.0, ')
    if expected == messages:
        assert out == raw


CALL_NAMES = st.sampled_from(["Read", "functions.read", " x", "", "a" * 129]) | st.text(max_size=5)
CALL_INPUTS = st.sampled_from([{}, {"name": "a.b", "input": []}, [], "", "{}", '{"a": 1}', 5, None, True, [{}]])
CALLS = st.fixed_dictionaries({"type": st.just("tool_use"), "id": st.text(), "name": CALL_NAMES, "input": CALL_INPUTS})
TEXTS = st.fixed_dictionaries({"type": st.just("text"), "text": st.sampled_from(["a.b", '"tool_use"', "x"])})


@given(st.lists(st.lists(CALLS | TEXTS, min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
def test_every_call_is_sent_with_an_id_a_name_and_an_input_that_claude_accepts(
    turns: list[Any], is_dense: bool
) -> None:
    history = [{"role": "assistant", "content": turn} for turn in turns]
    body = json.dumps({"model": ASKED, "messages": history}, separators=(",", ":") if is_dense else None).encode()
    written = sent(body)
    given_blocks = [block for turn in turns for block in turn]
    sent_blocks = [block for message in json.loads(written)["messages"] for block in message["content"]]
    assert len(sent_blocks) == len(given_blocks)
    is_valid = True
    ids: set[str] = set()
    for before, after in zip(given_blocks, sent_blocks, strict=True):
        if before["type"] == "tool_use":
            assert re.fullmatch("[a-zA-Z0-9_-]{1,128}", after["name"])
            assert isinstance(after["input"], dict)
            keeps = {
                "name": re.fullmatch("[a-zA-Z0-9_-]{1,128}", before["name"]),
                "input": type(before["input"]) is dict,
            }
            expected = {name: before[name] for name, is_kept in keeps.items() if is_kept}
            assert re.fullmatch("[a-zA-Z0-9_-]*", after["id"])
            assert not after["id"] or after["id"] not in ids
            keeps_id = re.fullmatch("[a-zA-Z0-9_-]*", before["id"]) and before["id"] not in ids
            expected |= {"id": before["id"]} if keeps_id or not before["id"] else {}
            ids.add(after["id"])
            assert after == {**after, **expected}
            is_valid = is_valid and len(expected) == 3
        else:
            assert after == before
    assert not is_valid or written == body
    assert sent(written) == written


PASSED = {
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "claude-cli/2.1.332 (external, cli)",
    "x-app": "cli",
    "x-claude-code-session-id": "5b7c0f7e-0000-4000-8000-000000000000",
    "x-claude-code-agent-id": "a1b2",
    "x-client-request-id": "c3d4",
    "idempotency-key": "stainless-node-retry-e5f6",
    "x-stainless-os": "Linux",
    "x-stainless-retry-count": "0",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "a-beta-of-tomorrow",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-anthropic-additional-protection": "true",
}
UNNAMED = {
    "x-of-my-own": "1",
    "x-pomerium-jwt-assertion": "a token with the claims of Ann",
    "ssl-client-subject-dn": "CN=Ann",
    "user-id": "ann",
    "x-project": "a",
    "x-claude-code-prompt-id": "p",
    "referer": "https://intranet.example.org/ann",
    "accept-language": "de-CH",
    "accept-encoding": "gzip",
    "cookie": "a=b",
    "x-api-key": "pk-0123456789",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    "tracestate": "company=ann",
}


@pytest.mark.parametrize("client", [{"key_id": "key_1"}, {"key_id": "key_1", "sign_in": "sign_1"}, {}])
async def test_of_people_of_a_company_only_named_headers_leave(client: dict[str, str]) -> None:
    sent: list[Mapping[str, str]] = []

    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        sent.append({**request.headers, **request.trace_headers})
        return FakeResponse(200, replies.MESSAGES.whole(replies.Reply(texts=["ok"])))

    built = ProxyHarness(upstream, ANTHROPIC_API_KEY="sk-ant-test-0123456789")
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    incoming = new_client_request(
        json.dumps(body).encode(), {**PASSED, **UNNAMED}, client=Client(role="member", **client)
    )
    await Exchange(built.services, incoming, RecordingSink()).run()
    if client:
        assert sent == [PASSED]
    else:
        assert sent[0].items() >= PASSED.items()
        assert sent[0]["x-of-my-own"] == "1"
        assert sent[0]["tracestate"] == "company=ann"


@pytest.mark.parametrize(
    ("settings", "received", "expected"),
    [
        ({}, "", None),
        ({}, "anthropic-proxy, other", None),
        ({"ANTHROPIC_UPSTREAM_URL": "https://api.anthropic.com/"}, "anthropic-proxy", None),
        ({"ANTHROPIC_UPSTREAM_URL": "https://proxy.example.org"}, "", "anthropic-proxy"),
        ({"ANTHROPIC_UPSTREAM_URL": "http://127.0.0.1:8082"}, "other; a=1, anthropic-proxy", None),
    ],
)
@pytest.mark.parametrize("client", [Client(), Client(role="member", key_id="key_1")])
async def test_only_a_server_that_is_no_vendor_s_learns_which_proxies_were_passed(
    settings: dict[str, str], received: str, expected: str | None, client: Client
) -> None:
    sent: list[Mapping[str, str]] = []

    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        sent.append(request.headers)
        return FakeResponse(200, replies.MESSAGES.whole(replies.Reply(texts=["ok"])))

    built = ProxyHarness(upstream, ANTHROPIC_API_KEY="sk-ant-test-0123456789", **settings)
    headers = {**PASSED, "cdn-loop": received} if received else PASSED
    body = json.dumps({"model": "claude-sonnet-4-5", **HELLO}).encode()
    await Exchange(built.services, new_client_request(body, headers, client=client), RecordingSink()).run()
    if settings.get("ANTHROPIC_UPSTREAM_URL", "").startswith("http:"):
        expected = f"{received}, anthropic-proxy"
    assert sent[0].get("cdn-loop") == expected


HELLO = {"max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
REJECTED = {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_rejected_key_of_the_company_is_no_401_for_a_person(provider: str, stream: bool) -> None:
    def upstream(*_: Any) -> FakeResponse:
        return FakeResponse(401, json.dumps(REJECTED).encode(), headers={"x-should-retry": "true"})

    keys = {f"{provider.upper()}_API_KEY": "sk-test-0123456789", "PREFERRED_PROVIDER": provider}
    found = f"{provider}: the key is not accepted. The key comes from {provider.upper()}_API_KEY in the environment."
    body = {**HELLO, "model": ASKED, "stream": stream}
    for client, status, kind, message in (
        (Client(key_id="key_1", sign_in="sign_1", role="member"), 403, "permission_error", f"{found} {OF_THE_PROXY}"),
        (Client(key_id="key_1", role="member"), 424, "invalid_request_error", f"{found} {OF_THE_PROXY}"),
        (Client(), 424, "invalid_request_error", found),
    ):
        built = ProxyHarness(upstream, **keys)
        incoming, sink = new_client_request(json.dumps(body).encode(), client=client), RecordingSink(client)
        await Exchange(built.services, incoming, sink).run()
        assert sink.error is not None
        headers, sent = encode_error_response(sink.error, "req_1")
        assert json.loads(sent)["error"] == {
            "type": kind,
            "message": message,
            "details": {"error_code": "rejected_key"},
        }
        assert (sink.error.status, sink.error.code) == (status, "rejected-key")
        assert headers["x-should-retry"] == "false"
        receipt = built.receipts[0]
        assert (receipt.status, receipt.error_code, receipt.attempts[0].status) == (status, "rejected-key", 401)


OF_THE_PROXY = "It is a key of the proxy: tell its administrator."


async def test_a_missing_key_of_the_company_is_no_401_for_a_person() -> None:
    built = ProxyHarness(lambda *_: FakeResponse(200), PREFERRED_PROVIDER="groq")
    body = json.dumps({**HELLO, "model": "groq/llama-3.3-70b-versatile"}).encode()
    person = Client(sign_in="sign_1", role="member")
    sink = RecordingSink(person)
    await Exchange(built.services, new_client_request(body, client=person), sink).run()
    assert sink.error is not None
    assert (sink.error.status, sink.error.error_type, sink.error.should_retry) == (403, "permission_error", False)
    assert sink.error.message == (
        "groq has no key: GROQ_API_KEY is not set. Ask an administrator of the proxy for help."
    )


def test_headers_pass_but_for_those_of_this_hop() -> None:
    given_headers = {
        "anthropic-beta": "a,b",
        "anthropic-version": "2026-10-21",
        "x-custom": "kept",
        "connection": "close, X-Hop",
        "x-hop": "1",
        "authorization": "Bearer secret",
        "x-api-key": "secret",
        "api-key": "secret",
        "cookie": "a=b",
        "host": "localhost",
        "content-length": "3",
        "transfer-encoding": "chunked",
        "te": "trailers",
    }
    request = anthropic.WIRE.encode_request(call_of(b"{}", target_of(), headers=given_headers, query="beta=true&x=%20"))
    assert request.headers == {
        "anthropic-beta": "a,b",
        "anthropic-version": "2026-10-21",
        "x-custom": "kept",
        "content-type": "application/json",
    }
    assert request.path == "/v1/messages?beta=true&x=%20"


# The reply


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        (b"plain", b"plain"),
        (b"\xe2\x98\x83", b"\xe2\x98\x83"),
        (b"a\xff", b"a\xff"),
        (b"a\tb", b"a\tb"),
        (b"a\rSet-Cookie: b", None),
        (b"a\x00b", None),
        (b"a\x7fb", None),
    ],
)
def test_a_header_of_the_answer_passes_byte_by_byte_or_not_at_all(sent: bytes, passed: bytes | None) -> None:
    text = sent.decode("utf-8", "surrogateescape")  # as the HTTP client reads it
    headers = forwarded_headers({"Anthropic-X": text, "request-id": text, "anthropic x": "a", "anthropic-\xe9": "a"})
    expected = {} if passed is None else dict.fromkeys(("anthropic-x", "x-upstream-request-id"), passed)
    assert {name: value.encode("latin-1") for name, value in headers.items()} == expected


@pytest.mark.parametrize(
    ("name", "value", "is_passed"),
    [
        ("retry-after", "7", True),
        ("retry-after", "0.5", True),
        ("retry-after", "Wed, 25 Nov 2026 21:00:00 GMT", True),
        ("retry-after-ms", "250", True),
        *(
            (name, value, False)
            for name in ("retry-after", "retry-after-ms")
            for value in ("nan", "-5", "inf", "", "soon")
        ),
    ],
)
def test_a_delay_passes_only_if_it_is_one(name: str, value: str, is_passed: bool) -> None:
    assert forwarded_headers({name: value}) == ({name: value} if is_passed else {})


async def relayed(chunks: list[bytes | Exception], call: RelayCall, target: Target) -> tuple[bytes, RelayStream]:
    watch = Watchdog(wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=600, idle_seconds=600)
    answer = RelayStream(call, FakeResponse(200, *chunks), watch, BackgroundWork().of("key local"), bounds=ANY_USAGE)
    try:
        await answer.wait_for_content()
        received = b""
        while (data := await answer.read()) is not None:
            received += data
    finally:
        watch.stop()
    if answer.ending is not None:
        received += encode_events([answer.ending], "req_1")
    return received, answer


def passed(chunks: list[bytes | Exception], asked: str = TARGET, **fields: Any) -> tuple[bytes, RelayStream]:
    target = target_of(TARGET)
    return asyncio.run(relayed(chunks, call_of(b"{}", target, asked=asked, **fields), target))


def frames(*events: dict[str, Any]) -> list[bytes]:
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": TARGET,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "cache_read_input_tokens": 5, "output_tokens": 1},
    },
}
STREAM = frames(
    START,
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 'é "message_delta" "error"'}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
        "usage": {
            "output_tokens": 9,
            "cache_creation_input_tokens": 3,
            "output_tokens_details": {"thinking_tokens": 4},
            "server_tool_use": {"web_search_requests": 2},
        },
    },
    {"type": "message_stop"},
)
WHOLE = b"".join(STREAM)
BEGUN = b"".join(STREAM[:3])
"""The events up to the first content, which decide that the client gets this stream."""
NAMED = ((0, b"message_start"), (5, b"message_delta"))


def cut(body: bytes, points: list[int]) -> list[bytes | Exception]:
    edges = sorted({0, len(body), *(point % max(len(body), 1) for point in points)})
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def read_events(stream: bytes) -> list[tuple[str, Any]]:
    """Return name and data of each event, as clients read them."""
    found = []
    for event in stream.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


REPAIRED = {
    "no event lines": [event.partition(b"\n")[2] for event in STREAM],
    "events without data": [
        *STREAM[:3],
        b"event: content_block_delta\ndata: \n\n",
        b"event: ping\n\n",
        b"data:\n\n",
        *STREAM[3:],
    ],
    "no end of the block": [*STREAM[:4], *STREAM[5:]],
    "no type in the last event": [*STREAM[:6], b"event: message_stop\ndata: {}\n\n"],
    "names of another protocol": [b"event: message\n" + event.partition(b"\n")[2] for event in STREAM],
    "comments with the names": [b":" + event for event in STREAM],
    "a byte order mark before each event": [b"\xef\xbb\xbf" + event for event in STREAM],
    "a second name behind the data": [event[:-1] + b"event: ping\n\n" for event in STREAM],
    "a second name behind CR": [event[:-2] + b"\revent: ping\n\n" for event in STREAM],
}


@pytest.mark.parametrize("given", REPAIRED)
def test_what_the_decoder_understands_is_what_the_client_gets(given: str) -> None:
    received, answer = passed([*REPAIRED[given]])
    assert read_events(received) == read_events(WHOLE)
    assert (answer.ending, answer.failure, answer.stop_reason) == (None, None, "max_tokens")


@pytest.mark.parametrize("sent", [{}, {"usage": None}])
def test_a_stream_without_usage_gets_one(sent: dict[str, Any]) -> None:
    message = {name: value for name, value in START["message"].items() if name != "usage"} | sent
    received, _ = passed([*frames({"type": "message_start", "message": message}), *STREAM[1:]])
    begun = read_events(received)[0][1]["message"]
    assert begun == message | {"usage": {"input_tokens": 0, "output_tokens": 0}}


OTHER_FORM = {
    **START["message"],
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1]}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 7, "output_tokens": 9},
}


@pytest.mark.parametrize(
    "change",
    [
        {"usage": None},
        {"content": "Hi"},
        {"content": None},
        {"id": None, "role": None, "type": "message"},
        {"stop_reason": None},
    ],
    ids=["usage", "text", "null", "fields", "reason"],
)
def test_a_message_that_is_not_streamed_is_repaired_too(change: dict[str, Any]) -> None:
    given = {**START["message"], "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    whole, answer = passed([json.dumps({**given, **change}).encode()], stream=False)
    message = json.loads(whole)
    text = [] if change == {"content": None} else [{"type": "text", "text": "Hi"}]
    assert (message["content"], message["stop_reason"], message["role"]) == (text, "end_turn", "assistant")
    assert (type(message["usage"]["output_tokens"]), message["id"][:4]) == (int, "msg_")
    assert answer.usage_so_far.output_tokens == message["usage"]["output_tokens"]


@pytest.mark.parametrize("missing", ["id", "name", "input"])
def test_a_call_that_cannot_be_run_is_an_error_of_a_message_that_is_not_streamed(missing: str) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    del call[missing]
    message = {**START["message"], "content": [call], "stop_reason": "tool_use"}
    words = f"anthropic sent a tool call that cannot be run: its {missing} is missing"
    with pytest.raises(UpstreamProtocolError, match=exactly(words)):
        passed([json.dumps(message).encode()], stream=False)


def test_a_call_with_a_gap_ends_the_stream_with_an_error_and_the_text_before_it_is_delivered() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    begun = frames({"type": "content_block_start", "index": 1, "content_block": call})
    piece = {"type": "input_json_delta", "partial_json": '{"a": '}
    broken = frames(
        {"type": "content_block_delta", "index": 1, "delta": piece},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    received, answer = passed([*STREAM[:5], *begun, *broken])
    assert received.startswith(b"".join(STREAM[:5]))
    words = "anthropic sent a tool call that cannot be run: its arguments are incomplete"
    assert read_events(received)[-1] == (
        "error",
        {"type": "error", "error": {"type": "api_error", "message": words}, "request_id": "req_1"},
    )
    assert (str(answer.failure), answer.stop_reason) == (words, None)


@pytest.mark.parametrize("given", [{}, {"a": "\U0001f600"}], ids=["empty start", "the same in the start"])
def test_a_character_of_arguments_may_be_divided(given: Any) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": given}
    pieces = ('{"a": "\ud83d', '\ude00"}')
    deltas = [
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": piece}}
        for piece in pieces
    ]
    sent = frames(
        {"type": "content_block_start", "index": 1, "content_block": call},
        *deltas,
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    received, answer = passed([*STREAM[:5], *sent])
    texts = [data["delta"].get("partial_json", "") for _, data in read_events(received) if "delta" in data]
    assert ("".join(texts), answer.failure) == ("".join(pieces), None)


EAGER_BETA = {"anthropic-beta": "context-1m-2025-08-07,fine-grained-tool-streaming-2025-05-14"}


@pytest.mark.parametrize(
    ("tool", "headers", "passes"),
    [
        ({"eager_input_streaming": True}, {}, True),
        ({}, EAGER_BETA, True),
        ({"eager_input_streaming": None}, EAGER_BETA, True),
        ({"eager_input_streaming": False}, EAGER_BETA, False),
        ({"eager_input_streaming": "true"}, {}, False),
        ({"description": '"eager_input_streaming": true'}, {}, False),
        ({}, {}, False),
    ],
)
@pytest.mark.parametrize("size", [1, 300_000], ids=["tools that are cached", "large tools"])
async def test_arguments_pass_unchecked_if_the_client_wants_to_read_them_while_they_are_written(
    tool: dict[str, Any], headers: dict[str, str], passes: bool, size: int
) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    piece = {"type": "input_json_delta", "partial_json": '{"file": tru'}
    sent = [
        *STREAM[:5],
        *frames(
            {"type": "content_block_start", "index": 1, "content_block": call},
            {"type": "content_block_delta", "index": 1, "delta": piece},
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        ),
    ]
    read = {"name": "Read", "input_schema": {"type": "object", "description": "x" * size}, **tool}
    other = {"name": "Write", "input_schema": {"type": "object"}, "eager_input_streaming": True}
    proxy = ProxyHarness(Streets(FakeResponse(200, *sent)), **KEY)
    sink = await proxy.post(stream=True, model=ASKED, tools=[read, other], headers=headers)
    assert (sink.stream == b"".join(sent)) is passes
    assert (proxy.receipts[0].outcome == "tool_use") is passes


def test_many_calls_at_once_end_the_stream_with_an_error() -> None:
    starts = [
        {
            "type": "content_block_start",
            "index": number,
            "content_block": {"type": "tool_use", "id": f"toolu_{number}", "name": "Read", "input": {}},
        }
        for number in range(1, 70)
    ]
    piece = {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{"}}
    received, _ = passed([*STREAM[:5], *frames(starts[0], piece, *starts[1:])])
    words = "anthropic sent a tool call that cannot be run: too many other blocks begin before its end"
    assert read_events(received)[-1][1]["error"]["message"] == words


def test_a_message_in_the_other_form_is_converted() -> None:
    body = json.dumps(OTHER_FORM).encode()
    streamed, answer = passed([body])
    assert check_bytes(streamed) == []
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("tool_use", 7, 9)
    whole, answer = passed([streamed], stream=False)
    assert json.loads(whole) == OTHER_FORM
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("tool_use", 7, 9)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'[{"type": "text", "text": "a\xff"}]', "a\N{REPLACEMENT CHARACTER}"),
        (b'[{"type": "text", "text": "a\\ud800"}]', "a\N{REPLACEMENT CHARACTER}"),
        (b'"a text"', "a text"),
    ],
)
def test_a_message_in_the_other_form_is_converted_although_it_is_odd(content: bytes, text: str) -> None:
    streamed, answer = passed(
        [b'{"type": "message", "usage": "odd", "stop_reason": "end_turn", "content": %b}' % content]
    )
    assert (answer.failure, answer.stop_reason) == (None, "end_turn")
    deltas = [event["delta"] for _, event in read_events(streamed) if event["type"] == "content_block_delta"]
    assert deltas == [{"type": "text_delta", "text": text}]
    whole, answer = passed([streamed.replace("\N{REPLACEMENT CHARACTER}".encode(), b"\xff")], stream=False)
    message = json.loads(whole)
    assert message["content"] == [{"type": "text", "text": text}]
    assert message["usage"] == {"input_tokens": 0, "output_tokens": answer.usage.output_tokens}


def test_ids_that_claude_rejects_are_replaced_in_pairs() -> None:
    messages = [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": given, "name": "Read", "input": {}} for given in ids],
        }
        if role == "assistant"
        else {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": given, "content": "x"} for given in ids],
        }
        for ids in (["Read:0", "toolu_1"], ["functions.Read:1"])
        for role in ("assistant", "user")
    ]
    body = json.dumps({"model": ASKED, "max_tokens": 9, "messages": messages}).encode()
    read = json.loads(sent(body))["messages"]
    made = [block["id"] for message in read[::2] for block in message["content"]]
    assert made == [block["tool_use_id"] for message in read[1::2] for block in message["content"]]
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", call_id) for call_id in made)
    assert (made[1], len({*made})) == ("toolu_1", 3)
    assert sent(body, target_of(verifies_signatures=False)) == sent(body).replace(made[0].encode(), b"Read:0").replace(
        made[2].encode(), b"functions.Read:1"
    )


def test_ids_that_turns_repeat_become_unique_and_stay_from_turn_to_turn() -> None:
    def talk(*turns: list[str]) -> bytes:
        messages = [
            {"role": role, "content": [{"type": kind, field: given, **more, "cited": number} for given in ids]}
            for number, ids in enumerate(turns)
            for role, kind, field, more in (
                ("assistant", "tool_use", "id", {"name": "Read", "input": {}}),
                ("user", "tool_result", "tool_use_id", {"content": "x"}),
            )
        ]
        return json.dumps({"model": ASKED, "max_tokens": 9, "messages": messages}).encode()

    turns = [["call_0", "call_1"], ["call_0"], ["call_0_2"], ["Read:0"], ["Read:0", "Read:0"]]
    for count in range(2, len(turns) + 1):
        before, now = (json.loads(sent(talk(*turns[:last])))["messages"] for last in (count - 1, count))
        assert before == now[: len(before)]
    made = [block["id"] for message in now[::2] for block in message["content"]]
    assert made == [block["tool_use_id"] for message in now[1::2] for block in message["content"]]
    fitted = made[4]
    assert made == ["call_0", "call_1", "call_0_2", "call_0_2_2", fitted, f"{fitted}_2", f"{fitted}_3"]
    assert sent(talk(*turns), target_of(verifies_signatures=False)) == talk(*turns)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, 401, "anthropic: login fail"),
        ({"code": 500, "msg": "404 NOT_FOUND", "success": False}, 500, "anthropic: 404 NOT_FOUND"),
        ({"detail": "Not Found"}, 500, "anthropic: Not Found"),
        ({"message": "No."}, 500, "anthropic: No."),
        ({}, 502, "anthropic sent an invalid message."),
    ],
)
def test_an_error_object_with_status_200_is_an_error(
    body: dict[str, Any], status: int, text: str, streams: bool
) -> None:
    with pytest.raises(UpstreamError, match="^" + re.escape(text) + "$") as raised:
        passed([json.dumps(body).encode()], stream=streams)
    assert raised.value.status == status


@given(st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([b"", b"\n", b": end\n\n", b"data: [DONE]\n\n"]))
def test_a_stream_passes_whole_at_any_cut_and_is_read_along(points: list[int], behind: bytes) -> None:
    received, answer = passed(cut(WHOLE + behind, points))
    assert received == WHOLE + behind
    assert answer.ending is None
    assert answer.failure is None
    assert answer.stop_reason == "max_tokens"
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.thinking_tokens) == (7, 9, 4)
    assert (usage.cache_read_tokens, usage.cache_write_tokens, usage.web_search_requests) == (5, 3, 2)


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=7, max_size=7), st.lists(st.integers(0, 10_000)))
def test_events_are_read_along_whatever_their_lines_end_with(ends: list[bytes], points: list[int]) -> None:
    stream = b"".join(event.replace(b"\n", end) for event, end in zip(STREAM, ends, strict=True))
    received, answer = passed(cut(stream, points))
    assert received == stream
    assert (answer.ending, answer.failure, answer.stop_reason) == (None, None, "max_tokens")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cache_write_tokens) == (7, 9, 3)


@given(st.sampled_from([b"", b'"type": "chunk", ', b'"type": null, ']), st.lists(st.integers(0, 10_000), max_size=12))
def test_an_event_is_read_along_that_only_its_first_line_names(first_field: bytes, points: list[int]) -> None:
    begin, end = (STREAM[at].replace(b'{"type": "%b", ' % name, b"{" + first_field) for at, name in NAMED)
    stream = b"".join([begin, *STREAM[1:5], end, STREAM[6]])
    received, answer = passed(cut(stream, points))
    assert read_events(received) == read_events(WHOLE)
    assert (answer.ending, answer.failure, answer.stop_reason) == (None, None, "max_tokens")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cache_write_tokens) == (7, 9, 3)


@pytest.mark.parametrize("behind", [b"", b"\n", b": end\n\n"])
def test_an_end_that_has_come_leaves_with_the_last_event(behind: bytes) -> None:
    class Received(FakeResponse):
        body_received = True

    class Noting(RecordingSink):
        async def send_relayed_bytes(self, data: bytes, headers: Any, *, is_last: bool, **other: Any) -> None:
            await super().send_relayed_bytes(data, headers, is_last=is_last, **other)
            pieces.append((data, is_last))

        async def send_events(self, events: Any, *, is_last: bool = False) -> None:
            raise AssertionError(events)

    pieces: list[tuple[bytes, bool]] = []
    message = {"model": ASKED, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": True}
    inbound = new_client_request(json.dumps(message).encode())
    begin, end = b"".join(STREAM[:4]), b"".join(STREAM[4:]) + behind
    asyncio.run(Exchange(ProxyHarness(Streets(Received(200, begin, end)), **KEY).services, inbound, Noting()).run())
    assert pieces == [(begin, False), (end, True)]


@in_virtual_time
async def test_a_client_that_reads_the_end_slowly_is_no_upstream_timeout() -> None:
    class Slow(RecordingSink):
        async def send_events(self, events: Any, *, is_last: bool = False) -> None:
            await asyncio.sleep(0.2 if is_last else 0)
            await super().send_events(events, is_last=is_last)

    proxy = ProxyHarness(Streets(FakeResponse(200, *STREAM)), UPSTREAM_IDLE_TIMEOUT="0.05", **KEY)
    sink = await proxy.post(stream=True, sink=Slow())
    assert sink.stream == WHOLE
    assert (proxy.receipts[0].outcome, proxy.receipts[0].status) == ("max_tokens", 200)


@given(st.lists(st.integers(0, 10_000), max_size=6))
def test_the_reply_s_own_model_is_put_back_and_no_other(points: list[int]) -> None:
    text = f'"model": "{TARGET}"'
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    stream = b"".join([*STREAM[:3], *frames(delta), *STREAM[4:]])
    received, _ = passed(cut(stream, points), asked=ASKED)
    assert received == stream.replace(f'"model": "{TARGET}"'.encode(), f'"model": "{ASKED}"'.encode(), 1)


@given(st.integers(1, len(WHOLE) - 1), st.lists(st.integers(0, 10_000), max_size=4), st.booleans())
def test_a_torn_stream_ends_on_the_border_of_an_event_with_one_error(end: int, points: list[int], breaks: bool) -> None:
    torn = cut(WHOLE[:end], points)
    if breaks:
        torn.append(UpstreamProtocolError("the connection broke"))
    if end < len(BEGUN):
        with pytest.raises(UpstreamProtocolError if breaks else Exception, match=r"broke|before it was complete"):
            passed(torn)
        return
    received, _ = passed([BEGUN, *cut(WHOLE[len(BEGUN) : end], points), *torn[len(torn) - breaks :]])
    sent_frames = [frame for count, frame in enumerate(STREAM) if sum(map(len, STREAM[: count + 1])) <= end]
    if len(sent_frames) < len(STREAM) - 2:
        kept, _, error = received.partition(b"event: error\n")
        assert kept == b"".join(sent_frames)
        assert error.count(b"event:") == 0
    assert check_bytes(received.rstrip() + b"\n\n") == []


def test_a_message_that_lacks_only_its_last_event_is_given_that() -> None:
    for behind in ([], [STREAM[-1][:20]], [UpstreamProtocolError("reset")]):
        received, answer = passed([*STREAM[:-1], *behind])
        assert received == b"".join(STREAM[:-1]) + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        assert answer.failure is None


@pytest.mark.parametrize("broken", [[], [UpstreamProtocolError("reset")], [b"\n", UpstreamProtocolError("reset")]])
def test_what_happens_behind_the_end_is_no_failure(broken: list[bytes | Exception]) -> None:
    received, answer = passed([WHOLE, *broken])
    assert received.rstrip() == WHOLE.rstrip()
    assert answer.failure is None


def test_an_event_that_never_ends_is_not_held_for_ever() -> None:
    received, answer = passed([BEGUN, *[b"x" * (1 << 20)] * 9])
    assert answer.failure is not None
    assert received.startswith(BEGUN + b"event: error\n")


@pytest.mark.parametrize("stream", MESSAGE_STREAMS.values(), ids=MESSAGE_STREAMS)
def test_complete_streams_pass_unchanged(stream: bytes) -> None:
    chance = random.Random(0)
    for points in ([], list(range(len(stream))), [chance.randrange(len(stream)) for _ in range(9)]):
        received, answer = passed(cut(stream, points))
        assert received == stream
        assert answer.usage.output_tokens == 282
        assert answer.stop_reason in ("end_turn", "tool_use")


def test_a_message_begins_once() -> None:
    received, answer = passed([DOUBLE_START])
    assert received == DOUBLE_START.replace(message_start(), b"", 1)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (43, 282)


# The corridor


KEY = {"ANTHROPIC_API_KEY": "sk-ant-own", "PREFERRED_PROVIDER": "anthropic"}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": ASKED, "content": []}
REPLY = {**MESSAGE, "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4.1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "from elsewhere"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
}


class Streets:
    """Record of each request and its address, answered by the first word of the address."""

    def __init__(self, *anthropic_answers: FakeResponse, openai: Callable[[], FakeResponse] | None = None) -> None:
        self.answers = list(anthropic_answers)
        self.openai = openai or (lambda: FakeResponse(200, json.dumps(CHAT).encode()))
        self.sent: list[tuple[str, UpstreamRequest, Credential | None]] = []

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.sent.append((base_url, request, credential))
        if "anthropic" not in base_url:
            return self.openai()
        return self.answers.pop(0) if self.answers else FakeResponse(200, json.dumps(REPLY).encode())


def test_the_position_of_the_model_in_a_body_makes_no_difference() -> None:
    long = {"role": "user", "content": "x" * 3_000}
    system, tools = "y" * 3_000, [{"name": "t", "input_schema": {"type": "object"}}]
    signed = {"role": "assistant", "content": [{"type": "thinking", "thinking": "z", "signature": "px1.oai.e30"}]}
    ends = {"max_tokens": 9, "messages": [long, signed, long], "system": system, "tools": tools}
    middle = {"max_tokens": 9, "messages": [long, signed, long], "model": ASKED, "system": system, "tools": tools}

    async def send(body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        await Exchange(proxy.services, new_client_request(raw), RecordingSink()).run()

    streets = Streets()
    proxy = ProxyHarness(streets, **KEY, OPENAI_API_KEY="sk-openai")
    for body in (middle, {"model": ASKED, **ends}, middle, {**middle, "model": "openai/gpt-4.1"}, middle):
        asyncio.run(send(body))
    bodies = [json.loads(request.body) for _, request, _ in streets.sent]
    assert [body["model"] for body in bodies] == [ASKED, ASKED, ASKED, "gpt-4.1", ASKED]
    assert bodies[0] == bodies[1] == bodies[2] == bodies[4]
    assert b"px1." not in streets.sent[2][1].body
    counted = {(receipt.message_count, receipt.tool_count, receipt.error) for receipt in proxy.receipts}
    assert counted == {(3, 1, "")}


def refusal(status: int, kind: str = "api_error", text: str = "no", **headers: str) -> FakeResponse:
    body = {"type": "error", "error": {"type": kind, "message": text}}
    return FakeResponse(status, json.dumps(body).encode(), headers=headers)


def ask(proxy: ProxyHarness, headers: dict[str, str] | None = None, **fields: Any) -> RecordingSink:
    return asyncio.run(proxy.post(headers=headers, **fields))


ODD = [b"9.5", b'"9"', b'"many"', b"[]", b"{}", b"null", b"true", b"-4", b"1e400", b"1" * 40, b'{"a": [1]}']


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("field", ["output_tokens", "thinking_tokens", "web_search_requests", "input_tokens"])
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.sample(4)
def test_an_odd_count_hides_nothing_else(streams: bool, field: str, value: bytes) -> None:
    counts = {"input_tokens": 7, "output_tokens": 9, "cache_creation_input_tokens": 3, "service_tier": "standard"}
    counts |= {"output_tokens_details": {"thinking_tokens": 4}, "server_tool_use": {"web_search_requests": 2}}
    odd = json.dumps(counts).encode().replace(b'"%b": ' % field.encode(), b'"%b": %b, "x": ' % (field.encode(), value))
    if streams:
        delta = b'{"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": %b}'
        end = b"event: message_delta\ndata: " + delta + b"\n\n"
        answer = FakeResponse(200, *STREAM[:5], end % odd, STREAM[6])
    else:
        answer = FakeResponse(200, b'{"type": "message", "stop_reason": "refusal", "content": [], "usage": %b}' % odd)
    proxy = ProxyHarness(Streets(answer), **KEY)
    sink = ask(proxy, stream=streams, model=ASKED)
    assert sink.error is None
    assert b"error" not in sink.stream.replace(b'"error\\"', b"")
    (receipt,) = proxy.receipts
    assert (receipt.outcome, receipt.status, receipt.cache_write_tokens) == ("refusal", 200, 3)
    if field != "output_tokens":
        assert receipt.output_tokens == 9


@pytest.mark.parametrize("odd", [b"", b', "output_tokens_details": 5'], ids=["usual", "beside an odd count"])
@pytest.mark.parametrize("streams", [True, False])
def test_cache_writes_for_one_hour_are_counted(streams: bool, odd: bytes) -> None:
    written = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 20}
    usage = {"input_tokens": 7, "cache_creation_input_tokens": 120, "cache_creation": written, "output_tokens": 1}
    counts = json.dumps(usage).encode()[:-1] + odd + b"}"
    start = b'event: message_start\ndata: {"type": "message_start", "message": {"type": "message", "usage": %b}}\n\n'
    whole = b'{"type": "message", "stop_reason": "end_turn", "content": [], "usage": %b}'
    answer = FakeResponse(200, start % counts, *STREAM[1:]) if streams else FakeResponse(200, whole % counts)
    proxy = ProxyHarness(Streets(answer), **KEY)
    assert ask(proxy, stream=streams, model=ASKED).error is None
    (receipt,) = proxy.receipts
    expected = (3, 3) if streams else (120, 20)  # the end of the stream reports 3 written tokens, and no division
    assert (receipt.cache_write_tokens, receipt.cache_write_1h_tokens) == expected


@pytest.mark.parametrize("odd", [{}, {"output_tokens_details": 5}], ids=["usual", "beside an odd count"])
@pytest.mark.parametrize(
    "stated",
    [
        {"cost": 0.002},
        {"cost": 0.0005, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0015}},
        {"cost_in_usd_ticks": 20_000_000},
    ],
    ids=["cost", "key of another vendor", "ticks"],
)
def test_a_stated_cost_is_read(stated: dict[str, Any], odd: dict[str, Any]) -> None:
    usage = json.dumps({"input_tokens": 700, "output_tokens": 90, **stated, **odd}).encode()
    whole = b'{"type": "message", "stop_reason": "end_turn", "content": [], "usage": %b}'
    proxy = ProxyHarness(Streets(FakeResponse(200, whole % usage)), **KEY)
    assert ask(proxy, stream=False, model=ASKED).error is None
    (receipt,) = proxy.receipts
    assert receipt.stated_cost == 2_000_000


@pytest.mark.parametrize("value", [b"5", b"[]", b"{}", b"true", b"1e400"])
@pytest.mark.parametrize("field", [b'"stop_sequence": null', b'"stop_details": null'])
def test_an_odd_field_beside_the_stop_reason_does_not_hide_it(field: bytes, value: bytes) -> None:
    name = field.partition(b":")[0]
    odd = [piece.replace(b'"stop_sequence": null', b"%b: %b" % (name, value)) for piece in STREAM]
    proxy = ProxyHarness(Streets(FakeResponse(200, *odd)), **KEY)
    events = read_events(ask(proxy, stream=True, model=ASKED).stream)
    if name == b'"stop_sequence"':
        assert events == read_events(WHOLE)
    else:
        assert [kind for kind, _ in events] == [kind for kind, _ in read_events(WHOLE)]
    assert (proxy.receipts[0].outcome, proxy.receipts[0].output_tokens) == ("max_tokens", 9)


PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@given(
    st.lists(
        st.sampled_from([PING, PING.replace(b"\n", b"\r\n"), STREAM[6], b'data: {"type":"ping"}\n\n']), max_size=3
    ),
    st.sampled_from([b"", b"\n", b": end\n\n", b"data: [DONE]\n\n"]),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_no_event_follows_the_last_one(late: list[bytes], other: bytes, points: list[int]) -> None:
    received, answer = passed(cut(WHOLE + b"".join(late) + other, points))
    assert received == WHOLE + other
    assert (answer.ending, answer.failure, answer.stop_reason) == (None, None, "max_tokens")


async def test_a_message_whose_last_event_never_comes_is_given_that_soon() -> None:
    proxy = ProxyHarness(Streets(FakeResponse(200, *STREAM[:-1], STALL)), **KEY)
    sink = await proxy.post(stream=True, model=ASKED)
    assert sink.stream == b"".join(STREAM[:-1]) + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert (proxy.receipts[0].outcome, proxy.receipts[0].status) == ("max_tokens", 200)


class Pinging(FakeResponse):
    """A server that sends its chunks, the pings among them after a second each."""

    async def read(self) -> bytes:
        await asyncio.sleep(self.chunks[:1] == [PING])
        return await super().read()


async def read_in_time(response: FakeResponse) -> tuple[bytes, float]:
    """Return what a client gets, and the seconds until the end."""
    watch = Watchdog(wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=600, idle_seconds=600)
    call = call_of(b"{}", target_of(TARGET), asked=TARGET)
    answer = RelayStream(call, response, watch, BackgroundWork().of("key local"), bounds=ANY_USAGE)
    await answer.wait_for_content()
    received = b""
    while (data := await answer.read()) is not None:
        received += data
    watch.stop()
    return received + encode_events([] if answer.ending is None else [answer.ending], "req_1"), watch.now()


@in_virtual_time
async def test_pings_do_not_prolong_the_wait_for_the_last_event() -> None:
    received, seconds = await read_in_time(Pinging(200, *STREAM[:1], *STREAM[2:-1], *[PING] * 9))
    last = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert (received, seconds) == (b"".join([*STREAM[:1], *STREAM[2:-1], PING, last]), 2.0)


class Talking(FakeResponse):
    """A server that sends each chunk a second and a half after the one before."""

    async def read(self) -> bytes:
        await asyncio.sleep(1.5)
        return await super().read()


@in_virtual_time
async def test_content_behind_the_reason_of_the_end_begins_the_wait_for_the_last_event_again() -> None:
    received, _ = await read_in_time(Talking(200, *STREAM[:3], STREAM[5], *[STREAM[3]] * 3, STREAM[4], STREAM[6]))
    assert read_events(received) == read_events(b"".join([*STREAM[:3], *[STREAM[3]] * 3, *STREAM[4:]]))


BEGINNINGS = [b"", b": hello\n\n", PING, STREAM[0], PING + STREAM[0], STREAM[0] + PING]


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize(
    "refusal",
    [
        b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}\n\n',
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        b'event: error\r\ndata: {"error": {"type": "overloaded_error", "message": "Overloaded"}}\r\n\r\n',
    ],
)
@pytest.mark.parametrize("torn", [False, True])
def test_an_error_in_the_first_read_is_a_real_status(beginning: bytes, refusal: bytes, torn: bool) -> None:
    tail: list[Any] = [UpstreamProtocolError("reset")] if torn else []
    proxy = ProxyHarness(Streets(*(FakeResponse(200, beginning + refusal, *tail) for _ in range(2))), **KEY)
    sink = ask(proxy, stream=True)
    assert sink.stream == b""
    assert (sink.error.status, sink.error.error_type, sink.error.message) == (
        529,
        "overloaded_error",
        "anthropic: Overloaded",
    )


@pytest.mark.parametrize(
    ("error_type", "status", "told"),
    [
        ("invalid_request_error", 400, "invalid_request_error"),
        ("authentication_error", 424, "invalid_request_error"),
        ("billing_error", 402, "billing_error"),
        ("permission_error", 424, "invalid_request_error"),
        ("not_found_error", 404, "not_found_error"),
        ("request_too_large", 413, "request_too_large"),
        ("rate_limit_error", 429, "rate_limit_error"),
        ("api_error", 500, "api_error"),
        ("timeout_error", 504, "timeout_error"),
        ("overloaded_error", 529, "overloaded_error"),
    ],
)
def test_an_error_in_the_first_read_has_the_status_of_its_type(error_type: str, status: int, told: str) -> None:
    error = {"type": "error", "error": {"type": error_type, "message": "Too bad."}}
    frame = b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"
    proxy = ProxyHarness(Streets(*(FakeResponse(200, STREAM[0] + frame) for _ in range(2))), **KEY)
    sink = ask(proxy, stream=True)
    assert (sink.error.status, sink.error.error_type) == (status, told)


@pytest.mark.parametrize(
    "chunks",
    [
        [STREAM[0], frames({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})[0]],
        [STREAM[0], STREAM[1], b'data: {"error": {"type": "overloaded_error", "message": "Overloaded"}}\n\n'],
        [STREAM[0], PING, UpstreamProtocolError("reset")],
        [STREAM[0]],
        [STREAM[0], STREAM[1][:9]],
    ],
)
def test_a_stream_that_fails_before_its_content_leaves_the_request_to_the_next_target(chunks: list[Any]) -> None:
    streets = Streets(*(FakeResponse(200, *chunks) for _ in range(2)), FakeResponse(200, WHOLE))
    proxy = ProxyHarness(
        streets, **KEY, MODEL_OPUS="anthropic/claude-opus-5", FALLBACK_OPUS="anthropic/claude-sonnet-5"
    )
    sink = ask(proxy, stream=True, model="claude-opus-5-5")
    assert sink.stream == WHOLE


class Late(FakeResponse):
    """A response whose first bytes come after nine seconds."""

    delay = 9.0

    async def read(self) -> bytes:
        delay, self.delay = self.delay, 0.0
        await asyncio.sleep(delay)
        return await super().read()


@pytest.mark.parametrize(("response", "seconds"), [(FakeResponse, 8.0), (Late, 17.0)])
@in_virtual_time
async def test_the_beginning_of_a_stream_without_content_is_held_for_eight_seconds(
    response: type[FakeResponse], seconds: float
) -> None:
    watch = Watchdog(wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=600, idle_seconds=600)
    call = call_of(b"{}", target_of(TARGET), asked=TARGET)
    answer = RelayStream(
        call, response(200, STREAM[0], PING, STALL), watch, BackgroundWork().of("key local"), bounds=ANY_USAGE
    )
    await answer.wait_for_content()
    assert (await answer.read(), watch.now()) == (STREAM[0] + PING, seconds)
    watch.stop()


DEEP = b'{"type":"message_delta","delta":' + b"[" * 100_000
BROKEN_FRAMES = [
    b'event: message_delta\ndata: {"no JSON\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":3},\n\n',
    b'data: {"type":"message_stop","x":"\xff"}\n\n',
    b"data: " + DEEP + b"\n\n",
    b"data: " + DEEP + b"]" * 100_000 + b"}\n\n",
    b'data: {"error":\ndata: {"message":}}\n\n',
    b"event: message_stop\r\ndata: {\r\n\r\n",
]
BROKEN_REPORT = {
    "type": "error",
    "error": {"type": "api_error", "message": "anthropic sent an event that is not JSON."},
    "request_id": "req_1",
}


@pytest.mark.parametrize("number", range(len(BROKEN_FRAMES)))
@given(points=st.lists(st.integers(0, 300_000), max_size=6))
@settings(max_examples=10)
def test_a_stream_with_an_event_that_no_client_can_read_ends_with_an_error(number: int, points: list[int]) -> None:
    before, behind = b"".join(STREAM[:5]), b"".join(STREAM[5:])
    received, answer = passed([BEGUN, *cut(before[len(BEGUN) :] + BROKEN_FRAMES[number] + behind, points)])
    start, _, report = received.partition(b"event: error\ndata: ")
    assert before.startswith(start)
    assert start.endswith(b"\n\n")
    assert json.loads(report) == BROKEN_REPORT
    assert str(answer.failure) == "anthropic sent an event that is not JSON."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"event: message_delta\ndata: [ERROR] the worker died", "anthropic: [ERROR] the worker died"),
        (b"data: {'error': {'message': 'the worker died', 'code': 500}}", "anthropic: the worker died"),
        (
            b'data: {"type": "error", "error": {"type": "api_error", "message": "the worker di',
            "anthropic: the worker di",
        ),
        (b'data: {"statusCode": 500, "error": "Internal Server Error", "message": "it died"}', "anthropic: it died"),
    ],
)
def test_the_text_of_an_error_in_another_form_is_told(data: bytes, message: str) -> None:
    received, answer = passed([BEGUN, b"".join(STREAM[1:5]) + data + b"\n\n"])
    assert json.loads(received.partition(b"event: error\ndata: ")[2])["error"]["message"] == message
    assert str(answer.failure) == message


def test_the_events_before_one_that_no_client_can_read_are_delivered() -> None:
    for broken in BROKEN_FRAMES:
        received, _ = passed([BEGUN, b"".join(STREAM[3:5]) + broken + b"".join(STREAM[5:])])
        assert received.startswith(b"".join(STREAM[:5]) + b"event: error\n"), broken[:60]
        assert received.count(b"event:") == 6


def test_a_message_with_its_stop_reason_ends_well_before_an_event_that_no_client_can_read() -> None:
    received, answer = passed([*STREAM[:6], BROKEN_FRAMES[-1]])
    assert received == b"".join(STREAM[:6]) + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert answer.failure is None


def test_a_stream_that_begins_with_an_event_that_no_client_can_read_is_an_error_response() -> None:
    broken = b"event: message_start\ndata: {\n\n"
    sink = ask(ProxyHarness(Streets(*(FakeResponse(200, broken, *STREAM) for _ in range(2))), **KEY), stream=True)
    assert sink.stream == b""
    assert (sink.error.status, sink.error.message) == (502, "anthropic sent an event that is not JSON.")


@pytest.mark.parametrize("end", [b"\n\n", b"\n", b""])
@pytest.mark.parametrize("name", [b"", b"event: \n", b"event: message\n", b": event: error\n"])
def test_an_error_that_clients_would_ignore_is_delivered_as_an_error_event(name: bytes, end: bytes) -> None:
    frame = name + b'data: {"error": {"message": "The model failed.", "code": 500}}' + end
    received, answer = passed([*STREAM[:5], frame])
    start, _, report = received.partition(b"event: error\ndata: ")
    assert start == b"".join(STREAM[:5])
    assert json.loads(report) == {
        "type": "error",
        "error": {"type": "api_error", "message": "anthropic: The model failed."},
        "request_id": "req_1",
    }
    assert str(answer.failure) == "anthropic: The model failed."


@pytest.mark.parametrize("end", [b"\n\n", b"\n", b""])
@pytest.mark.parametrize("name", [b"event: error\n", b"event:error\n", b"event: error\r\n", b"id: 1\nevent: error\n"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"message": "The model failed.", "code": 500}', "anthropic: The model failed."),
        (b'{"detail": "The model failed."}', "anthropic: The model failed."),
        (b'{"error": "The model failed."}', "anthropic: The model failed."),
        (b'{"error": {"message": "The model failed.", "code": 500}}', "anthropic: The model failed."),
        (b'"The model failed."', "anthropic: The model failed."),
        (b"The model failed.", "anthropic: The model failed."),
        (b"{}", "anthropic returned HTTP 500"),
    ],
)
@pytest.mark.sample(4)
def test_an_error_event_in_another_form_is_delivered_as_an_error_of_the_messages_api(
    name: bytes, data: bytes, message: str, end: bytes
) -> None:
    received, answer = passed([*STREAM[:5], name + b"data: " + data + end])
    start, _, report = received.partition(b"event: error\ndata: ")
    assert start == b"".join(STREAM[:5])
    assert json.loads(report) == {
        "type": "error",
        "error": {"type": "api_error", "message": message},
        "request_id": "req_1",
    }
    assert str(answer.failure) == message


@given(points=st.lists(st.integers(0, 1_000), max_size=6), ends=st.sampled_from([b"\n", b"\r\n", b"\r"]))
@settings(max_examples=50)
def test_a_message_that_ends_without_a_reason_has_ended(points: list[int], ends: bytes) -> None:
    begin = b"".join(STREAM[:5]).replace(b"\n", ends)
    opened = BEGUN.replace(b"\n", ends)
    chunks = cut(begin.removeprefix(opened) + STREAM[6].replace(b"\n", ends), points)
    received, answer = passed([opened, *chunks])
    assert received.startswith(begin)
    ending = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}}
    assert read_events(received[len(begin) :].replace(ends, b"\n")) == [
        ("message_delta", {**ending, "usage": {"output_tokens": answer.usage_so_far.output_tokens}}),
        ("message_stop", {"type": "message_stop"}),
    ]
    assert (answer.failure, answer.stop_reason) == (None, "end_turn")


def test_a_message_that_ends_without_a_reason_before_its_content_is_left_to_the_next_target() -> None:
    streets = Streets(*(FakeResponse(200, STREAM[0] + STREAM[6]) for _ in range(2)), FakeResponse(200, WHOLE))
    proxy = ProxyHarness(
        streets, **KEY, MODEL_OPUS="anthropic/claude-opus-5", FALLBACK_OPUS="anthropic/claude-sonnet-5"
    )
    assert ask(proxy, stream=True, model="claude-opus-5-5").stream == WHOLE


def test_a_message_whose_reason_is_null_has_ended() -> None:
    ending = STREAM[5].replace(b'"max_tokens"', b"null")
    received, answer = passed([*STREAM[:5], ending, STREAM[6]])
    assert read_events(received)[5][1]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (answer.failure, answer.stop_reason, answer.usage.output_tokens) == (None, "end_turn", 9)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_an_error_event_that_ends_with_the_connection_gets_its_blank_line(end: str) -> None:
    frame = (
        b'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "Failed."}}' + end.encode()
    )
    received, answer = passed([*STREAM[:5], frame])
    assert received == b"".join((*STREAM[:5], frame, b"\n\n"))
    assert str(answer.failure) == "anthropic: Failed."


def test_an_error_behind_an_end_without_a_reason_is_the_one_that_the_client_gets() -> None:
    early = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 5}}
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    received, answer = passed([*STREAM[:4], *frames(early, error)])
    assert (received, str(answer.failure)) == (b"".join([*STREAM[:4], *frames(error)]), "anthropic: Overloaded")


def test_an_error_event_of_the_provider_passes_unchanged() -> None:
    frame = b'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "Failed."}}\n\n'
    assert passed([*STREAM[:5], frame])[0] == b"".join((*STREAM[:5], frame))


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "No.", "code": 400}}',
        b'{"error": {"message": "No.", "type": "invalid_request_error", "code": null}}',
        b'{"error": "No."}',
        b'{"type": "error", "message": "No."}',
    ],
)
def test_an_error_of_a_gateway_with_another_api_has_the_form_of_the_messages_api(body: bytes, streamed: bool) -> None:
    frame = b"event: error\ndata: " + body + b"\n\n"
    proxy = ProxyHarness(lambda *_: FakeResponse(200, frame) if streamed else FakeResponse(400, body), **KEY)
    sink = ask(proxy, stream=streamed, model=ASKED)
    _, answer = encode_error_response(sink.error, "req_1")
    assert json.loads(answer) == {
        "type": "error",
        "error": {"type": sink.error.error_type, "message": "anthropic: No."},
        "request_id": "req_1",
    }


def test_escapes_that_only_some_decoders_reject_pass_unchanged() -> None:
    odd = STREAM[5].replace(b'"max_tokens"', b'"max_tokens", "note": "\\ud800"')
    received, answer = passed([*STREAM[:5], odd, STREAM[6]])
    assert received == b"".join([*STREAM[:5], odd, STREAM[6]])
    assert answer.failure is None


@pytest.mark.parametrize(
    ("given", "sent"),
    [(b'"a"', b'"\xff"'), (b'"content"', b'"\xc3": 1, "content"'), (b'"standard"', b'"\xff"')],
    ids=["text", "name of a member", "value that is read along"],
)
def test_a_whole_reply_that_is_not_utf_8_passes_unchanged_and_is_counted(given: bytes, sent: bytes) -> None:
    whole = {**START["message"], "stop_reason": "refusal", "content": [{"type": "text", "text": "a"}]}
    counts = {"input_tokens": 7, "output_tokens": 9, "service_tier": "standard"}
    body = json.dumps({**whole, "usage": counts}).encode().replace(given, sent)
    proxy = ProxyHarness(Streets(FakeResponse(200, body)), **KEY)
    sink = ask(proxy, stream=False, model=TARGET)
    assert sink.error is None
    assert sink.stream == body
    (receipt,) = proxy.receipts
    assert (receipt.outcome, receipt.input_tokens, receipt.output_tokens) == ("refusal", 7, 9)


class Slow(FakeResponse):
    """An answer that fails only after the client got the start of the message."""

    async def read(self) -> bytes:
        await asyncio.sleep(8.5)
        raise UpstreamProtocolError("broke after a long silence")


@in_virtual_time
async def test_a_relay_that_continues_late_does_not_begin_the_message_again() -> None:
    settings = {**KEY, "OPENAI_API_KEY": "sk-openai", "MODEL_SONNET": "openai/gpt-4.1"}
    openai = iter([Slow(200), refusal(500)])
    streets = Streets(FakeResponse(200, *STREAM), openai=lambda: next(openai))
    sink = await ProxyHarness(streets, **settings, FALLBACK_SONNET=f"anthropic/{TARGET}").post(stream=True)
    assert sink.stream.count(b'"message_start"') == 1
    assert sink.stream.endswith(b"".join(STREAM[1:]))
    assert check_bytes(sink.stream) == []


class LeavingAfterText(RecordingSink):
    """A client that disconnects when it has received all text, before the report of the output."""

    def __init__(self, end: bytes) -> None:
        super().__init__()
        self._end, self._left = end, asyncio.Event()

    async def send_relayed_bytes(self, data: bytes, headers: Any, *, is_last: bool, **other: Any) -> None:
        await super().send_relayed_bytes(data, headers, is_last=is_last, **other)
        if self.stream.endswith(self._end):
            self._left.set()

    async def wait_disconnected(self) -> None:
        await self._left.wait()


@pytest.mark.parametrize("one_read", [True, False])
@pytest.mark.parametrize("has_event_lines", [True, False])
@pytest.mark.parametrize("leaves", [True, False])
async def test_an_incomplete_reply_has_the_output_of_its_content(
    one_read: bool, has_event_lines: bool, leaves: bool
) -> None:
    pieces = [f"word {number:03} " for number in range(400)]
    deltas = ({"type": "text_delta", "text": piece} for piece in pieces)
    frames = message_start() + block(0, {"type": "text", "text": ""}, *deltas)
    if not has_event_lines:
        frames = re.sub(rb"event: \w+\n", b"", frames)
    chunks = [frames] if one_read else frames.split(b"\n\n")
    chunks = [chunk if chunk.endswith(b"\n\n") else chunk + b"\n\n" for chunk in chunks if chunk]
    proxy = ProxyHarness(lambda *_: FakeResponse(200, *chunks, STALL if leaves else b""), **KEY)
    await proxy.post(
        model=ASKED, stream=True, sink=LeavingAfterText(chunks[-1].rpartition(b"data: ")[2] if leaves else b"never")
    )
    receipt, estimate = proxy.receipts[0], len("".join(pieces)) / 4
    assert receipt.outcome == ("cancelled" if leaves else "error")
    assert receipt.input_tokens == 43
    assert estimate <= receipt.output_tokens < 2 * estimate


@pytest.mark.parametrize("streams", [True, False])
async def test_impossible_counts_of_a_reply_are_estimated(*, streams: bool) -> None:
    usage = {
        "input_tokens": -5,
        "output_tokens": 10**30,
        "cache_read_input_tokens": 12.7,
        "cache_creation_input_tokens": "9",
        "cache_creation": {"ephemeral_1h_input_tokens": -1e300},
        "server_tool_use": {"web_search_requests": -3},
    }
    reply: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": ASKED, "content": []}
    if streams:
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {**reply, "usage": usage}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
            {"type": "message_stop"},
        ]
        body = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)
    else:
        body = json.dumps({**reply, "stop_reason": "end_turn", "usage": usage}).encode()
    sent: list[int] = []

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        sent.append(len(request.body))
        return FakeResponse(200, body)

    proxy = ProxyHarness(answer, **KEY)
    sink = await proxy.post(model=ASKED, stream=streams)
    shown = read_events(sink.stream)[0][1]["message"] if streams else json.loads(sink.stream)
    assert shown["usage"] == {**usage, "cache_creation_input_tokens": 9}
    receipt = proxy.receipts[0]
    estimate = sent[0] // 4
    assert (receipt.input_tokens, receipt.output_tokens < 100) == (estimate - 12 - 9, True)
    assert (receipt.cache_read_tokens, receipt.cache_write_tokens, receipt.cache_write_1h_tokens) == (12, 9, 0)
    assert receipt.billed_searches == 0


# Counts and models


def counted(proxy: ProxyHarness, **fields: Any) -> JsonReply:
    body = json.dumps({"model": ASKED, "messages": [{"role": "user", "content": "x" * 400}], **fields}).encode()
    inbound = new_client_request(body, path="/v1/messages/count_tokens", query="beta=true")
    return asyncio.run(forwarding.count_tokens(proxy.services, inbound, RecordingSink().wait_disconnected))


def test_a_count_is_the_provider_s_own() -> None:
    streets = Streets(FakeResponse(200, b'{"input_tokens": 41}', headers={"request-id": "req_up"}))
    counted_reply = counted(ProxyHarness(streets, **KEY))
    assert counted_reply == JsonReply(b'{"input_tokens": 41}', {"x-upstream-request-id": "req_up"})
    assert streets.sent[0][1].path == "/v1/messages/count_tokens?beta=true"


NO_COUNTS = (
    *(UpstreamProtocolError("reset"), b"<html>x", b'{"error":"Unexpected endpoint"}', b'{"input_tokens":"many"}'),
    *(b'{"input_tokens":%b}' % count for count in (b"-5", b"0", b"12.7", b"1" + b"0" * 30)),
)


@pytest.mark.parametrize("failed", [refusal(404), refusal(500), *(FakeResponse(200, body) for body in NO_COUNTS)])
def test_a_count_that_fails_is_estimated_here(failed: FakeResponse) -> None:
    assert json.loads(counted(ProxyHarness(Streets(failed), **KEY)).body)["input_tokens"] > 20


def test_a_count_that_cannot_be_read_here_is_the_provider_s_to_refuse() -> None:
    with pytest.raises(UpstreamError, match=exactly("anthropic: the api's own")):
        counted(
            ProxyHarness(Streets(refusal(400, text="the api's own")), **KEY),
            messages=[{"role": "chorus", "content": 1}],
        )
    with pytest.raises(
        ClientError, match=exactly("messages.0.role: Input should be 'user', 'assistant' or 'system', got \"chorus\"")
    ):
        counted(ProxyHarness(Streets(), OPENAI_API_KEY="k"), messages=[{"role": "chorus", "content": "x"}])


def test_a_server_that_does_not_count_is_not_asked() -> None:
    streets = Streets(openai=lambda: FakeResponse(200, b'{"input_tokens": 7}'))
    ollama = ProxyHarness(streets, OLLAMA_WIRE="messages", PREFERRED_PROVIDER="ollama", BIG_MODEL="ollama/qwen3-coder")
    assert json.loads(counted(ollama).body)["input_tokens"] > 20
    assert streets.sent == []
    local = {
        "OPENAI_BASE_URL": "http://localhost:8000/v1",
        "OPENAI_WIRE": "messages",
        "BIG_MODEL": "openai/qwen3-coder",
    }
    assert counted(ProxyHarness(streets, PREFERRED_PROVIDER="openai", **local)).body == b'{"input_tokens": 7}'
    assert json.loads(streets.sent[0][1].body)["model"] == "qwen3-coder"


def listed(proxy: ProxyHarness, path: str = "/v1/models") -> JsonReply | None:
    inbound = new_client_request(b"", path=path, query="limit=1000")
    return asyncio.run(forwarding.list_models(proxy.services, inbound, RecordingSink().wait_disconnected))


MODEL = b'{"type": "model", "id": "claude-opus-5-5"}'


def test_models_are_the_provider_s_own_list_where_it_is_preferred() -> None:
    streets = Streets(FakeResponse(200, b'{"data": []}'), FakeResponse(200, MODEL), refusal(404), refusal(500))
    proxy = ProxyHarness(streets, **KEY)
    assert listed(proxy) == JsonReply(b'{"data": []}')
    assert listed(proxy, "/v1/models/claude-opus-5-5") == JsonReply(MODEL)
    assert listed(proxy, "/v1/models/claude-gone-1") is None
    assert listed(proxy) is None
    sent_on = [(request.method, request.path, request.body) for _, request, _ in streets.sent]
    assert sent_on[:2] == [("GET", "/v1/models?limit=1000", b""), ("GET", "/v1/models/claude-opus-5-5?limit=1000", b"")]


@pytest.mark.parametrize(
    "path", ["/v1/models/claude-openai/gpt-4.1", "/v1/models/..", "/v1/models/a b", "/v1/models/é"]
)
def test_other_names_are_ours_to_know(path: str) -> None:
    streets = Streets()
    assert listed(ProxyHarness(streets, **KEY), path) is None
    assert streets.sent == []


def test_a_list_in_another_shape_is_not_passed_on() -> None:
    streets = Streets()
    assert listed(ProxyHarness(streets, OLLAMA_WIRE="messages", PREFERRED_PROVIDER="ollama")) is None
    assert streets.sent == []
