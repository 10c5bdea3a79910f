"""Inspectors: a guardrail service that misbehaves, and texts that are divided, hidden or of another key."""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import UpstreamCall, reply_text, respond
from tests.faults.client import Answer

_MODEL = "openai/gpt-4.1"
_RELAYED = "claude-haiku-4-5"
_SECRET = "sk-live-0a1b2c3d4e5f6g7h8i9j"
_USUAL = reply_text("All is well.")
_SECRETS = """
[[inspectors]]
name = "secrets"
type = "patterns"
detect = ["keys"]
reads = ["requests", "replies", "tool descriptions"]
"""
_ANSI = "\x1b]52;c;ZXZpbA==\x07\x1b[2J"


def _json(value: Any, status: int = 200, head: bytes = b"") -> bytes:
    return respond(json.dumps(value).encode(), head=head, status=status)


_REFUSING: Mapping[str, bytes] = {
    "no body": respond(b""),
    "no JSON": respond(b"yes"),
    "a list": _json([]),
    "null": _json(None),
    "no action": _json({}),
    "an unknown action": _json({"action": "ALLOWED"}),
    "an action in small letters": _json({"action": "none"}),
    "an action of another type": _json({"action": True}),
    "an action that is a list": _json({"action": ["NONE"]}),
    "changed texts without texts": _json({"action": "GUARDRAIL_INTERVENED"}),
    "too few texts": _json({"action": "GUARDRAIL_INTERVENED", "texts": []}),
    "too many texts": _json({"action": "GUARDRAIL_INTERVENED", "texts": ["a"] * 1_000}),
    "texts of another type": _json({"action": "GUARDRAIL_INTERVENED", "texts": [1]}),
    "null as texts": _json({"action": "GUARDRAIL_INTERVENED", "texts": None}),
    "blocked": _json({"action": "BLOCKED", "blocked_reason": "That is forbidden."}),
    "blocked without a reason": _json({"action": "BLOCKED"}),
    "blocked with another reason": _json({"action": "BLOCKED", "blocked_reason": {"a": 1}}),
    "blocked with a terminal's escapes": _json({"action": "BLOCKED", "blocked_reason": _ANSI}),
    "blocked with half a character": respond(b'{"action":"BLOCKED","blocked_reason":"\\ud83d"}'),
    "a redirect": _json({"action": "NONE"}, status=302, head=b"location: /elsewhere\r\n"),
    "a redirect that keeps the method": _json({"action": "NONE"}, status=307, head=b"location: /elsewhere\r\n"),
    "status 201": _json({"action": "NONE"}, status=201)[:0] + _json({"action": "BLOCKED"}, status=201),
    "status 204": respond(b"", status=204),
    "status 401": _json({"action": "NONE"}, status=401),
    "status 404": _json({"action": "NONE"}, status=404),
    "status 500": _json({"action": "NONE"}, status=500),
    "a repeated action": respond(b'{"action":"NONE","action":"BLOCKED"}'),
    "a cut body": respond(b'{"action":"NONE"')[:-1],
    "a deep body": respond(b'{"action":"NONE","x":' + b"[" * 200_000),
    "no HTTP": b"yes\r\n\r\n",
}


def _misbehave(attack: Attack) -> list[Answer]:
    """A request that the service does not let pass reaches no provider, whatever the service answers."""
    attempts = Attempts()
    buyer = Buyer(attack)
    attack.upstream.reply = _USUAL
    reached = attack.upstream.calls
    assert buyer.post(ordinary(_MODEL, "control")).status_code == 200
    assert reached
    for name, guard in _REFUSING.items():
        for model, streams in ((_MODEL, True), (_RELAYED, False)):
            reached.clear()
            attack.upstream.guardrail = guard
            answer = buyer.post({**ordinary(model, f"text of {name} {model}"), "stream": streams})
            is_clean = "\x1b" not in answer.text and "\x07" not in answer.text
            is_held = not reached and answer.status_code in (400, 503) and is_clean
            attempts.check(f"{name}, {model}", is_held, (len(reached), answer.status_code, answer.text[:200]))
    quoted = [(mark, f"hidden{mark}request{mark}user{mark}text") for mark in ("\0", "', '", "\n", "\x1f")]
    for mark, _ in quoted:  # names of models that continue with the beginning of the blocked text
        buyer.post(ordinary(f"{_MODEL}{mark}request{mark}user{mark}hidden", "text"))
    attack.upstream.guardrail = _json({"action": "BLOCKED", "blocked_reason": "no"})
    other = Buyer(attack, "other")
    for mark, text in quoted:
        reached.clear()
        answer = buyer.post(ordinary(_MODEL, text))
        attempts.check(f"a text whose beginning was the name of a model, {mark!r}", not reached, answer.text[:200])
    for name, client, body in (
        ("of another key", other, ordinary(_MODEL, "control")),
        ("for another model", buyer, ordinary(_RELAYED, "control")),
        ("as a system text", buyer, {**ordinary(_MODEL, "new"), "system": "control, but another"}),
        ("beside a new text", buyer, {**ordinary(_MODEL, "control"), "system": "new"}),
        ("with another case", buyer, ordinary(_MODEL, "Control")),
    ):
        reached.clear()
        answer = client.post(body)
        attempts.check(f"a text that has passed, {name}", not reached, answer.text[:200])
    for path in ("/v1/messages/count_tokens", "/v1/messages/batches"):
        reached.clear()
        body = {key: value for key, value in ordinary(_RELAYED, "x").items() if key != "max_tokens"}
        answer = buyer.post(body, path)
        attempts.check(f"a blocked text, {path}", not reached, (answer.status_code, answer.text[:200]))
    assert _ANSI not in attack.proxy.log
    attempts.check("no escapes in the log", "\x1b]52" not in attack.proxy.log)
    attack.upstream.guardrail = _json({"action": "NONE"})
    return attempts.finish(attack)


_KEY = "-----BEGIN PRIVATE KEY-----\n" + ("0a1B2c3D" * 8 + "\n") * 240 + "-----END PRIVATE KEY-----"
_PLACEHOLDER = re.compile(rb"REDACTED_[A-Z_]+_[0-9a-f]{16}")


def _repeat_placeholder(attack: Attack) -> list[Answer]:
    """A reply with a placeholder 8,000 times. The key that it stands for is 500 times as long."""
    attempts = Attempts()
    buyer = Buyer(attack)

    def reply(call: UpstreamCall) -> bytes | Iterable[bytes]:
        found = _PLACEHOLDER.search(call.raw)
        return _USUAL(call) if found is None else reply_text(f"{found[0].decode()} " * 8_000)(call)

    attack.upstream.reply = reply
    for model in (_MODEL, _RELAYED):
        for streams in (False, True):
            answer = buyer.post({**ordinary(model, _KEY), "stream": streams})
            size = len(answer.content)
            attempts.check(f"{model}, streamed: {streams}", answer.status_code == 200 and 10_000 < size < 4 << 20, size)
    return attempts.finish(attack)


_BLOCK = {"type": "text", "text": f"key {_SECRET} end"}
_TOOL = {"name": "Bash", "input_schema": {"type": "object"}}
_CALL = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": f"echo {_SECRET}"}}
_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": f"got {_SECRET}"}


def _turns(call: Any = None, result: Any = None) -> dict[str, Any]:
    usual = {**_CALL, "input": {}}, {**_RESULT, "content": "x"}
    return {
        "tools": [_TOOL],
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [call or usual[0]]},
            {"role": "user", "content": [result or usual[1]]},
        ],
    }


def _content(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*blocks, {"type": "text", "text": "x"}]}]}


def _document(**source: Any) -> Any:
    return _content({"type": "document", "source": source})


def _encode(codec: str) -> str:
    return base64.b64encode(f"key {_SECRET} énd".encode(codec)).decode()


_ENCODED = [*map(_encode, ("utf-8", "utf-16", "utf-16-be", "utf-32", "cp1252"))]
_PLACES: Mapping[str, dict[str, Any]] = {
    "text": _content(_BLOCK),
    "a plain content": {"messages": [{"role": "user", "content": _SECRET}]},
    "system": {"system": _SECRET},
    "a system block": {"system": [_BLOCK]},
    "arguments": _turns(call=_CALL),
    "a key of arguments": _turns(call={**_CALL, "input": {"deep": [{"a": {"b": [_SECRET]}}]}}),
    "a result": _turns(result=_RESULT),
    "blocks of a result": _turns(result={**_RESULT, "content": [_BLOCK]}),
    "a result with an error": _turns(result={**_RESULT, "is_error": True}),
    "a document of text": _document(type="text", media_type="text/plain", data=_SECRET),
    "a document of blocks": _document(type="content", content=[_BLOCK]),
    **{
        f"a document of text in base64, {data[:8]}": _document(type="base64", media_type="text/plain", data=data)
        for data in _ENCODED
    },
    "the title of a document": _content(
        {"type": "document", "title": _SECRET, "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    ),
    "the context of a document": _content(
        {"type": "document", "context": _SECRET, "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    ),
    "an SVG": _content(
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": "image/svg+xml",
                "data": base64.b64encode(f"<svg><text>{_SECRET}</text></svg>".encode()).decode(),
            },
        }
    ),
    "a search result": _content(
        {"type": "search_result", "source": "https://a.example", "title": "x", "content": [_BLOCK]}
    ),
    "the title of a search result": _content(
        {
            "type": "search_result",
            "source": "https://a.example",
            "title": _SECRET,
            "content": [{"type": "text", "text": "x"}],
        }
    ),
    "a stop sequence": {"stop_sequences": [_SECRET]},
    "a schema of the reply": {
        "output_config": {
            "format": {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"const": _SECRET}}}}
        }
    },
    "the description of a tool": {"tools": [{**_TOOL, "description": _SECRET}]},
    "the description of a parameter": {
        "tools": [{"name": "B", "input_schema": {"type": "object", "properties": {"a": {"description": _SECRET}}}}]
    },
    "a default of a parameter": {
        "tools": [{"name": "B", "input_schema": {"type": "object", "properties": {"a": {"default": _SECRET}}}}]
    },
    "an example of a tool": {"tools": [{**_TOOL, "input_examples": [{"command": _SECRET}]}]},
    "thinking": {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": _SECRET, "signature": "s"}, _BLOCK]},
            {"role": "user", "content": "x"},
        ]
    },
    "a prefill": {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": _SECRET}]},
    "a field of the future": {"instructions_2029": _SECRET},
    "a block of the future": _content({"type": "memo_2029", "memo": _SECRET}),
    "an escaped text": {"system": "sk\\u002dlive"},
}
_WRITTEN: Mapping[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "with escapes": lambda text: text.replace("sk-live", "\\u0073\\u006b\\u002dlive"),
    "with capital escapes": lambda text: text.replace("sk-", "sk\\u002D"),
}


def _hide(attack: Attack) -> list[Answer]:
    """A key at each place of a request, also in escapes, reaches no provider."""
    attempts = Attempts()
    buyer, other = Buyer(attack), Buyer(attack, "other")
    attack.upstream.reply = _USUAL
    for place, fields in _PLACES.items():
        for model in (_MODEL, _RELAYED):
            for form, write in _WRITTEN.items():
                attack.upstream.calls.clear()
                data = write(json.dumps({**ordinary(model, "x"), **fields})).encode()
                answer = buyer.post(data)
                shown = [json.dumps(call.body) for call in attack.upstream.calls]
                encoded = [text for text in shown if any(one in text for one in (_SECRET, *_ENCODED))]
                is_held = not encoded and answer.status_code in (200, 400, 502)  # the reply does not match the schema
                attempts.check(f"{place}, {form}, {model}", is_held, (answer.status_code, answer.text[:100], encoded))
    placeholder = re.compile(r"REDACTED_KEY_[0-9a-f]{16}")
    attack.upstream.calls.clear()
    buyer.post(ordinary(_MODEL, _SECRET))
    (found,) = placeholder.findall(json.dumps(attack.upstream.calls[-1].body))
    attack.upstream.reply = reply_text(f"It is {found}.")
    own = buyer.post(ordinary(_MODEL, _SECRET)).text
    attempts.check("a control: the own text is restored", _SECRET in own, own[-300:])
    for name, client, text in (
        ("of another key", other, "What is it?"),
        ("of another key that sends the placeholder", other, f"What is {found}?"),
        ("of another key that has a key of its own", other, f"What is {found}? sk-live-{'9' * 20}"),
        ("of an earlier request", buyer, "What is it?"),
        ("of an earlier request that is repeated", buyer, f"What is {found}?"),
    ):
        answer = client.post({**ordinary(_MODEL, text), "stream": True})
        attempts.check(f"a placeholder {name}", _SECRET not in answer.text, answer.text[-300:])
    attack.upstream.calls.clear()
    attack.upstream.reply = _USUAL
    other.post(ordinary(_MODEL, _SECRET))
    attempts.check("another placeholder for another key", found not in json.dumps(attack.upstream.calls[-1].body))
    return attempts.finish(attack)


INSPECTED: tuple[Row, ...] = (
    Row(
        name="inspected: answers of a guardrail service",
        run=_misbehave,
        settings={**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic", "GUARD_API_KEY": "attack-guard-key-0001"},
        configuration="""
[[inspectors]]
name = "guard"
type = "guardrail"
base_url = "{upstream}"
timeout = 1
""",
    ),
    Row(
        name="inspected: a placeholder 8,000 times in a reply",
        run=_repeat_placeholder,
        settings={**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic"},
        configuration=_SECRETS,
    ),
    Row(
        name="inspected: a key at each place of a request",
        run=_hide,
        settings={**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic"},
        configuration=_SECRETS,
    ),
)
