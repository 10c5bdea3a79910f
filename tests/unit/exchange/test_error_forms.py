"""One error means the same in each form and at each place in which servers and gateways send it, on each wire.

The table is the product of errors, forms of a body, places in a reply and wires. Each run plays two forms of each
error at each place on each wire, others at the next place; the merge tier plays all. The outcome is stated once for
each error: what the client receives, how often a model is called, and whether the next model is. Cells that make no
sense are listed with their reason (`find_exclusion`).
"""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support import replies
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.virtual_time import in_virtual_time

WELL = replies.Reply(texts=["well"], count=5)


class Wire(Struct, frozen=True):
    form: replies.ReplyForm
    prefix: str
    """Name of the provider in messages."""
    env: dict[str, str]
    model: str
    is_relay: bool = False


WIRES = {
    "openai_chat": Wire(
        replies.CHAT,
        "openai",
        {
            "OPENAI_API_KEY": "sk-test-0123456789",
            "OPENAI_BASE_URL": "https://gateway.example/v1",
            "OPENAI_WIRE": "chat",
        },
        "openai/gpt-4.1",
    ),
    "openai_responses": Wire(
        replies.RESPONSES,
        "openai",
        {
            "OPENAI_API_KEY": "sk-test-0123456789",
            "OPENAI_BASE_URL": "https://gateway.example/v1",
            "OPENAI_WIRE": "responses",
        },
        "openai/gpt-4.1",
    ),
    "gemini": Wire(replies.GEMINI, "gemini", {"GEMINI_API_KEY": "AIza-test-0123456789"}, "gemini/gemini-2.5-flash"),
    "ollama": Wire(replies.OLLAMA, "ollama", {}, "ollama/qwen3"),
    "anthropic": Wire(
        replies.MESSAGES,
        "anthropic",
        {"ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "ANTHROPIC_UPSTREAM_URL": "https://gateway.example"},
        "anthropic/claude-x",
        is_relay=True,
    ),
}


class Case(Struct, frozen=True):
    """One error, and its outcome."""

    text: str
    sent: int
    """HTTP status with which the server sends it."""
    status: int
    type: str
    calls: int = 1
    """Calls to each of the two models."""
    next_model: bool = False
    retry_after: float | None = None
    message: str = ""
    """The message for the client without the name of the provider. "": it contains the text of the server."""
    is_refusal: bool = False
    is_full_window: bool = False
    """True if the text also says that the window is full. Behind content it ends the reply."""
    asked: dict[str, Any] = {}
    """Fields of the request that the server rejects. The proxy sends it again, changed, and gets a reply."""
    rejected: bytes = b""
    """Part of the sent body with which the server rejects it. b"": always."""
    wires: tuple[str, ...] = ()
    """The wires on which the proxy changes such a request. (): it changes nothing."""


OVERLOAD = (529, "overloaded_error", 2, True)
RATE = (429, "rate_limit_error", 1, True)
UNKNOWN = (400, "policy_blocked", 1, True)
CASES = {
    "overload OpenAI": Case("Our servers are currently overloaded. Please try again later.", 503, *OVERLOAD),
    "overload Gemini": Case("The model is overloaded. Please try again later.", 500, *OVERLOAD),
    "overload DeepSeek": Case("Service is too busy. Please try again later.", 503, *OVERLOAD),
    "overload Anthropic": Case("Overloaded", 529, *OVERLOAD),
    "overload capacity": Case("The model is at capacity. Please try again later.", 503, *OVERLOAD),
    "rate": Case("Rate limit reached for requests. Please try again in 20s.", 429, *RATE, retry_after=20),
    "rate Groq": Case("Rate limit reached for model `m`, TPM. Please try again in 7m12s.", 429, *RATE, retry_after=432),
    "context OpenAI": Case(
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
        400,
        400,
        "invalid_request_error",
        message="prompt is too long: 9000 tokens > 8192 maximum",
    ),
    "context llama.cpp": Case(
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
        400,
        400,
        "invalid_request_error",
        is_full_window=True,
        message="prompt is too long: 9000 tokens > 8192 maximum",
    ),
    "unknown Mistral": Case("Invalid model: gone", 400, *UNKNOWN),
    "unknown DeepSeek": Case("Model Not Exist", 400, *UNKNOWN),
    "unknown Groq": Case("The model `gone` has been decommissioned and is no longer supported.", 400, *UNKNOWN),
    "unknown OpenRouter": Case("gone is not a valid model ID", 400, *UNKNOWN),
    "unknown OpenAI": Case("The model `gone` does not exist or you do not have access to it.", 404, *UNKNOWN),
    "refusal xAI": Case(
        "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO", 403, 0, "", is_refusal=True
    ),
    "refusal DeepSeek": Case("Content Exists Risk", 400, 0, "", is_refusal=True),
    "billing DeepSeek": Case("Insufficient Balance", 402, 402, "billing_error", next_model=True),
    "billing Anthropic": Case(
        "Your credit balance is too low to access the API.", 400, 402, "billing_error", next_model=True
    ),
    "authentication": Case("Incorrect API key provided.", 401, 424, "invalid_request_error", next_model=True),
    "authentication xAI": Case("Invalid API key.", 401, 424, "invalid_request_error", next_model=True),
    "permission": Case(
        "You do not have permission to use this model.", 403, 424, "invalid_request_error", next_model=True
    ),
    "unreadable Ollama": Case(
        "XML syntax error on line 8: element <function> closed by </parameter>",
        500,
        502,
        "api_error",
        2,
        True,
        message="the model's reply could not be read (XML syntax error on line 8)",
    ),
}

PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string", "pattern": "^a$"}}}}
ADAPTED = {
    "parameter": Case(
        "Unsupported parameter: 'temperature' is not supported with this model.",
        400,
        200,
        "",
        asked={"temperature": 0.5},
        rejected=b'"temperature"',
        wires=("openai_chat", "openai_responses", "gemini"),
    ),
    "image": Case(
        "This model does not support image input",
        400,
        200,
        "",
        asked={"messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "look"}]}]},
        rejected=b"iVBORw0KGgo",
        wires=("openai_chat", "openai_responses", "gemini", "ollama"),
    ),
    "schema": Case(
        "Failed to initialize samplers: failed to parse grammar",
        400,
        200,
        "",
        asked={"tools": [TOOL]},
        rejected=b'"pattern"',
        wires=("openai_chat", "openai_responses"),
    ),
    "minimum": Case(
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 10 instead.",
        400,
        200,
        "",
        asked={"max_tokens": 10},
        rejected=b'tokens":10',
        wires=("openai_chat",),
    ),
}
CASES |= ADAPTED

Form = Callable[[Case], Any]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _wrapped(case: Case, raw: Any) -> Any:
    return {"error": {"message": "Provider returned error", "code": case.sent, "metadata": {"raw": raw}}}


FORMS: dict[str, Form] = {
    "object": lambda case: {"error": {"message": case.text}},
    "error as a text": lambda case: {"error": case.text},
    "error and code": lambda case: {"code": "Some error", "error": case.text},
    "message": lambda case: {"message": case.text},
    "detail": lambda case: {"detail": case.text},
    "success": lambda case: {"code": 500, "msg": case.text, "success": False},
    "base_resp": lambda case: {"base_resp": {"status_code": 1000, "status_msg": case.text}},
    "errors": lambda case: {"errors": [{"message": case.text}]},
    "fault": lambda case: {"fault": {"faultstring": case.text}},
    "status": lambda case: {"status": "error", "message": case.text},
    "list": lambda case: [{"error": {"message": case.text}}],
    "Messages API": lambda case: {"type": "error", "error": {"type": "api_error", "message": case.text}},
    "details": lambda case: {
        "error": {"code": "Invalid input", "message": "invalid input error", "details": [{"loc": [], "msg": case.text}]}
    },
    "raw text": lambda case: _wrapped(case, case.text),
    "raw object": lambda case: _wrapped(case, {"error": {"message": case.text}}),
    "raw object as text": lambda case: _wrapped(case, _json({"error": {"message": case.text}})),
    "raw error as text": lambda case: _wrapped(case, _json({"code": "Some error", "error": case.text})),
    "JSON string": lambda case: case.text,
    "plain text": lambda case: case.text.encode(),
}
PLACES = ("status", "body", "body for a stream", "first event", "after content", "choice", "failed response")


def find_exclusion(case: Case, form: str, place: str, wire: str) -> str:
    """Return why a cell makes no sense. "": it is a test."""
    if place == "choice" and (wire != "openai_chat" or form not in ("object", "raw text", "raw object as text")):
        return "only Chat Completions has choices, with an error object in them"
    if place == "failed response" and (wire != "openai_responses" or form not in ("object", "raw text")):
        return "only the Responses API has this event, with an error object in it"
    if place != "status" and form in ("JSON string", "plain text"):
        return "a text with the status 200 is no error by its form"
    if place in ("first event", "after content") and form == "list":
        return "an event is an object"
    if place != "status" and case.text.startswith("You do not have permission"):
        return "the text states no cause by itself: only the status does"
    if form == "details" and case.sent in (400, 404) and case.next_model:
        return "Azure's details name a parameter, not a model or an account"
    if case.asked and wire not in case.wires:
        return "this wire has no such field, or no other form of it"
    if case.asked and place == "after content":
        return "nothing can be sent again after a delivery"
    if case.is_refusal and wire == "anthropic":
        return "a relay leaves a refusal as the error that the server sent"
    return ""


def build_body(case: Case, form: str) -> bytes:
    content = FORMS[form](case)
    return content if isinstance(content, bytes) else msgspec.json.encode(content)


def build_event(wire: str, content: bytes) -> bytes:
    if wire == "ollama":
        return content + b"\n"
    return (b"event: error\n" if wire == "anthropic" else b"") + b"data: " + content + b"\n\n"


def build_response(case: Case, form: str, place: str, wire: str) -> FakeResponse:
    body = build_body(case, form)
    if place == "status":
        kind = "text/plain" if form == "plain text" else "application/json"
        return FakeResponse(case.sent, body, headers={"content-type": kind})
    if place in ("body", "body for a stream"):
        return FakeResponse(200, body, headers={"content-type": "application/json"})
    headers = {"content-type": "text/event-stream"}
    if place == "choice":
        error = msgspec.json.decode(body)["error"]
        body = replies.encode({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": error}]})
    elif place == "failed response":
        error = msgspec.json.decode(body)["error"]
        body = replies.encode({"type": "response.failed", "response": {"status": "failed", "error": error}})
    event = build_event(wire, body)
    if place == "after content":
        whole = WIRES[wire].form.stream(WELL)
        end = next(number for number, piece in enumerate(whole, 1) if b'"well"' in piece)
        return FakeResponse(200, *whole[:end], event, headers=headers)
    return FakeResponse(200, event, headers=headers)


def list_forms(case: int, place: str, wire: str) -> list[str]:
    """Return the forms that make sense for the error with this number."""
    name = list(CASES)[case]
    return [form for form in FORMS if not find_exclusion(CASES[name], form, place, wire)]


def choose_two_forms(case: int, place: str, wire: str) -> list[str]:
    """Return two forms of an error, other ones for the next error, place and wire."""
    forms = list_forms(case, place, wire)
    first = case + PLACES.index(place) + list(WIRES).index(wire)
    return list(dict.fromkeys(forms[(first + step) % len(forms)] for step in (0, len(forms) // 2))) if forms else []


async def run_cell(case: Case, form: str, place: str, wire: str) -> tuple[RecordingSink, list[str]]:
    kind = WIRES[wire]
    called = list[str]()

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.method == "GET" or request.path == "/api/show":  # lists of models
            return FakeResponse(404, b"{}")
        called.append("second" if "second" in request.path or b"second" in request.body else "first")
        if case.rejected and case.rejected not in bytes(request.body):
            if place == "body":
                return FakeResponse(200, kind.form.whole(WELL))
            return FakeResponse(200, *kind.form.stream(WELL))
        return build_response(case, form, place, wire)

    proxy = ProxyHarness(answer, MODEL_SONNET=kind.model, FALLBACK_SONNET=f"{kind.model}-second", **kind.env)
    return await proxy.post(stream=place != "body", **case.asked), called


def check(case: Case, form: str, place: str, wire: str, sink: RecordingSink, called: list[str]) -> list[str]:
    """Return what differs from the outcome that the case states."""
    after = place == "after content"
    if case.asked:
        well = "well" in (sink.stream.decode() or json.dumps(sink.body))
        return [] if well and called == ["first", "first"] else [f"calls {called}, {sink.error}"]
    count = 1 if after else case.calls
    expected_calls = ["first"] * count + ["second"] * (count if case.next_model and not after else 0)
    faults = [] if called == expected_calls else [f"calls {called}"]
    events = [json.loads(line[6:]) for line in sink.stream.decode().split("\n") if line.startswith("data: ")]
    stop = "refusal" if case.is_refusal else "model_context_window_exceeded" if case.is_full_window and after else ""
    if stop and not WIRES[wire].is_relay:
        stops = [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"]
        reason = (stops or [sink.body.get("stop_reason")])[-1]
        return faults if reason == stop else [*faults, f"ends as {reason} {sink.error}"]
    status = case.status
    if after:
        found = next((event["error"] for event in events if event["type"] == "error"), {"type": "", "message": events})
        kind, message = found["type"], found["message"]
    elif sink.error is None:
        return [*faults, f"no error: {events or sink.body}"]
    else:
        kind, message, status = sink.error.error_type, sink.error.message, sink.error.status
        if case.retry_after is not None and sink.error.retry_after != case.retry_after:
            faults.append(f"retry-after {sink.error.retry_after}")
    if WIRES[wire].is_relay and (place == "status" or form == "Messages API"):
        # a relay keeps the status of its server, and the words of an error in the form of the Messages API
        if status not in (case.status, case.sent):
            faults.append(f"status {status}")
        if form == "Messages API" and not re.fullmatch(build_message_pattern(case, form, wire, is_kept=True), message):
            faults.append(f"message {message}")
        return faults
    if (status, kind) != (case.status, case.type):
        faults.append(f"{status} {kind}")
    if not re.fullmatch(build_message_pattern(case, form, wire), message):
        faults.append(f"message {message}")
    return faults


def build_message_pattern(case: Case, form: str, wire: str, *, is_kept: bool = False) -> str:
    """Return a pattern of the whole message: the provider, the words of the server, and what the proxy adds.

    `is_kept`: True if a relay forwards the error of its server.
    """
    text = re.escape(case.message or case.text.rstrip("."))
    provider = "" if case.message.startswith("prompt is too long") else f"{WIRES[wire].prefix}: "
    if is_kept:
        provider, text = f"({WIRES[wire].prefix}: )?", f"({text}|{re.escape(case.text.rstrip('.'))})"
    if not case.message:
        provider += "Provider returned error: " * form.startswith("raw") + "invalid input error: " * (form == "details")
    added = r"\.?"
    if case.sent == 401:
        added = r"\.?( The key comes from \w+ in the environment\.| No key was sent: \w+ is not set\.)?"
    elif case.next_model and case.status in (400, 404):
        added = r"\.?( The model \S+ is set by (MODEL|FALLBACK)_SONNET, environment\. Remedy: set .+)?"
    return f"{provider}{text}{added}"


@pytest.mark.parametrize(
    "choose_forms",
    [pytest.param(choose_two_forms, id="two forms"), pytest.param(list_forms, id="all forms", marks=pytest.mark.merge)],
)
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("place", PLACES)
@in_virtual_time
async def test_an_error_means_the_same_in_each_form_and_place(
    place: str, wire: str, choose_forms: Callable[[int, str, str], list[str]]
) -> None:
    found = {}
    for number, name in enumerate(CASES):
        for form in choose_forms(number, place, wire):
            sink, called = await run_cell(CASES[name], form, place, wire)
            if faults := check(CASES[name], form, place, wire, sink, called):
                found[name, form] = faults
    assert found == {}
