"""Replies of the demo, the built-in provider that replies by fixed rules.

`build_reply` chooses the content, a `DemoReply`: a tool call, repeated tool results, JSON, or a text about the demo.
`encode_reply` encodes it as a Chat Completions response. Source: OpenAI's API reference, 2026-11.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.upstream.demo.calls import build_default_value, build_tool_call, find_requested_call
from anthropic_proxy.upstream.demo.requests import DemoRequest, ToolCall, remove_tagged_sections

MAX_REPEATED_TOOL_RESULTS = 8
"""Maximum number of tool results that one demo reply repeats."""
MAX_TOOL_RESULT_CHARACTERS = 1_500
"""Maximum characters of each repeated tool result. A longer result is cut."""
_ERROR_MARK = "[tool error]"
_FINAL_TOOL = "StructuredOutput"
"""Tool by which Claude Code requests structured output. Claude Code treats a reply without this call as an error."""


class DemoReply(Struct, frozen=True):
    """Content of a demo reply: text, a tool call, or both."""

    text: str = ""
    """Text of the reply. "": none."""
    tool_call: ToolCall | None = None
    """Tool call of the reply. None: no call."""


def build_reply(request: DemoRequest, setup_variables: Sequence[str]) -> DemoReply:
    """Return the content of the demo's reply to a request.

    Texts about the demo mention `setup_variables`, the settings that configure a real provider. Raises
    `WorkLimitExceeded` if a JSON Schema of the request requires values that are too large.
    """
    call = None if request.tool_choice == "none" else find_requested_call(request)
    if request.tool_choice not in {"auto", "none"}:
        forced = _force(request, call)
        return DemoReply(tool_call=forced) if forced else DemoReply(_introduce(request, setup_variables))
    if call is not None and call not in request.tool_calls:
        return DemoReply(f"The demonstration calls {call.name}.", call)
    final = next((tool for tool in request.tools if tool.name == _FINAL_TOOL), None)
    if final and request.tool_choice == "auto" and all(made.name != _FINAL_TOOL for made in request.tool_calls):
        return DemoReply(tool_call=build_tool_call(final, {}))
    if request.requires_json:
        schema = {"type": "object"} if request.reply_schema is None else request.reply_schema
        return DemoReply(msgspec.json.encode(build_default_value("output_config.format.schema", schema)).decode())
    if request.tool_results:
        return DemoReply(_repeat(request.tool_results, setup_variables))
    return DemoReply(_introduce(request, setup_variables))


def _force(request: DemoRequest, call: ToolCall | None) -> ToolCall | None:
    """Return the call that the client's `tool_choice` requires. None: the reply has no call.

    `call`: call that the user's text requests, used if `tool_choice` permits it. A required call has default arguments.
    """
    allowed = [tool for tool in request.tools if request.tool_choice in {"required", f"tool:{tool.name}"}]
    if call and any(tool.name == call.name for tool in allowed):
        return call
    return next((build_tool_call(tool, {}) for tool in allowed), None)


def _repeat(results: Sequence[tuple[str, str]], setup_variables: Sequence[str]) -> str:
    texts = [_quote(name, text) for name, text in results[:MAX_REPEATED_TOOL_RESULTS]]
    return "\n\n".join([*texts, f"(The demonstration repeats tool results. {_explain(setup_variables)})"])


def _quote(name: str, result: str) -> str:
    failed = result.startswith(_ERROR_MARK)
    text = remove_tagged_sections(result.removeprefix(_ERROR_MARK)).strip()
    if len(text) > MAX_TOOL_RESULT_CHARACTERS:
        text = f"{text[:MAX_TOOL_RESULT_CHARACTERS].rstrip()} … ({len(text):,} characters in total)"
    return f"{name} {'failed' if failed else 'returned'}:\n\n{text or '(no text)'}"


def _introduce(request: DemoRequest, setup_variables: Sequence[str]) -> str:
    texts = [
        "This is the built-in demonstration of anthropic-proxy. It is not a language model and knows nothing.",
        f"{_explain(setup_variables)} Other variables for this: "
        f"{', '.join(setup_variables[1:]) or 'see .env.example'}.",
    ]
    if request.tools:
        texts.append(
            "It calls your tools for a few plain requests only: list the files here · read a.txt · run `echo hi` · "
            "What's the weather in Paris?"
        )
    text = "\n\n".join(texts)
    # A client that compacts its history looks for these tags.
    return f"<summary>{text}</summary>" if "<summary>" in request.last_user_text else text


def _explain(setup_variables: Sequence[str]) -> str:
    variable = setup_variables[0]
    return f"For a real model, run anthropic-proxy init, or put {variable}=… into .env, and start the proxy again."


_TOKEN = re.compile(r"\s*\w{1,6}|\s*[^\w\s]{1,4}|\s+")
_CHARACTERS_PER_TOKEN = 4
MAX_STREAM_FRAGMENTS = 300
"""Maximum number of fragments of a text or of arguments, so that a long reply does not stream for minutes."""


def encode_reply(
    reply: DemoReply, request: DemoRequest, shared_fields: Mapping[str, Any], call_id: str
) -> Iterator[bytes]:
    """Return the response body in chunks: the events of a stream, or one JSON object.

    `shared_fields` has fields that every chunk contains.
    """
    limit = 1 << 30 if request.max_reply_tokens is None else request.max_reply_tokens
    texts, spent, cut = _split(reply.text, limit)
    call: dict[str, Any] | None = None
    arguments: list[str] = []
    if reply.tool_call is not None and not cut and spent < limit:
        # The name of a call counts as one token.
        arguments, used, cut = _split(msgspec.json.encode(reply.tool_call.arguments).decode(), limit - spent - 1)
        spent += 1 + used
        call = {"id": call_id, "type": "function", "function": {"name": reply.tool_call.name, "arguments": ""}}
    prompt = request.input_characters // _CHARACTERS_PER_TOKEN + 8
    usage = {"prompt_tokens": prompt, "completion_tokens": spent, "total_tokens": prompt + spent}
    reason = "length" if cut or (reply.tool_call and not call) else "tool_calls" if call else "stop"
    if request.stream:
        deltas = _list_deltas(texts, call, arguments)
        return _encode_events(shared_fields, deltas, reason, usage if request.includes_usage else None)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    if call:
        call["function"]["arguments"] = "".join(arguments)
        message["tool_calls"] = [call]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return iter(
        [msgspec.json.encode({**shared_fields, "object": "chat.completion", "choices": [choice], "usage": usage})]
    )


def _split(text: str, limit: int) -> tuple[list[str], int, bool]:
    """Return the fragments of a text, their number of tokens, and True if the text was cut at `limit` tokens."""
    tokens = _TOKEN.findall(text)
    kept = tokens[:limit]
    step = 1 + len(kept) // MAX_STREAM_FRAGMENTS
    fragments = ["".join(kept[place : place + step]) for place in range(0, len(kept), step)]
    return fragments, len(kept), len(kept) < len(tokens)


def _list_deltas(texts: list[str], call: dict[str, Any] | None, arguments: list[str]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "" if texts else None, "refusal": None}
    yield from ({"content": text} for text in texts)
    if call:
        yield {"tool_calls": [{"index": 0, **call}]}
        yield from ({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in arguments)


def _encode_events(
    shared_fields: Mapping[str, Any], deltas: Iterable[dict[str, Any]], reason: str, usage: Mapping[str, int] | None
) -> Iterator[bytes]:
    fields = {**shared_fields, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}
    for delta in deltas:
        yield _encode_event({**fields, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _encode_event({**fields, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage:
        yield _encode_event({**fields, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _encode_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
