"""What each client is told about an error behind the proxy, on each wire and at each place where it arrives."""

import asyncio
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import Struct

from anthropic_proxy.engine.exchange.client_errors import ROWS
from anthropic_proxy.engine.exchange.client_side import encode_error_response
from anthropic_proxy.engine.hooks import Client
from tests.support import replies
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.paths import ROOT
from tests.support.tables import in_one_test


class Wire(Struct, frozen=True):
    form: replies.ReplyForm
    prefix: str
    settings: dict[str, str]
    model: str
    key: str
    """What the message says about the key after a 401."""


CHAT = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
RESPONSES = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "responses"}
ANTHROPIC = {"ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}
KEY_OF = "The key comes from {}_API_KEY in the environment."
WIRES = {
    "chat": Wire(replies.CHAT, "openai", CHAT, "openai/gpt-4.1", KEY_OF.format("OPENAI")),
    "responses": Wire(replies.RESPONSES, "openai", RESPONSES, "openai/gpt-4.1", KEY_OF.format("OPENAI")),
    "gemini": Wire(
        *(replies.GEMINI, "gemini", {"GEMINI_API_KEY": "AIza-test-0123456789"}),
        *("gemini/gemini-2.5-flash", KEY_OF.format("GEMINI")),
    ),
    "ollama": Wire(replies.OLLAMA, "ollama", {}, "ollama/qwen3", "No key was sent: OLLAMA_API_KEY is not set."),
    "relay": Wire(replies.MESSAGES, "anthropic", ANTHROPIC, "anthropic/claude-x", KEY_OF.format("ANTHROPIC")),
}
CLIENTS = {
    "settings": Client(),
    "virtual key": Client(name="ci", key_id="key_1", role="member"),
    "sign-in": Client(name="ann", key_id="key_2", role="member", sign_in="sign_1"),
}
ASK = "It is a key of the proxy: tell its administrator."
ON_THE_WAY = "A proxy or gateway before the provider refuses the request, or the network asks for a log-in."
PAGE = (
    "the response is a web page (HTTP {}, text/html) instead of an API response, as gateways, firewalls and networks "
    "with a log-in send it."
)


class Case(Struct, frozen=True):
    """An error at the provider, and what a client is told. `status`, `error_type`: that of clients who did not sign in.

    `{key}` in the message is what it says about the key.
    """

    sent: int
    code: str
    status: int
    error_type: str
    message: str
    text: str = "No."
    page: bytes = b""
    signed_in: tuple[int, str] | None = None
    """Status and type for a person who signed in. None: the same."""
    ask: bool = False
    """True if people and programs with a virtual key are told whom to ask."""
    model_is_set: bool = False
    """True if a setting names the model."""


SIGNED_IN = (403, "permission_error")
HTML = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Log in to this network</body></html>"
CASES = {
    "key": Case(401, "rejected-key", 424, "invalid_request_error", "{name}: No. {key}", signed_in=SIGNED_IN, ask=True),
    "access": Case(403, "no-access", 424, "invalid_request_error", "{name}: No.", signed_in=SIGNED_IN, ask=True),
    "credit": Case(402, "no-credit", 402, "billing_error", "{name}: No."),
    "legal": Case(451, "no-access", 424, "invalid_request_error", "{name}: No."),
    "proxy key": Case(407, "refused-on-the-way", 424, "invalid_request_error", f"{{name}}: No. {ON_THE_WAY}"),
    "misdirected": Case(421, "refused-on-the-way", 424, "invalid_request_error", f"{{name}}: No. {ON_THE_WAY}"),
    "too early": Case(425, "refused-on-the-way", 424, "invalid_request_error", f"{{name}}: No. {ON_THE_WAY}"),
    "network": Case(511, "refused-on-the-way", 424, "invalid_request_error", f"{{name}}: No. {ON_THE_WAY}"),
    "region": Case(
        *(403, "region", 424, "invalid_request_error", "{name}: Country, region, or territory not supported"),
        text="Country, region, or territory not supported",
    ),
    "region of Gemini": Case(
        *(400, "region", 424, "invalid_request_error", "{name}: User location is not supported for the API use."),
        text="User location is not supported for the API use.",
    ),
    "page 401": Case(
        401, "not-an-api", 424, "invalid_request_error", f"{{name}}: {PAGE.format(401)} {{key}}", page=HTML
    ),
    "page 403": Case(403, "not-an-api", 424, "invalid_request_error", f"{{name}}: {PAGE.format(403)}", page=HTML),
    "page 511": Case(511, "not-an-api", 424, "invalid_request_error", f"{{name}}: {PAGE.format(511)}", page=HTML),
    "model": Case(
        *(404, "configured-model-not-found", 400, "policy_blocked"),
        "{name}: The model gone does not exist. The model {model} is set by MODEL_SONNET, environment. Remedy: set "
        "MODEL_SONNET={name}/<another model>",
        text="The model gone does not exist",
        model_is_set=True,
    ),
}


def build_body(case: Case) -> bytes:
    return case.page or json.dumps({"error": {"message": case.text}}).encode()


def build_proxy(wire: Wire, answer: FakeResponse, *, model_is_set: bool) -> ProxyHarness:
    def upstream(base_url: str, request: Any, credential: Any) -> FakeResponse:
        return FakeResponse(404, b"{}") if request.method == "GET" or request.path == "/api/show" else answer

    return ProxyHarness(upstream, **wire.settings, **({"MODEL_SONNET": wire.model} if model_is_set else {}))


def find_expected(case: Case, wire: Wire, owner: str) -> tuple[int, dict[str, Any]]:
    status, error_type = (
        case.signed_in
        if case.signed_in is not None and owner == "sign-in"
        else (
            case.status,
            case.error_type,
        )
    )
    message = case.message.format(name=wire.prefix, key=wire.key, model=wire.model)
    if owner != "settings":
        message = message.partition(" Remedy: ")[0]
        if "Remedy" in case.message:
            message += " Ask an administrator of the proxy for help."
        if case.ask:
            message += f"{'' if message.endswith('.') else '.'} {ASK}"
    code = case.code.replace("-", "_")
    return status, {"type": error_type, "message": message, "details": {"error_code": code}}


def read_told(sink: RecordingSink) -> tuple[int, dict[str, Any], str | None]:
    assert sink.error is not None
    headers, body = encode_error_response(sink.error, "req_1")
    return sink.error.status, json.loads(body)["error"], headers.get("x-should-retry")


@in_one_test
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("owner", CLIENTS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_client_is_told_what_concerns_its_own_hop(wire: str, case: str, owner: str, stream: bool) -> None:
    row, kind = CASES[case], WIRES[wire]
    headers = {"content-type": "text/html" if row.page else "application/json"}
    proxy = build_proxy(kind, FakeResponse(row.sent, build_body(row), headers=headers), model_is_set=row.model_is_set)
    model = "claude-sonnet-5-5" if row.model_is_set else kind.model
    sink = asyncio.run(proxy.post(model=model, stream=stream, client=CLIENTS[owner]))
    status, error = find_expected(row, kind, owner)
    assert read_told(sink) == (status, error, "false")
    receipt = proxy.receipts[-1]
    assert (receipt.status, receipt.error_code) == (status, row.code)
    assert [attempt.status for attempt in receipt.attempts] == [row.sent]


KINDS = {
    "authentication_error": ("rejected-key", 424, "invalid_request_error", SIGNED_IN[1]),
    "permission_error": ("no-access", 424, "invalid_request_error", SIGNED_IN[1]),
    "billing_error": ("no-credit", 402, "billing_error", "billing_error"),
    "overloaded_error": ("overloaded", 529, "overloaded_error", "overloaded_error"),
}
"""Type of an error in a stream → its code, and the status and type for other clients and for a person who signed in."""


@in_one_test
@pytest.mark.parametrize("owner", CLIENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wire", WIRES)
def test_an_error_in_the_middle_of_a_stream_is_told_alike(wire: str, kind: str, owner: str) -> None:
    body = json.dumps({"error": {"type": kind, "message": "No."}}).encode()
    if wire == "relay":
        body = json.dumps({"type": "error", "error": {"type": kind, "message": "No."}}).encode()
    pieces = WIRES[wire].form.stream(replies.Reply(texts=["well"]))
    end = next(number for number, piece in enumerate(pieces, 1) if b'"well"' in piece)
    event = body + b"\n" if wire == "ollama" else b"data: " + body + b"\n\n"
    event = b"event: error\n" + event if wire == "relay" else event
    answer = FakeResponse(200, *pieces[:end], event, headers={"content-type": "text/event-stream"})
    proxy = build_proxy(WIRES[wire], answer, model_is_set=False)
    sink = asyncio.run(proxy.post(model=WIRES[wire].model, stream=True, client=CLIENTS[owner]))
    events = [json.loads(line[6:]) for line in sink.stream.decode().split("\n") if line.startswith("data: ")]
    code, status, told, signed_in = KINDS[kind]
    assert [event["error"]["type"] for event in events if event["type"] == "error"] == [
        signed_in if owner == "sign-in" else told
    ]
    receipt = proxy.receipts[-1]
    expected = 403 if owner == "sign-in" and status == 424 else status
    assert (receipt.status, receipt.error_type, receipt.error_code) == (expected, kind, code)


@pytest.mark.parametrize(("status", "kind"), [(401, "authentication_error"), (403, "permission_error")])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_own_key_of_a_client_keeps_the_status_and_the_body(status: int, kind: str, stream: bool) -> None:
    body = {"type": "error", "error": {"type": kind, "message": "invalid x-api-key"}}
    proxy = ProxyHarness(lambda *_: FakeResponse(status, json.dumps(body).encode()), PREFERRED_PROVIDER="anthropic")
    headers = {"x-api-key": "sk-ant-of-the-client"}
    sink = await proxy.post(model="claude-opus-5-5", stream=stream, headers=headers)
    assert sink.error is not None
    _, sent = encode_error_response(sink.error, "req_1")
    assert (sink.error.status, json.loads(sent)) == (status, body)
    assert (proxy.receipts[-1].status, proxy.receipts[-1].error_type) == (status, kind)


PASSED_ON = {
    **{name: case for name, case in CASES.items() if name != "region of Gemini"},
    "another proxy": Case(424, "", 424, "", ""),  # that is refused by its provider
}


@pytest.mark.parametrize("case", PASSED_ON)
@pytest.mark.parametrize("wire", WIRES)
async def test_the_next_target_is_called_by_the_status_of_the_provider(wire: str, case: str) -> None:
    row, kind = PASSED_ON[case], WIRES[wire]
    called = list[str]()

    def upstream(base_url: str, request: Any, credential: Any) -> FakeResponse:
        if request.method == "GET" or request.path == "/api/show":
            return FakeResponse(404, b"{}")
        called.append("second" if "second" in request.path or b"second" in request.body else "first")
        if called[-1] == "second":
            return FakeResponse(200, kind.form.whole(replies.Reply(texts=["well"])))
        return FakeResponse(row.sent, build_body(row), headers={"content-type": "text/html" if row.page else "x/json"})

    models: Mapping[str, str] = {"MODEL_SONNET": kind.model, "FALLBACK_SONNET": f"{kind.model}-second"}
    proxy = ProxyHarness(upstream, **kind.settings, **models)
    sink = await proxy.post(model="claude-sonnet-5-5", stream=False)
    assert called == ["first", "second"], sink.error
    assert proxy.receipts[-1].failed_attempts == [f"{kind.prefix} {row.sent}"]


OWN_KEYS = (
    *("proxy-key-missing", "proxy-key-wrong", "virtual-key-rejected", "issuer-token", "sign-in-token"),
    "sign-in-ended",
)
"""Codes of 401 about the key with which the client asks the proxy."""


def test_each_error_about_a_key_has_a_row_or_is_about_the_key_of_the_client() -> None:
    catalog = tomllib.loads((ROOT / "docs/fix/errors.toml").read_text("utf-8"))
    told = {code for row in ROWS for code in row.codes}
    assert set(catalog["AuthenticationFailed"]) == {
        code for code in told if code in catalog["AuthenticationFailed"]
    } | {*OWN_KEYS}


def test_the_alert_knows_each_code_of_the_table() -> None:
    (pattern,) = set(re.findall(r'code=~"(.+?)"', (ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8")))
    told = {code for row in ROWS for code in row.codes} | {case.code for case in CASES.values()}
    assert set(pattern.split("|")) == told
