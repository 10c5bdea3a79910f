"""Conversations and request fields with quadratic cost in a careless implementation."""

import json
from collections.abc import Callable
from typing import Any

from anthropic_proxy.engine.messages.call_states import CallState, HiddenThought, encode_state_id
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.rows.schemas import WIRES, as_tool
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer
from tests.support.pdf import document, write_pdf, write_stream

Body = dict[str, Any]
_ODD_NAME = "a tool name with spaces and more than sixty-four characters, number %d of many"
_MODELS = [model for name, model in WIRES.items() if name != "demo"]


def _calls_in_one_message(ids: list[str]) -> list[Body]:
    uses = [{"type": "tool_use", "id": id_, "name": "probe", "input": {}} for id_ in ids]
    results = [{"type": "tool_result", "tool_use_id": id_, "content": "r"} for id_ in ids]
    return [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": uses},
        {"role": "user", "content": results},
    ]


def _state_ids(count: int) -> list[str]:
    """Return ids of calls whose states are as long as their packed form allows."""
    thought = HiddenThought(0, "gem", json.dumps({"s": "a" * 500}))
    return [encode_state_id(CallState(f"i{number}", [thought])) for number in range(count)]


def _kept_ids(count: int) -> list[str]:
    return [f"{KEPT_ID_PREFIX}{number:024d}" for number in range(count)]


def _calls_in_turns(ids: list[str]) -> list[Body]:
    messages: list[Body] = [{"role": "user", "content": "x"}]
    for id_ in ids:
        messages += _calls_in_one_message([id_])[1:]
    return messages


def _calls_with_odd_names(count: int) -> list[Body]:
    uses = [{"type": "tool_use", "id": f"i{i}", "name": _ODD_NAME % i, "input": {}} for i in range(count)]
    results = [{"type": "tool_result", "tool_use_id": f"i{i}", "content": "r"} for i in range(count)]
    first = {"role": "user", "content": "x"}
    return [first, {"role": "assistant", "content": uses}, {"role": "user", "content": results}]


def _on_wires(build: Callable[[], Body]) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        body = build()
        return [attack.post({**body, "model": model}) for model in _MODELS]

    return run


def _messages(messages: list[Body], **fields: Any) -> Callable[[], Body]:
    return lambda: {**ordinary("", tools=[as_tool({"type": "object"})], **fields), "messages": messages}


def _stop_sequences(sequences: list[str], text: str, fragments: int) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        attack.upstream.reply = reply_text(text, fragments)
        return [
            attack.post(ordinary(model, stop_sequences=sequences, stream=stream))
            for model in _MODELS
            for stream in (True, False)
        ]

    return run


_PDF: Any = [document(write_pdf("A deed", objects=[write_stream(bytes(20_000_000))]))]

CONVERSATIONS: tuple[Row, ...] = (
    Row(name="8,000 calls with one id in a message", run=_on_wires(_messages(_calls_in_one_message(["same"] * 8_000)))),
    Row(
        name="8,000 turns with made-up states in their ids",
        run=_on_wires(_messages(_calls_in_turns(_state_ids(8_000)))),
    ),
    Row(
        name="8,000 turns with ids of states that are not kept",
        run=_on_wires(_messages(_calls_in_turns(_kept_ids(8_000)))),
    ),
    Row(name="8,000 turns with one id", run=_on_wires(_messages(_calls_in_turns(["same"] * 8_000)))),
    Row(name="4,000 turns with two alternating ids", run=_on_wires(_messages(_calls_in_turns(["a", "b"] * 2_000)))),
    Row(
        name="4,000 ids with characters to replace",
        run=_on_wires(_messages(_calls_in_turns([f"é{i}/{'x' * 80}" for i in range(4_000)]))),
    ),
    Row(
        name="20,000 tools",
        run=_on_wires(lambda: ordinary("", tools=[as_tool({"type": "object"}, f"tool{i}") for i in range(20_000)])),
    ),
    Row(
        name="20,000 tools with names that need aliases",
        run=_on_wires(lambda: ordinary("", tools=[as_tool({"type": "object"}, _ODD_NAME % i) for i in range(20_000)])),
    ),
    Row(
        name="50,000 messages",
        run=_on_wires(
            lambda: {
                **ordinary(""),
                "messages": [{"role": ("user", "assistant")[i % 2], "content": "x"} for i in range(49_999)],
            }
        ),
    ),
    Row(
        name="40,000 text blocks in a message",
        run=_on_wires(
            lambda: {
                **ordinary(""),
                "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 40_000}],
            }
        ),
    ),
    Row(
        name="40,000 system blocks",
        run=_on_wires(lambda: ordinary("", system=[{"type": "text", "text": "x"}] * 40_000)),
    ),
    Row(
        name="100,000 nested arrays in a tool input",
        run=lambda attack: [attack.post(_deep_input(model)) for model in _MODELS],
    ),
    Row(name="20,000 calls with names that need aliases", run=_on_wires(_messages(_calls_with_odd_names(20_000)))),
    Row(
        name="25 MB of text",
        run=_on_wires(lambda: ordinary("", "Some words of a text, again and again. " * 640_000)),
        input_mib=25,
    ),
    Row(name="25 MB of one letter", run=_on_wires(lambda: ordinary("", "a" * 25_000_000)), input_mib=25),
    Row(name="a PDF of 20 MB", run=_on_wires(lambda: ordinary("", _PDF)), input_mib=25),
    Row(
        name="4,096 stop sequences with the prefix of the text",
        run=_stop_sequences([f"aaaaaaaaaa{i}" for i in range(4_096)], "a" * 20_000, 2_000),
    ),
    Row(
        name="340 stop sequences of 185 characters",
        run=_stop_sequences(["a" * 180 + f"{i:05}" for i in range(340)], "a" * 20_000, 1),
    ),
    Row(name="a stop sequence of 100,000 characters", run=_stop_sequences(["a" * 100_000 + "b"], "a" * 200_000, 500)),
)


def _deep_input(model: str) -> bytes:
    nested = "[" * 100_000 + "]" * 100_000
    use = '{"type":"tool_use","id":"a","name":"t","input":{"a":' + nested + "}}"
    user = '{"role":"user","content":"x"}'
    head = f'{{"model":"{model}","max_tokens":9,"messages":['
    return (head + user + ',{"role":"assistant","content":[' + use + "]}," + user + "]}").encode()
