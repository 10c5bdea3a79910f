"""Money of virtual keys: names of models beside `model`, and counts of replies that must not lower what is counted."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import Reply, UpstreamCall, reply_text, respond
from tests.faults.client import Answer

_SETTINGS = {**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic"}
_PRICES = """
[prices."anthropic/claude-haiku-4-5*"]
input = 1
output = 5
cache_read = 0.1
cache_write = 1.25
cache_write_1h = 2
web_search_per_1000 = 10
tiers.batch = { input = 0.5, output = 2.5 }

[prices."anthropic/claude-opus-4-5*"]
input = 5
output = 25
cache_read = 0.5
cache_write = 6.25
cache_write_1h = 10
"""
_HAIKU, _OPUS = "claude-haiku-4-5", "claude-opus-4-5"
_BODY = ordinary(_HAIKU, "Hello")


_ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": _OPUS}
_MESSAGE = {"role": "user", "content": "Hello"}
_NAMING: dict[str, Mapping[str, Any]] = {
    "an advisor": {"tools": [_ADVISOR]},
    "an advisor of a later version": {"tools": [{**_ADVISOR, "type": "advisor_20290101"}]},
    "a tool of an unknown type": {"tools": [{"type": "planner_20290101", "name": "planner", "model": _OPUS}]},
    "a tool with a nested model": {"tools": [{**_ADVISOR, "model": _HAIKU, "fallback": {"model": _OPUS}}]},
    "a tool of the client with a model": {"tools": [{"name": "a", "input_schema": {"type": "object"}, "model": _OPUS}]},
    "a custom tool with a model": {
        "tools": [{"type": "custom", "name": "a", "input_schema": {"type": "object"}, "model": _OPUS}]
    },
    "a code execution with a model": {
        "tools": [{"type": "code_execution_20250825", "name": "code_execution", "model": _OPUS}]
    },
    "a search with a model": {"tools": [{"type": "web_search_20250305", "name": "web_search", "model": _OPUS}]},
    "a toolset with a model": {"tools": [{"type": "mcp_toolset", "mcp_server_name": "m", "model": _OPUS}]},
    "a list as the model of a tool": {"tools": [{**_ADVISOR, "model": [_OPUS]}]},
    "an object as the model of a tool": {"tools": [{**_ADVISOR, "model": {"id": _OPUS}}]},
    "fallbacks": {"fallbacks": [{"model": _OPUS}]},
    "fallbacks as texts": {"fallbacks": [_OPUS]},
    "fallbacks as an object": {"fallbacks": {"model": _OPUS}},
    "fallbacks as a text": {"fallbacks": _OPUS},
    "fallbacks within fallbacks": {"fallbacks": [{"model": _HAIKU, "fallbacks": [{"model": _OPUS}]}]},
    "a list of models": {"models": [_OPUS]},
    "a route": {"route": "fallback", "provider": {"order": [_OPUS]}},
    "plugins": {"plugins": [{"id": "web", "model": _OPUS}]},
    "fallback_models": {"fallback_models": [_OPUS]},
    "extra_body": {"extra_body": {"model": _OPUS}},
    "metadata": {"metadata": {"user_id": "u", "model": _OPUS}},
    "a compaction": {"context_management": {"edits": [{"type": "compact_20260112", "model": _OPUS}]}},
    "a message": {"messages": [{**_MESSAGE, "model": _OPUS}]},
    "a block": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", "model": _OPUS}]}]},
    "a system block": {"system": [{"type": "text", "text": "x", "model": _OPUS}]},
    "a mark for the cache": {
        "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "model": _OPUS}}]
    },
    "thinking": {"thinking": {"type": "disabled", "model": _OPUS}},
    "a tool choice": {"tool_choice": {"type": "auto", "model": _OPUS}},
    "an output configuration": {"output_config": {"effort": "low", "model": _OPUS}},
    "a container": {"container": {"id": "c", "skills": [], "model": _OPUS}},
    "MCP servers": {"mcp_servers": [{"type": "url", "name": "m", "url": "http://127.0.0.1:9", "model": _OPUS}]},
    "the model in capitals": {"Model": _OPUS, "MODEL": _OPUS},
    "a dotted field": {"model.name": _OPUS},
    "the model behind a blank": {"model ": _OPUS},
    "the prototype": {"__proto__": {"model": _OPUS}},
}


def _as_json(text: str) -> bytes:
    return json.dumps(_BODY).replace(f'"model": "{_HAIKU}"', text).encode()


_RAW: dict[str, tuple[bytes, dict[str, str]]] = {
    "two models": (_as_json(f'"model": "{_HAIKU}", "model": "{_OPUS}"'), {}),
    "two models, the other first": (_as_json(f'"model": "{_OPUS}", "model": "{_HAIKU}"'), {}),
    "two models, one with an escape": (_as_json(f'"mod\\u0065l": "{_OPUS}", "model": "{_HAIKU}"'), {}),
    "two models, the second with an escape": (_as_json(f'"model": "{_HAIKU}", "mod\\u0065l": "{_OPUS}"'), {}),
    "a field with a NUL": (_as_json(f'"model": "{_HAIKU}", "model\\u0000": "{_OPUS}"'), {}),
    "a second document": (json.dumps(_BODY).encode() + json.dumps({**_BODY, "model": _OPUS}).encode(), {}),
    "a byte order mark": (b"\xef\xbb\xbf" + _as_json(f'"model": "{_OPUS}"'), {}),
    "UTF-16": (_as_json(f'"model": "{_OPUS}"').decode().encode("utf-16"), {}),
    "a list of bodies": (b"[" + _as_json(f'"model": "{_OPUS}"') + b"]", {}),
    "a comment": (_as_json(f'/* "model": "{_HAIKU}" */ "model": "{_OPUS}"'), {}),
    "a form": (f"model={_OPUS}".encode(), {"content-type": "application/x-www-form-urlencoded"}),
    "a header": (json.dumps(_BODY).encode(), {"x-model": _OPUS, "model": _OPUS, "anthropic-model": _OPUS}),
    "a header with overrides": (
        json.dumps(_BODY).encode(),
        {"x-http-method-override": "PUT", "x-original-url": f"/v1/messages?model={_OPUS}"},
    ),
}
_ONE = {"custom_id": "a", "params": _BODY}
_OTHER_PATHS: dict[str, tuple[str, Any]] = {
    "the query": (f"/v1/messages?model={_OPUS}", _BODY),
    "the query beside beta": (f"/v1/messages?beta=true&model={_OPUS}", _BODY),
    "a fragment of the query": (f"/v1/messages?beta=true%26model={_OPUS}", _BODY),
    "two slashes": ("//v1/messages", {**_BODY, "model": _OPUS}),
    "a slash at the end": ("/v1/messages/", {**_BODY, "model": _OPUS}),
    "an escaped path": ("/v1/%6dessages", {**_BODY, "model": _OPUS}),
    "a step back": ("/v1/files/../messages", {**_BODY, "model": _OPUS}),
    "an escaped step back": ("/v1/files/%2e%2e/messages", {**_BODY, "model": _OPUS}),
    "a file with a path": ("/v1/files/..%2fmessages", {**_BODY, "model": _OPUS}),
    "a batch": ("/v1/messages/batches", {"requests": [{**_ONE, "params": {**_BODY, "model": _OPUS}}]}),
    "a batch with an advisor": (
        "/v1/messages/batches",
        {"requests": [{**_ONE, "params": {**_BODY, "tools": [_ADVISOR]}}]},
    ),
    "a batch with fallbacks": (
        "/v1/messages/batches",
        {"requests": [{**_ONE, "params": {**_BODY, "fallbacks": [{"model": _OPUS}]}}]},
    ),
    "a batch with a model of its own": ("/v1/messages/batches", {"requests": [_ONE], "model": _OPUS}),
    "a request of a batch with a model": ("/v1/messages/batches", {"requests": [{**_ONE, "model": _OPUS}]}),
    "a batch in a query": (f"/v1/messages/batches?model={_OPUS}", {"requests": [_ONE]}),
    "a token count": ("/v1/messages/count_tokens", {"model": _OPUS, "messages": [_MESSAGE]}),
    "a completion of text": ("/v1/complete", {"model": _OPUS, "prompt": "x", "max_tokens_to_sample": 9}),
    "an agent": ("/v1/agents", {"model": _OPUS, "name": "a"}),
    "an agent with a model object": ("/v1/agents", {"model": {"id": _OPUS}, "name": "a"}),
    "a session": ("/v1/sessions", {"agent": {"model": _OPUS}}),
    "a prompt improver": ("/v1/experimental/improve_prompt", {"model": _OPUS, "messages": [_MESSAGE]}),
    "Chat Completions": ("/v1/chat/completions", {"model": _OPUS, "messages": [_MESSAGE]}),
    "Responses": ("/v1/responses", {"model": _OPUS, "input": "x"}),
    "another version": ("/v2/messages", {**_BODY, "model": _OPUS}),
}
_SPELLINGS = (
    "anthropic/claude-opus-4-5",
    "CLAUDE-OPUS-4-5",
    " claude-opus-4-5",
    "claude-haiku-4-5,claude-opus-4-5",
    "claude-haiku-4-5|claude-opus-4-5",
    "claude-haiku-4-5 claude-opus-4-5",
    "claude-haiku-4-5/../claude-opus-4-5",
    "claude-haiku-4-5\nclaude-opus-4-5",
    "claude-haiku-4-5\x00claude-opus-4-5",
    "claude-haiku-4-5;claude-opus-4-5",
    "claude-opus-4-5[1m]",
    "anthropic/anthropic/claude-opus-4-5",
    "claude-opus-4-5@20251101",
    "claude-οpus-4-5",
)


def _list_requests() -> dict[str, tuple[str, Any, dict[str, str]]]:
    return {
        **{name: ("/v1/messages", {**_BODY, **fields}, {}) for name, fields in _NAMING.items()},
        **{
            f"{name}, streamed": ("/v1/messages", {**_BODY, **fields, "stream": True}, {})
            for name, fields in _NAMING.items()
        },
        **{name: ("/v1/messages", body, headers) for name, (body, headers) in _RAW.items()},
        **{name: (path, body, {}) for name, (path, body) in _OTHER_PATHS.items()},
        **{f"the spelling {spelling!r}": ("/v1/messages", {**_BODY, "model": spelling}, {}) for spelling in _SPELLINGS},
    }


def _name_models(rules: Mapping[str, Any]) -> Callable[[Attack], list[Answer]]:
    """Send each request with a key that may use only the smallest model; the other name must not reach the provider."""

    def run(attack: Attack) -> list[Answer]:
        buyer = Buyer(attack, **rules)
        seen: list[bytes] = []
        attack.upstream.reply = _recording(seen)
        assert buyer.post(_BODY).status_code == 200
        assert attack.upstream.calls, "the provider gets requests of the key"
        failed = []
        for name, (path, body, headers) in _list_requests().items():
            attack.upstream.calls.clear()
            answer = buyer.post(body, path, **headers)
            reached = [call for call in attack.upstream.calls if "opus" in json.dumps(call.body).lower()]
            if answer.status_code >= 500 or reached:
                shown = [json.dumps(call.body)[:300] for call in reached]
                failed.append(f"{name}: {answer.status_code} {answer.text[:150]} {shown}")
        assert failed == [], "\n".join(failed)
        attack.upstream.reply = reply_text("All is well.")
        return [attack.post(ordinary("openai/gpt-4.1"))]

    return run


def _recording(seen: list[bytes]) -> Reply:
    usual = reply_text("All is well.")

    def build(call: UpstreamCall) -> bytes:
        seen.append(json.dumps(call.body).encode())
        return usual(call)

    return build


_NEGATIVE = {"input_tokens": -9_000_000, "output_tokens": -9_000_000}
_COUNTS = {"input_tokens": 1_000, "output_tokens": 1_000}
_MIN = 0.00001
"""Dollars that any request of this file costs at least: some words are estimated."""
_EXACT = 0.006
"""Dollars of `_COUNTS`: 1,000 tokens at $1 and 1,000 at $5 a million."""
_OPUS_COST = 0.03


def _iterations(*entries: Any, **fields: Any) -> dict[str, Any]:
    return {**_COUNTS, "iterations": list(entries), **fields}


_OWN = {"type": "message", **_COUNTS}
_USAGES: dict[str, tuple[Any, float, float]] = {
    # name: (usage, least and largest counted dollars)
    "usual counts": (_COUNTS, _EXACT, _EXACT),
    "negative counts": (_NEGATIVE, _MIN, 0.01),
    "negative cache reads": ({**_COUNTS, "cache_read_input_tokens": -(10**9)}, _EXACT, 0.01),
    "negative cache writes": ({**_COUNTS, "cache_creation_input_tokens": -(10**9)}, _EXACT, 0.01),
    "negative writes of one duration": (
        {**_COUNTS, "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": -(10**9)}},
        _EXACT,
        0.01,
    ),
    "one negative and one large duration": (
        {
            **_COUNTS,
            "cache_creation_input_tokens": 1_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 2_000, "ephemeral_1h_input_tokens": -1_000},
        },
        _EXACT,
        0.02,
    ),
    "counts of 2⁶³": ({"input_tokens": 2**63, "output_tokens": 2**63}, _MIN, 5),
    "counts of 2⁶⁴ + 1": ({"input_tokens": 2**64 + 1, "output_tokens": 2**64 + 1}, _MIN, 5),
    "counts of 400 digits": ({"input_tokens": 10**400, "output_tokens": 10**400}, _MIN, 5),
    "counts that are texts": ({"input_tokens": "1000", "output_tokens": "1000"}, _MIN, 0.01),
    "counts that are fractions": ({"input_tokens": 1_000.0, "output_tokens": 1_000.0}, _MIN, 0.01),
    "counts that are lists": ({"input_tokens": [], "output_tokens": {}}, _MIN, 0.01),
    "counts that are true": ({"input_tokens": True, "output_tokens": True}, 0.000001, 0.01),
    "null counts": ({"input_tokens": None, "output_tokens": None}, _MIN, 0.01),
    "no usage": (None, _MIN, 0.01),
    "an empty usage": ({}, _MIN, 0.01),
    "a list as usage": ([], _MIN, 0.01),
    "a large negative cost": ({**_COUNTS, "cost": -1e6}, _EXACT, 0.01),
    "a stated cost of 0": ({**_COUNTS, "cost": 0}, _EXACT, _EXACT),
    "a negative stated cost": ({**_COUNTS, "cost": -5, "cost_details": {"upstream_inference_cost": -5}}, _EXACT, 0.01),
    "an advisor": (_iterations(_OWN, {"type": "advisor_message", "model": _OPUS, **_COUNTS}), 0.036, 0.036),
    "an advisor with negative counts": (
        _iterations(_OWN, {"type": "advisor_message", "model": _OPUS, **_NEGATIVE}),
        _EXACT,
        0.02,
    ),
    "an advisor and a negative one": (
        _iterations(
            _OWN,
            {"type": "advisor_message", "model": _OPUS, **_COUNTS},
            {"type": "advisor_message", "model": _OPUS, "input_tokens": -1_000, "output_tokens": -1_000},
        ),
        0.036,
        0.04,
    ),
    "an advisor without its own message": (
        _iterations({"type": "advisor_message", "model": _OPUS, **_COUNTS}),
        0.036,
        0.036,
    ),
    "an advisor with a look-alike of the called model": (
        _iterations(_OWN, {"type": "advisor_message", "model": f"{_OPUS} ", **_COUNTS}),
        0.012,
        0.04,
    ),
    "an advisor of another provider": (
        _iterations(_OWN, {"type": "advisor_message", "model": f"anthropic/{_OPUS}", **_COUNTS}),
        0.012,
        0.04,
    ),
    "an advisor without a price": (
        _iterations(_OWN, {"type": "advisor_message", "model": "claude-of-next-year", **_COUNTS}),
        0.012,
        0.04,
    ),
    "an advisor with a model that is no text": (
        _iterations(_OWN, {"type": "advisor_message", "model": [_OPUS], **_COUNTS}),
        0.012,
        0.04,
    ),
    "an advisor with a dated model": (
        _iterations(_OWN, {"type": "advisor_message", "model": f"{_OPUS}-20251101", **_COUNTS}),
        0.036,
        0.036,
    ),
    "a fallback": (
        _iterations({**_OWN, "model": _HAIKU}, {"type": "fallback_message", "model": _OPUS, **_COUNTS}),
        0.03,
        0.037,
    ),
    "a compaction": (_iterations(_OWN, {"type": "compaction", **_COUNTS}), 0.012, 0.012),
    "an entry of a later kind": (_iterations(_OWN, {"type": "review", "model": _OPUS, **_COUNTS}), 0.036, 0.036),
    "an entry without a type": (_iterations(_OWN, {"model": _OPUS, **_COUNTS}), 0.036, 0.036),
    "entries above the bounds": (
        _iterations(_OWN, {"type": "advisor_message", "model": _OPUS, "input_tokens": 10**15, "output_tokens": 1}),
        _EXACT,
        5_000,
    ),
    "1,000 advisors": (
        _iterations(
            _OWN, *[{"type": "advisor_message", "model": _OPUS, "input_tokens": 10, "output_tokens": 0}] * 1_000
        ),
        0.056,
        0.056,
    ),
    "1,000 advisors with names of their own": (
        _iterations(
            _OWN,
            *[
                {"type": "advisor_message", "model": f"m{i}", "input_tokens": 10, "output_tokens": 0}
                for i in range(1_000)
            ],
        ),
        0.016,
        0.07,
    ),
    "cache writes for an hour": (
        {
            **_COUNTS,
            "cache_creation_input_tokens": 1_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 1_000},
        },
        0.008,
        0.008,
    ),
    "cache writes by duration without a sum": (
        {**_COUNTS, "cache_creation": {"ephemeral_5m_input_tokens": 1_000, "ephemeral_1h_input_tokens": 1_000}},
        0.00925,
        0.00925,
    ),
    "cache writes of an unknown duration": (
        {
            **_COUNTS,
            "cache_creation_input_tokens": 1_000,
            "cache_creation": {"ephemeral_24h_input_tokens": 1_000},
        },
        0.00725,
        0.009,
    ),
    "more writes for an hour than writes": (
        {
            **_COUNTS,
            "cache_creation_input_tokens": 10,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 1_000},
        },
        0.00602,
        0.008,
    ),
    "cache reads": ({**_COUNTS, "cache_read_input_tokens": 10_000}, 0.007, 0.007),
    "searches": ({**_COUNTS, "server_tool_use": {"web_search_requests": 3}}, 0.036, 0.036),
    "negative searches": ({**_COUNTS, "server_tool_use": {"web_search_requests": -1_000}}, _EXACT, 0.01),
    "the region us": ({**_COUNTS, "inference_geo": "us"}, 0.0066, 0.0066),
    "the region US": ({**_COUNTS, "inference_geo": "US"}, 0.006, 0.0066),
    "a region that is no text": ({**_COUNTS, "inference_geo": {}}, _EXACT, 0.0066),
    "the tier batch for a message": ({**_COUNTS, "service_tier": "batch"}, 0.003, 0.006),
    "an unknown tier": ({**_COUNTS, "service_tier": "free"}, _EXACT, 0.02),
    "a tier that is no text": ({**_COUNTS, "service_tier": []}, _EXACT, 0.01),
}


def _whole(usage: Any) -> bytes:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": _HAIKU,
        "content": [{"type": "text", "text": "well " * 20}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    return respond(json.dumps(message).encode())


def _streamed(first: Any, last: Any, *, ends: bool = True) -> bytes:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": _HAIKU,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": first,
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "well " * 20}},
        {"type": "content_block_stop", "index": 0},
    ]
    if ends:
        events += [
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": last},
            {"type": "message_stop"},
        ]
    data = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)
    return respond(data, "text/event-stream")


_START = {"input_tokens": 1_000, "output_tokens": 1}
_STREAMS: dict[str, tuple[bytes, float, float]] = {
    "a last usage of zeros": (_streamed(_START, {"input_tokens": 0, "output_tokens": 0}), 0.001, 0.02),
    "a last usage with less input": (_streamed(_START, {"input_tokens": 1, "output_tokens": 1_000}), 0.005, 0.02),
    "a negative last usage": (_streamed(_START, {"input_tokens": -1_000, "output_tokens": -1_000}), _MIN, 0.02),
    "no last usage": (_streamed(_START, None), 0.001, 0.02),
    "iterations in the first usage only": (
        _streamed(_iterations(_OWN, {"type": "advisor_message", "model": _OPUS, **_COUNTS}), {"output_tokens": 1_000}),
        0.036,
        0.04,
    ),
    "an empty list of iterations at the end": (
        _streamed(
            _iterations(_OWN, {"type": "advisor_message", "model": _OPUS, **_COUNTS}),
            {"output_tokens": 1_000, "iterations": []},
        ),
        0.036,
        0.04,
    ),
    "a stream that ends before its usage": (_streamed(_START, None, ends=False), 0.001, 0.02),
    "an advisor in a stream that ends early": (
        _streamed(_iterations(_OWN, {"type": "advisor_message", "model": _OPUS, **_COUNTS}), None, ends=False),
        0.036,
        0.04,
    ),
    "a region in the first usage only": (
        _streamed({**_START, "inference_geo": "us"}, {"output_tokens": 1_000}),
        0.0066,
        0.0067,
    ),
}


def _count_usages(attack: Attack) -> list[Answer]:
    """Spend with a budget in dollars; it must count at least what the reply has cost."""
    buyer = Buyer(attack, budgets=[{"amount": 1_000_000, "unit": "usd", "period": "month"}])
    replies = {name: (_whole(usage), least, most) for name, (usage, least, most) in _USAGES.items()} | _STREAMS
    replies |= {
        f"{name}, streamed": (_streamed(usage, usage), least, most) for name, (usage, least, most) in _USAGES.items()
    }
    failed, before = [], buyer.spent
    for name, (reply, least, most) in replies.items():
        attack.upstream.reply = lambda _, reply=reply: reply  # type: ignore[misc]
        answer = buyer.post({**_BODY, "max_tokens": 2_000, "stream": b"event-stream" in reply[:200]})
        spent = buyer.wait_for_settled(before + least - 1e-6) - before
        before += spent
        if answer.status_code >= 500 or not least - 1e-6 <= spent <= most + 1e-6:
            failed.append(f"{name}: {answer.status_code}, counted ${spent:.6f}, expected ${least} to ${most}")
    assert failed == [], "\n".join(failed)
    attack.upstream.reply = reply_text("All is well.")
    return [attack.post(ordinary("openai/gpt-4.1"))]


SPENDING: tuple[Row, ...] = (
    *(
        Row(name=f"spending: other models of {name}", run=_name_models(rules), settings=_SETTINGS)
        for name, rules in (
            ("a key for one model", {"models": [_HAIKU]}),
            ("a key for a pattern", {"models": ["claude-haiku-*"]}),
        )
    ),
    Row(name="spending: counts of a relay", run=_count_usages, settings=_SETTINGS, configuration=_PRICES),
)
