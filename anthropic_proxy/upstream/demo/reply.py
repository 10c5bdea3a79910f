"""The reply to a request: a tool call, or a text that states what the demo is, encoded as Chat Completions.

Source: OpenAI's API reference, 2026-11.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.upstream.demo.calls import default_value, fill_call, find_call
from anthropic_proxy.upstream.demo.requests import DemoRequest, ToolUse, remove_reminders

MAX_QUOTED_RESULTS = 8
MAX_QUOTED_CHARACTERS = 1_500
"""Results of the last reply that are repeated, and characters of each."""
_ERROR_MARK = "[tool error]"
_FINAL_TOOL = "StructuredOutput"
"""The tool by which Claude Code requests structured output. A reply without a call of it is an error there."""


class Reply(Struct, frozen=True):
    """Text, a tool call, or both."""

    text: str = ""
    call: ToolUse | None = None


def build_reply(request: DemoRequest, variables: Sequence[str]) -> Reply:
    """Return the reply. `variables`: settings that configure a provider, the most common first.

    Raises `WorkLimitExceeded` if the schema of a tool or of the reply requires values that are too large.
    """
    call = None if request.choice == "none" else find_call(request)
    if request.choice not in {"auto", "none"}:
        forced = _force(request, call)
        return Reply(call=forced) if forced else Reply(_introduce(request, variables))
    if call is not None and call not in request.calls:
        return Reply(f"The demonstration calls {call.name}.", call)
    final = next((tool for tool in request.tools if tool.name == _FINAL_TOOL), None)
    if final and request.choice == "auto" and all(made.name != _FINAL_TOOL for made in request.calls):
        return Reply(call=fill_call(final, {}))
    if request.wants_json:
        schema = {"type": "object"} if request.schema is None else request.schema
        return Reply(msgspec.json.encode(default_value("output_config.format.schema", schema)).decode())
    if request.results:
        return Reply(_repeat(request.results, variables))
    return Reply(_introduce(request, variables))


def _force(request: DemoRequest, call: ToolUse | None) -> ToolUse | None:
    """Return the call that `tool_choice` requires: the obvious one, or else one with default arguments."""
    allowed = [tool for tool in request.tools if request.choice in {"required", f"tool:{tool.name}"}]
    if call and any(tool.name == call.name for tool in allowed):
        return call
    return next((fill_call(tool, {}) for tool in allowed), None)


def _repeat(results: Sequence[tuple[str, str]], variables: Sequence[str]) -> str:
    texts = [_quote(name, text) for name, text in results[:MAX_QUOTED_RESULTS]]
    return "\n\n".join([*texts, f"(The demonstration repeats tool results. {_explain(variables)})"])


def _quote(name: str, result: str) -> str:
    failed = result.startswith(_ERROR_MARK)
    text = remove_reminders(result.removeprefix(_ERROR_MARK)).strip()
    if len(text) > MAX_QUOTED_CHARACTERS:
        text = f"{text[:MAX_QUOTED_CHARACTERS].rstrip()} … ({len(text):,} characters in total)"
    return f"{name} {'failed' if failed else 'returned'}:\n\n{text or '(no text)'}"


def _introduce(request: DemoRequest, variables: Sequence[str]) -> str:
    texts = [
        "This is the built-in demonstration of anthropic-proxy. It is not a language model and knows nothing.",
        f"{_explain(variables)} Other variables for this: {', '.join(variables[1:]) or 'see .env.example'}.",
    ]
    if request.tools:
        texts.append(
            "It calls your tools for a few plain requests only: list the files here · read a.txt · run `echo hi` · "
            "What's the weather in Paris?"
        )
    text = "\n\n".join(texts)
    # A client that compacts its history looks for these tags.
    return f"<summary>{text}</summary>" if "<summary>" in request.prompt else text


def _explain(variables: Sequence[str]) -> str:
    return f"For a real model, put {variables[0]}=… into a file named .env and start the proxy again."


_TOKEN = re.compile(r"\s*\w{1,6}|\s*[^\w\s]{1,4}|\s+")
_CHARACTERS_PER_TOKEN = 4
MAX_FRAGMENTS = 300
"""Fragments of a text or of arguments, so that a long reply does not stream for minutes."""


def encode_reply(reply: Reply, request: DemoRequest, head: Mapping[str, Any], call_id: str) -> Iterator[bytes]:
    """Return the events of a stream, `[DONE]` last, or one body; the tokens beyond the request's limit are cut.

    `head`: the fields of every chunk.
    """
    limit = 1 << 30 if request.limit is None else request.limit
    texts, spent, cut = _split(reply.text, limit)
    call: dict[str, Any] | None = None
    arguments: list[str] = []
    if reply.call is not None and not cut and spent < limit:
        # The name of a call counts as one token.
        arguments, used, cut = _split(msgspec.json.encode(reply.call.arguments).decode(), limit - spent - 1)
        spent += 1 + used
        call = {"id": call_id, "type": "function", "function": {"name": reply.call.name, "arguments": ""}}
    prompt = request.characters // _CHARACTERS_PER_TOKEN + 8
    usage = {"prompt_tokens": prompt, "completion_tokens": spent, "total_tokens": prompt + spent}
    reason = "length" if cut or (reply.call and not call) else "tool_calls" if call else "stop"
    if request.stream:
        deltas = _list_deltas(texts, call, arguments)
        return _encode_events(head, deltas, reason, usage if request.includes_usage else None)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    if call:
        call["function"]["arguments"] = "".join(arguments)
        message["tool_calls"] = [call]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return iter([msgspec.json.encode({**head, "object": "chat.completion", "choices": [choice], "usage": usage})])


def _split(text: str, limit: int) -> tuple[list[str], int, bool]:
    """Return the fragments of a text, its tokens, and whether tokens beyond the limit were cut."""
    tokens = _TOKEN.findall(text)
    kept = tokens[:limit]
    step = 1 + len(kept) // MAX_FRAGMENTS
    fragments = ["".join(kept[place : place + step]) for place in range(0, len(kept), step)]
    return fragments, len(kept), len(kept) < len(tokens)


def _list_deltas(texts: list[str], call: dict[str, Any] | None, arguments: list[str]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "" if texts else None, "refusal": None}
    yield from ({"content": text} for text in texts)
    if call:
        yield {"tool_calls": [{"index": 0, **call}]}
        yield from ({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in arguments)


def _encode_events(
    head: Mapping[str, Any], deltas: Iterable[dict[str, Any]], reason: str, usage: Mapping[str, int] | None
) -> Iterator[bytes]:
    fields = {**head, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}
    for delta in deltas:
        yield _encode_event({**fields, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _encode_event({**fields, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage:
        yield _encode_event({**fields, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _encode_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
