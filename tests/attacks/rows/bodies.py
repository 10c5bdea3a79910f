"""Bodies of 25 MB with millions of fields, list elements or escapes. Most are invalid, so they are decoded twice. And
hundreds of small bodies, whose provider lets them wait.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import UpstreamCall, reply_text
from tests.faults.client import Answer

_NUMBERS = b"1," * 12_000_000 + b"1"
_HEAD = b'{"model":"openai/gpt-4.1","max_tokens":9,'
_VALID = _HEAD + b'"messages":[{"role":"user","content":"x"}],'


def _keys() -> bytes:
    return b",".join(map(b'"k%d":1'.__mod__, range(2_000_000)))


def _blocks(blocks: bytes) -> bytes:
    return _HEAD + b'"messages":[{"role":"user","content":[%b]}]}' % blocks


_BODIES: dict[str, Callable[[], bytes]] = {
    "2,000,000 keys without a model": lambda: b"{%b}" % _keys(),
    "2,000,000 keys with a model of a wrong type": lambda: b'{"model":1,%b}' % _keys(),
    "2,000,000 keys in a message without a role": lambda: _HEAD + b'"messages":[{%b}]}' % _keys(),
    "2,000,000 keys in a tool without a name": lambda: _VALID + b'"tools":[{%b}]}' % _keys(),
    "2,000,000 keys in a block of a wrong type": lambda: _blocks(b'{"type":"text","text":1,%b}' % _keys()),
    "2,000,000 keys in a source without a type": lambda: _blocks(b'{"type":"image","source":{%b}}' % _keys()),
    "12,000,000 numbers as messages": lambda: _HEAD + b'"messages":[%b]}' % _NUMBERS,
    "12,000,000 numbers as tools": lambda: _VALID + b'"tools":[%b]}' % _NUMBERS,
    "12,000,000 numbers as MCP servers": lambda: _VALID + b'"mcp_servers":[%b]}' % _NUMBERS,
    "12,000,000 numbers as the system prompt": lambda: _VALID + b'"system":[%b]}' % _NUMBERS,
    "12,000,000 numbers as a tool result": lambda: _blocks(
        b'{"type":"tool_result","tool_use_id":"a","content":[%b]}' % _NUMBERS
    ),
    "6,000,000 stop sequences": lambda: _VALID + b'"stop_sequences":[%b"a"]}' % (b'"a",' * 6_000_000),
    "700,000 messages with escapes in their keys": lambda: (
        _HEAD + b'"messages":[%b{"role":"user","content":"x"}]}' % (b'{"r\\u006fle":"user","content":"x"},' * 700_000)
    ),
    "4,000,000 lone surrogates": lambda: _blocks(b'{"type":"text","text":"%b"}' % (b"\\ud800" * 4_000_000)),
    "a lone surrogate and 12,000,000 escapes": lambda: _blocks(
        b'{"type":"text","text":"\\ud800%b"}' % (b"\\n" * 12_000_000)
    ),
    "a lone surrogate and 6,000,000 escaped backslashes": lambda: _blocks(
        b'{"type":"text","text":"\\ud800%b"}' % (b"\\\\\\\\" * 6_000_000)
    ),
    "25 MB without a model, with one emoji": lambda: (
        b'{"messages":[{"role":"user","content":"\xf0\x9f\x98\x80%b"}]}' % (b"a" * 25_000_000)
    ),
}


def _post(build: Callable[[], bytes], path: str) -> Callable[[Attack], list[Answer]]:
    return lambda attack: [attack.post(build(), path)]


_RELAYED = b'{"model":"anthropic/claude-opus-5-5","max_tokens":9,"messages":[{"role":"user","content":"x"}],%b}'
_REQUEST = b'{"custom_id":"a","params":{"model":"claude-opus-5-5","messages":[{"role":"user","content":"x"}]}}'
_RESOURCES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "2,000,000 keys in a relayed body": ("/v1/messages", lambda: _RELAYED % _keys()),
    "2,000,000 keys in a relayed body with a repeated key": (
        "/v1/messages",
        lambda: _RELAYED % (b'"a":1,"a":2,"b":{%b}' % _keys()),
    ),
    "2,000,000 keys in a batch": ("/v1/messages/batches", lambda: b'{"requests":[%b],%b}' % (_REQUEST, _keys())),
    "2,000,000 keys in a request of a batch": (
        "/v1/messages/batches",
        lambda: b'{"requests":[{"custom_id":"a","params":{"model":"claude-opus-5-5",%b}}]}' % _keys(),
    ),
    "8,000,000 objects as the requests of a batch": (
        "/v1/messages/batches",
        lambda: b'{"requests":[%b{}]}' % (b"{}," * 8_000_000),
    ),
    "80,000 requests of a batch with routes": (
        "/v1/messages/batches",
        lambda: b'{"requests":[%b{"params":{"model":"openai/m"}}]}' % (b'{"params":{"model":"m"}},' * 80_000),
    ),
}
_SMALL = b'{"model":"openai/gpt-4.1","max_tokens":9,"messages":[{"role":"user","content":"\xf0\x9f\x98\x80%b"}]}'
_SMALL_BODIES = 400
_REFERENCES = {
    "$defs": {"d": {"type": "object", "properties": {"z": {"type": "string", "description": "q" * 9_000}}}},
    "type": "object",
    "properties": {f"p{number}": {"$ref": "#/$defs/d"} for number in range(1_000)},
}
"""Of Ollama's schemas, each reference becomes the definition: 35 KB become 9 MB."""
_SETTLED_SECONDS = 1.0


def _wait_for_provider(bodies: Sequence[Any], attack: Attack) -> list[Answer]:
    """Send bodies whose provider answers once no more of them arrive."""
    arrived, may_answer, usual = threading.Event(), threading.Event(), reply_text("All is well.")

    def reply(call: UpstreamCall) -> bytes:
        arrived.set()
        may_answer.wait()
        answer = usual(call)
        assert isinstance(answer, bytes)
        return answer

    attack.upstream.reply = reply
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = [pool.submit(attack.post, body) for body in bodies]
        while arrived.wait(_SETTLED_SECONDS):
            arrived.clear()
        may_answer.set()
        return [answer.result() for answer in answers]


_ROUTES = """
[[routes]]
name = "long"
when = { model = "claude-opus-5-5", input_above = 1_000 }
targets = ["openai/gpt-4.1"]
"""


BODIES: tuple[Row, ...] = (
    tuple(
        Row(
            name=f"{name}, {path}",
            run=_post(build, path),
            input_mib=0 if ",000,000 keys" in name or "numbers" in name else 25,
        )
        for name, build in _BODIES.items()
        for path in ("/v1/messages", "/v1/messages/count_tokens")
    )
    + tuple(
        Row(
            name=name,
            run=_post(build, path),
            statuses=frozenset({400}),
            settings={"PREFERRED_PROVIDER": "anthropic"},
            configuration=_ROUTES if name.endswith("with routes") else "",
        )
        for name, (path, build) in _RESOURCES.items()
    )
    + (
        Row(
            name=f"{_SMALL_BODIES} bodies of 120 KB that wait for their provider",
            run=partial(_wait_for_provider, [_SMALL % (b"a" * 120_000)] * _SMALL_BODIES),
            statuses=frozenset({200}),
            settings={"MEMORY_LIMIT_MB": "1824"},
            input_mib=16,  # those that the plan lets wait at the same time
        ),
        Row(
            name="20 bodies whose schemas have one definition 1,000 times",
            run=partial(
                _wait_for_provider,
                [ordinary("ollama/m", tools=[{"name": f"t{n}", "input_schema": _REFERENCES}]) for n in range(20)],
            ),
            statuses=frozenset({200, 529}),
            settings={"MEMORY_LIMIT_MB": "1824"},
            input_mib=16,
        ),
    )
)
