"""Replies of providers, odd ones above all, and the messages that they become: `tests/golden_texts/replies`.

Each line of an input has a word first: `request` (fields of the client request), `tools` (names), `dialect`, `limits`;
then `frame` (one event of a stream), `body` (a whole reply, or all frames above as one) or `error` (a status and a
body); `adapt` (the same) shows what is changed in the request after that error.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.wires import gemini, ollama, openai_chat, openai_responses
from anthropic_proxy.errors import UnreadableReply, UpstreamError
from tests.support.decoding import decode_frames, decode_whole, functions, new_call, new_limits
from tests.support.fold import fold
from tests.support.golden_texts import Check

WIRES = {one.__name__.rpartition(".")[2]: one for one in (gemini, ollama, openai_chat, openai_responses)}


def show_error(error: UpstreamError) -> str:
    words = [name for name in ("retryable",) if getattr(error, name)]
    words += ["unreadable"] if isinstance(error, UnreadableReply) else []
    return f"{error.status} {error.error_type} {' '.join(words)}: {error.message}"


def show_reply(deltas: list[Delta]) -> str:
    reply = fold(deltas, message_id="msg_1", model="m", signature="", estimated_input_tokens=0)
    blocks = [json.loads(bytes(block)) for block in reply.content]
    shown = [block.get("text") or json.dumps(block, ensure_ascii=False) for block in blocks]
    why = f" ({reply.stop_details['explanation']})" if reply.stop_details else ""
    usage = f" {reply.usage.input_tokens}+{reply.usage.output_tokens}"
    return f"{reply.stop_reason}{why}: {' | '.join(shown)}{usage if usage != ' 0+0' else ''}"


def show_adaptation(wire: Any, call: Any, error: Any) -> Iterator[str]:
    assert isinstance(error, UpstreamError)
    before = json.loads(wire.WIRE.encode_request(call).body)
    adaptation = wire.WIRE.find_adaptation(call, error)
    if adaptation is None:
        yield "none"
        return
    changed = msgspec.structs.replace(call, dialect=wire.WIRE.apply_adaptation(call.dialect, adaptation.name))
    after = json.loads(wire.WIRE.encode_request(changed).body)
    yield f"{adaptation.name}{'' if adaptation.persistent else ', once'}"
    for name in before | after:
        if before.get(name) != after.get(name):
            yield f"{name}: {json.dumps(before.get(name))} → {json.dumps(after.get(name))}"
    again = wire.WIRE.find_adaptation(changed, error)
    yield f"after the same error again: {again.name if again else 'none'}"


def convert(wire: Any, given: str) -> Iterator[str]:
    fields: dict[str, Any] = {}
    frames: list[bytes] = []
    for line in [*given.split("\n"), "end"]:
        word, _, rest = line.partition(" ")
        if word == "frame":
            frames.append(rest.encode())
            continue
        try:
            if frames and word in ("end", "body"):
                yield show_reply(decode_frames(wire.WIRE.new_decoder(new_call(wire, **fields)), *frames))
            if word == "body":
                body = rest.encode() or b"[" + b",".join(frames) + b"]"
                yield show_reply(decode_whole(wire.WIRE.new_decoder(new_call(wire, **fields, stream=False)), body))
                frames = []
        except UpstreamError as error:
            yield show_error(error)
            if word == "body" and frames:  # the stream failed: show the whole reply too
                yield from convert(wire, "\n".join([*given.split("\n")[: -len(frames) - 1], line]))
                return
        match word:
            case "request":
                fields |= json.loads(rest)
            case "tools":
                fields["tools"] = functions(*rest.split())
            case "dialect":
                fields["dialect"] = json.loads(rest)
            case "limits":
                fields["limits"] = new_limits(**json.loads(rest))
            case "error" | "adapt":
                status, _, text = rest.partition(" ")
                call = new_call(wire, **fields)
                found = wire.WIRE.decode_error(call, int(status), {}, text.encode())
                if word == "adapt":
                    yield from show_adaptation(wire, call, found)
                else:
                    yield show_reply(found) if isinstance(found, list) else show_error(found)


@pytest.mark.parametrize("name", WIRES)
def test_replies(name: str, golden: Check) -> None:
    golden(f"replies/{name}", lambda given: "\n".join(convert(WIRES[name], given)))
