"""What one key sends must not change, show or pay what another key sends: observations, sessions, credentials."""

import itertools
import json
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import UpstreamCall, reply_text, respond
from tests.faults.client import Answer
from tests.support.pdf import document, join_objects, write_pdf, write_stream

_MODEL = "openai/gpt-4.1"
_TEXT_MODEL = "groq/openai/gpt-oss-120b"
_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
_PDF = document(write_pdf("A deed"))
_CONTENT = [{"type": "text", "text": "Hello"}, _IMAGE, _PDF]
_SCHEMA = {
    "type": "object",
    "properties": {"command": {"type": "string", "pattern": "^a"}},
    "required": ["command"],
    "additionalProperties": False,
}
_TOOL = {"name": "Bash", "input_schema": _SCHEMA}
_FIELDS: Mapping[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "stop_sequences": ["END"],
    "tools": [_TOOL],
    "tool_choice": {"type": "any"},
    "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
    "messages": [{"role": "user", "content": _CONTENT}],
}
_USUAL = reply_text("All is well.")
_LESSONS = (
    "Unsupported parameter: 'temperature' is not supported with this model.",
    "Unsupported parameter: 'top_p' is not supported with this model.",
    "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported.",
    "Unrecognized request argument supplied: top_p",
    "property 'temperature' is unsupported",
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "Unsupported parameter: 'stop' is not supported with this model.",
    "Unsupported parameter: 'stream_options' is not supported",
    "registry.ollama.ai/library/gpt-4.1 does not support tools",
    "This model does not support tools",
    "tool_choice: extra fields not permitted",
    "This model's maximum context length is 16 tokens. However, you requested 900 tokens.",
    "max_tokens is too large: 100. This model supports at most 5 completion tokens",
    "max_tokens must be at most 1024",
    "This request is supported in v1/responses only",
)
"""Sentences with which providers reject a field. A client makes the provider repeat them as the client's own text."""
_ECHOES: Mapping[str, Mapping[str, Any]] = {
    "invalid value": {"message": "Invalid value for 'stop': '{}'", "param": "stop", "code": "invalid_value"},
    "invalid content": {"message": "Invalid content: {}", "param": "messages.[0].content", "code": None},
    "no field": {"message": 'The text was refused: "{}"', "type": "invalid_request_error"},
    "schema": {
        "message": "Invalid schema for response_format 'reply': In context=('properties', '{}'), 'x' is not an object.",
        "param": "response_format",
    },
    "content filter": {"message": "Policy violation in '{}'", "param": "prompt", "code": "content_filter"},
}


def _refuse_once(refusals: list[bytes], call: UpstreamCall) -> bytes:
    return refusals.pop() if refusals else _USUAL(call)


_GENUINE = {"message": _LESSONS[0], "param": "temperature", "code": "unsupported_parameter"}


def _refuse(lesson: str, form: Mapping[str, Any]) -> bytes:
    error = {**form, "message": form["message"].format(lesson), "type": "invalid_request_error"}
    return respond(json.dumps({"error": error}).encode(), status=400)


_VALUES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    # what a client sends, and how the API of OpenAI refuses this value
    "temperature": (
        {"temperature": 5},
        {
            "message": "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 5 instead.",
            "param": "temperature",
            "code": "decimal_above_max_value",
        },
    ),
    "top_p": (
        {"top_p": -1},
        {
            "message": "Invalid 'top_p': decimal below minimum value. Expected a value >= 0, but got -1 instead.",
            "param": "top_p",
            "code": "decimal_below_min_value",
        },
    ),
    "stop": (
        {"stop_sequences": ["a", "b", "c", "d", "e"]},
        {
            "message": "Invalid 'stop': array too long. Expected an array with maximum length 4, but got 5 instead.",
            "param": "stop",
            "code": "array_above_max_length",
        },
    ),
    "tool name": (
        {"tools": [{**_TOOL, "name": "x" * 65}]},
        {
            "message": "Invalid 'tools[0].function.name': string too long. Expected a string with maximum length 64.",
            "param": "tools[0].function.name",
            "code": "string_above_max_length",
        },
    ),
    "schema": (
        {"tools": [{**_TOOL, "input_schema": {"type": "object", "properties": {"a": {"type": "nothing"}}}}]},
        {
            "message": "Invalid schema for function 'Bash': 'nothing' is not valid under any of the given schemas.",
            "param": "tools[0].function.parameters",
            "code": "invalid_function_parameters",
        },
    ),
    "max_tokens": (
        {"max_tokens": 900_000},
        {
            "message": "max_tokens is too large: 900000. This model supports at most 32768 completion tokens, "
            "whereas you provided 900000.",
            "param": "max_tokens",
            "code": "invalid_value",
        },
    ),
    "a wrong pattern": (
        {},
        {
            "message": "Invalid schema for function 'Bash': In context=('properties', 'command'), '^a' is not a regex.",
            "param": "tools[0].function.parameters",
            "code": "invalid_function_parameters",
        },
    ),
    "a wrong schema of the reply": (
        {},
        {
            "message": "Invalid schema for response_format 'reply': In context=('properties', 'command'), 'pattern' is "
            "not a 'regex'.",
            "param": "response_format",
            "code": None,
        },
    ),
    "a name of a tool": (
        {"tool_choice": {"type": "tool", "name": "Bash"}},
        {"message": "Tool choice 'Bash' not found in 'tools' parameter.", "param": "tool_choice", "code": None},
    ),
    "a broken image": (
        {},
        {
            "message": "The image data you provided does not represent a valid image. Please check your input and try "
            "again with one of the supported image formats: ['image/jpeg', 'image/png', 'image/gif', 'image/webp'].",
            "param": None,
            "code": "invalid_image_format",
        },
    ),
    "a broken image at its place": (
        {},
        {
            "message": "Invalid 'messages[0].content[1].image_url.url'. Expected a base64-encoded data URL with an "
            "image MIME type, but got unsupported MIME type 'image/png'.",
            "param": "messages[0].content[1].image_url.url",
            "code": "invalid_value",
        },
    ),
    "an image of an unknown form": (
        {},
        {
            "message": "You uploaded an unsupported image. Please make sure your image is valid.",
            "param": "image_url",
            "code": "invalid_image",
        },
    ),
    "a broken document": (
        {},
        {
            "message": "Invalid 'messages[0].content[2].file.file_data'. Expected a base64-encoded data URL.",
            "param": "messages[0].content[2].file.file_data",
            "code": "invalid_value",
        },
    ),
    "a document that cannot be read": (
        {},
        {"message": "The file could not be read: it is no valid PDF.", "param": "file", "code": "invalid_file"},
    ),
    "a document with a password": (
        {},
        {
            "message": "Failed to extract text from the file: the PDF is encrypted.",
            "param": "messages[0].content[2].file",
            "code": "invalid_file",
        },
    ),
}


def _compare(sent: tuple[int, str], control: tuple[int, str]) -> str:
    """Return the fields that differ."""
    after, before = (json.loads(body) for _, body in (sent, control))
    differing = {name: (after.get(name), before.get(name)) for name in {*after, *before}}
    return f"{sent[0]} { ({name: pair for name, pair in differing.items() if pair[0] != pair[1]}) }"


def _learn_nothing(attack: Attack) -> list[Answer]:
    """A provider repeats a client's text in its refusal: the next request of another key has all its fields."""
    attempts = Attempts()
    mallory, ann = Buyer(attack, "mallory"), Buyer(attack, "ann")

    def send(model: str, client: Buyer = ann) -> Any:
        attack.upstream.reply = _USUAL
        attack.upstream.calls.clear()
        answer = client.post({**ordinary(model), **_FIELDS})
        call = next(iter(attack.upstream.calls), None)  # another one follows if the reply does not match the schema
        body = {} if call is None else {**call.body, "model": ""}
        return answer.status_code, json.dumps(body, sort_keys=True)

    control = send("openai/gpt-4.1-control")
    attack.upstream.reply = lambda call: _refuse("", _GENUINE) if "temperature" in call.body else _USUAL(call)
    mallory.post({**ordinary("openai/gpt-4.1-strict"), **_FIELDS})
    attempts.check("control: a refusal is learned", send("openai/gpt-4.1-strict", mallory) != control)
    attempts.check("a refusal", send("openai/gpt-4.1-strict") == control)
    for number, (place, form) in enumerate(_ECHOES.items()):
        for index, lesson in enumerate(_LESSONS):
            model = f"openai/gpt-4.1-echo-{number}-{index}"
            attack.upstream.reply = lambda _, lesson=lesson, form=form: _refuse(lesson, form)  # type: ignore[misc]
            mallory.post({**_FIELDS, **ordinary(model, lesson), "stop_sequences": [lesson]})
            attempts.check(f"{place}: {lesson}", send(model) == control, _compare(send(model), control))
    for number, (place, (fields, form)) in enumerate(_VALUES.items()):
        model = f"openai/gpt-4.1-value-{number}"
        attack.upstream.reply = partial(_refuse_once, [_refuse("", form)])
        mallory.post({**ordinary(model), **_FIELDS, **fields})
        attempts.check(f"an invalid value: {place}", send(model) == control, _compare(send(model), control))
    return attempts.finish(attack)


_DEFERRED = {"name": "DeferredToolPlaceholder", "input_schema": {"type": "object"}, "defer_loading": True}
_LATE = {"name": "Late", "description": "x", "input_schema": {"type": "object"}, "defer_loading": True}
_THINKING = {"thinking": {"type": "adaptive"}}
_TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Go on."},
]
_FOREIGN: Mapping[str, Mapping[str, Any]] = {
    "another effort": {"output_config": {"effort": "low"}, **_THINKING},
    "a higher effort": {"output_config": {"effort": "max"}, **_THINKING},
    "no thinking": {"thinking": {"type": "disabled"}},
    "a loaded tool": {"tools": [_TOOL, {**_LATE, "defer_loading": False}, _DEFERRED]},
    "a deferred tool": {"tools": [_TOOL, _LATE, _DEFERRED]},
    "another system text": {"system": "You are a pirate."},
    "a marked system text": {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
    "another tool": {"tools": [{**_TOOL, "description": "Another one."}]},
    "a longer conversation": {"messages": [*_TURNS, {"role": "assistant", "content": "x"}, _TURNS[2]]},
    "a token count": {},
    "a schema": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    "a metadata session": {"metadata": {"user_id": "user_a_account__session_5c7a2f0e-0000-4000-8000-000000000001"}},
}
_GPT = "openai/gpt-6"


def _share_a_session(attack: Attack) -> list[Answer]:
    """A key that uses the session id of another one changes nothing of its prompts."""
    attempts = Attempts()
    mallory, ann = Buyer(attack, "mallory"), Buyer(attack, "ann")
    usual = {"tools": [_TOOL, _LATE, _DEFERRED], "output_config": {"effort": "high"}, **_THINKING, "max_tokens": 4_000}

    def send(session: str) -> list[str]:
        sent = []
        for turns in (_TURNS[:1], _TURNS):
            attack.upstream.calls.clear()
            answer = ann.post(
                {**ordinary(_GPT), **usual, "messages": turns}, **{"x-claude-code-session-id": f"session-{session}"}
            )
            assert answer.status_code == 200, answer.text
            body = json.dumps(attack.upstream.calls[-1].body, sort_keys=True)
            sent.append(body.replace(attack.upstream.calls[-1].body.get("prompt_cache_key") or "none", ""))
        return sent

    control = send("control")
    for number, (name, fields) in enumerate(_FOREIGN.items()):
        headers = {"x-claude-code-session-id": f"session-{number}"}
        path = "/v1/messages/count_tokens" if name == "a token count" else "/v1/messages"
        for turns in (_TURNS[:1], _TURNS):
            body = {**ordinary(_GPT), **usual, "messages": turns, **fields}
            if path != "/v1/messages":
                del body["max_tokens"]
            mallory.post(body, path, **headers)
        attempts.check(f"{name} in the session of another key", send(str(number)) == control, send(str(number)))
    stored = ann.admin.get("/api/requests", params={"limit": 200}).json()
    rows = stored.get("data") or stored.get("requests") or []
    changed = [row for row in rows if row.get("prefix_change") and row.get("client") == "ann"]
    attempts.check("no change of a prefix is reported for the other key", not changed, changed)
    return attempts.finish(attack)


_REFUSALS: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    # errors that one request causes, as OpenRouter and OpenAI send them
    "moderation": (
        403,
        {"code": 403, "message": "Your input was flagged for hate.", "metadata": {"reasons": ["hate"]}},
    ),
    "credits": (402, {"code": 402, "message": "This request requires more credits, or fewer max_tokens."}),
    "size": (
        429,
        {"message": "Request too large for gpt-4.1 on tokens per min (TPM): Limit 30000, Requested 50000."},
    ),
    "region": (403, {"message": "Country, region, or territory not supported"}),
    "model": (403, {"message": "Project does not have access to model `gpt-4.1`", "code": "model_not_found"}),
    "scope": (401, {"message": "You have insufficient permissions for this operation."}),
    "an error of the server": (500, {"message": "The server had an error processing your request"}),
    "overload": (503, {"message": "overloaded"}),
    "no reply": (200, {}),
}


def _fail_for_one(attack: Attack) -> list[Answer]:
    """Errors that requests of one key cause, with each key of the provider, stop no request of another key."""
    attempts = Attempts()
    mallory, ann = Buyer(attack, "mallory"), Buyer(attack, "ann")
    for name, (status, error) in _REFUSALS.items():

        def answer(call: UpstreamCall, status: int = status, error: Mapping[str, Any] = error) -> bytes:
            if "poison" in json.dumps(call.body):
                return respond(json.dumps({"error": error} if error else {}).encode(), status=status)
            return _USUAL(call)

        attack.upstream.reply = answer
        for _ in range(6):
            mallory.post(ordinary(_MODEL, "poison"))
        served = ann.post(ordinary(_MODEL))
        attempts.check(f"errors of one key: {name}", served.status_code == 200, served.text)
    return attempts.finish(attack)


_VERDICTS = (
    # with which providers judge an account, a key or a server
    "insufficient funds",
    "Your credit balance is too low",
    "daily usage limit reached, try again in 20 hours",
    "Rate limit reached for requests. Please try again in 59 minutes.",
    "invalid api key",
    "The engine is currently overloaded",
    "This model's maximum context length is 16 tokens. However, you requested 900 tokens.",
    "operation not allowed",
    json.dumps({"error": {"message": "no", "code": "insufficient_quota", "type": "billing_error"}}),
    json.dumps({"message": "no", "code": "invalid_api_key", "status": 401}),
    'litellm.RateLimitError: {"error": {"message": "no", "code": "rate_limit_exceeded", "type": "1308"}}',
)
_QUOTES = (
    "Invalid schema for response_format 'reply': In context=('properties', '{}'), 'x' is not an object.",
    "{} is bad",
)
_KEY_PAIRS = {
    "OPENAI_API_KEY": "sk-attack-0001,sk-attack-0002",
    "GEMINI_API_KEY": "attack-gemini-1,attack-gemini-2",
    "ANTHROPIC_API_KEY": "attack-ant-1,attack-ant-2",
}
_PAIRED_MODELS = (_MODEL, "gemini/gemini-2.5-flash", "anthropic/claude-sonnet-4-5")


def _refuse_with_quote(text: str, place: str, call: UpstreamCall) -> bytes:
    error = {"message": text, "type": "invalid_request_error", "code": None, "param": None}
    if place.isdecimal():
        return respond(json.dumps({"type": "error", "error": error}).encode(), status=int(place))
    if place == "plain text":
        return respond(text.encode(), "text/plain", status=400)
    error["type"] = "api_error"
    body = json.dumps({"type": "error", "error": error})
    return (
        respond(f"event: error\ndata: {body}\n\n".encode(), "text/event-stream")
        if place == "event"
        else respond(body.encode())
    )


def _read_key(call: UpstreamCall) -> str:
    names = ("x-api-key", "x-goog-api-key", "authorization")
    return next(call.headers[name] for name in names if name in call.headers)


def _judge_the_account(attack: Attack) -> list[Answer]:
    """A provider repeats a client's text that reads like a verdict on the account: each key serves others as before."""
    attempts = Attempts()
    mallory, ann = Buyer(attack, "mallory"), Buyer(attack, "ann")
    for model, place in itertools.product(_PAIRED_MODELS, ("400", "404", "422", "plain text", "200", "event")):
        for quote, verdict in itertools.product(_QUOTES, _VERDICTS):
            text = quote.replace("{}", verdict)
            attack.upstream.reply = lambda call, text=text, place=place: _refuse_with_quote(text, place, call)  # type: ignore[misc]
            for _ in range(2):
                mallory.post({**ordinary(model, verdict), "stream": place == "event"})
            attack.upstream.reply = _USUAL
            attack.upstream.calls.clear()
            served = [ann.post(ordinary(model)).status_code for _ in range(2)]
            keys = {_read_key(call) for call in attack.upstream.calls}
            shown = f"{served}, sent with {keys}"
            attempts.check(f"{model}, {place}: {text}", served == [200, 200] and len(keys) == 2, shown)
    return attempts.finish(attack)


_FAILURES: Mapping[str, bytes] = {
    # that one request can cause
    "an error of the server": respond(b'{"error": {"message": "The server had an error processing it"}}', status=500),
    "an unreadable reply": respond(b'{"error": "error parsing tool call: raw=x"}', status=500),
    "invalid JSON": respond(b"{"),
    "an error in a stream": respond(b'data: {"error": {"message": "failed"}}\n\n', "text/event-stream"),
    "a quoted overload": respond(b'{"error": {"message": "bad: server overloaded"}}', status=500),
}


def _fail_before_a_fallback(attack: Attack) -> list[Answer]:
    """Failures that requests of one key cause send no request of another key to the fallback."""
    attempts = Attempts()
    mallory, ann = Buyer(attack, "mallory"), Buyer(attack, "ann")
    for name, failure in _FAILURES.items():

        def answer(call: UpstreamCall, failure: bytes = failure) -> bytes:
            return failure if "poison" in json.dumps(call.body) else _USUAL(call)

        attack.upstream.reply = answer
        for _ in range(6):
            mallory.post({**ordinary("claude-sonnet-4-5", "poison"), "stream": "stream" in name})
        attack.upstream.calls.clear()
        served = ann.post(ordinary("claude-sonnet-4-5"))
        models = [call.body["model"] for call in attack.upstream.calls]
        attempts.check(name, served.status_code == 200 and models == ["gpt-4.1"], f"{served.status_code} {models}")
    return attempts.finish(attack)


# Turns


def _slow_pdf(number: int) -> Any:
    """Return a file of some kilobytes that needs a second."""
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R >>"
    text = zlib.compress(b"BT /F1 12 Tf " + b"(a) Tj " * (300_000 + number) + b"ET")
    pages = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    file = [b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, write_stream(text, b"/Filter /FlateDecode")]
    return document(join_objects(file))


def _cited_text(number: int) -> Any:
    """Return a document of which each four characters are work."""
    source = {"type": "text", "media_type": "text/plain", "data": f"{number}\n" + "[1]\n" * 1_500_000}
    return {"type": "document", "source": source, "citations": {"enabled": True}}


_JOBS: Mapping[str, tuple[Callable[[int], Any], Any]] = {
    # what one client sends many times, and what another one sends once
    "slow PDFs": (_slow_pdf, _PDF),
    "long documents to cite": (_cited_text, {"type": "text", "text": "word " * 600_000}),
}
_MANY = 10


def _wait_for_one_turn(name: str, attack: Attack) -> list[Answer]:
    """Another client is served while the many jobs of the first one wait."""
    attempts = Attempts()
    build, other = _JOBS[name]
    mallory, ann = Buyer(attack, "mallory"), Buyer(attack, "ann")
    bodies = [ordinary(_TEXT_MODEL, [build(number)]) for number in range(_MANY)]
    with ThreadPoolExecutor(_MANY) as pool:
        jobs = [pool.submit(mallory.post, body) for body in bodies]
        wait(jobs, return_when=FIRST_COMPLETED)
        before = sum(job.done() for job in jobs)
        served = ann.post(ordinary(_TEXT_MODEL, [other]))
        meanwhile = sum(job.done() for job in jobs) - before
        wait(jobs)
    seen = json.dumps([call.body for call in attack.upstream.calls])
    attempts.check("served", served.status_code == 200 and "omitted" not in seen, served.text)
    attempts.check("turn", meanwhile <= _MANY // 2, f"{before}, and {meanwhile} meanwhile")
    attempts.check("all", {job.result().status_code for job in jobs} == {200})
    return attempts.finish(attack)


NEIGHBOURS: tuple[Row, ...] = (
    *(
        Row(
            name=f"neighbours: {name} of another key",
            run=partial(_wait_for_one_turn, name),
            settings=KEY_SETTINGS,
            input_mib=6 * _MANY,
        )
        for name in _JOBS
    ),
    Row(
        name="neighbours: failures of another key before a fallback",
        run=_fail_before_a_fallback,
        settings={**KEY_SETTINGS, "MODEL_SONNET": _MODEL, "FALLBACK_SONNET": "groq/llama-3.3-70b-versatile"},
    ),
    Row(name="neighbours: refusals with the text of another key", run=_learn_nothing, settings=KEY_SETTINGS),
    Row(
        name="neighbours: the session of another key",
        run=_share_a_session,
        settings={**KEY_SETTINGS, "OPENAI_WIRE": "responses"},
    ),
    Row(
        name="neighbours: errors of another key",
        run=_fail_for_one,
        settings={**KEY_SETTINGS, "OPENAI_API_KEY": "sk-attack-0001,sk-attack-0002"},
    ),
    *(
        Row(
            name=f"neighbours: a verdict on the account in a quoted text, {wire}",
            run=_judge_the_account,
            settings={**KEY_SETTINGS, **_KEY_PAIRS, "OPENAI_WIRE": wire, "PREFERRED_PROVIDER": "anthropic"},
        )
        for wire in ("chat", "responses")
    ),
)
