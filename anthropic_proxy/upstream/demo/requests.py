"""Decoding of requests for the demo, the built-in provider that replies by fixed rules.

`decode_request` decodes a Chat Completions request as a `DemoRequest`, with only the fields on which replies depend.
`remove_tagged_sections` removes sections that Claude Code adds to user texts.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

_DIRECTORY = re.compile(r"working directory(?: is)?:?[ \t]*[`\"']?(/[^\n`\"'<]*|[A-Za-z]:\\[^\n`\"'<]*)", re.IGNORECASE)
_REMINDER_TAGS = ("system-reminder", "local-command-caveat", "local-command-stdout", "local-command-stderr")
"""Tags around sections that Claude Code adds to the text of the user."""


class OfferedTool(Struct, frozen=True):
    """A function tool that the Chat Completions request offers to the model."""

    name: str
    """Name of the tool."""
    input_schema: Mapping[str, Any]
    """JSON Schema of the arguments, decoded."""


class ToolCall(Struct, frozen=True):
    """A tool call with decoded arguments: one in the conversation, or one that the demo makes."""

    name: str
    """Name of the called tool."""
    arguments: Any
    """Decoded JSON value of the arguments."""


class DemoRequest(Struct, kw_only=True):
    """A decoded Chat Completions request, with only the fields on which the demo's replies depend."""

    model: str
    """Model id in the Chat Completions request."""
    tools: Sequence[OfferedTool]
    """Function tools that the Chat Completions request offers to the model."""
    tool_choice: str
    """Choice of the client: `auto`, `none`, `required`, or one tool as `tool:<name>`."""
    max_reply_tokens: int | None
    """Maximum size of the demo reply in tokens. None: no limit."""
    stream: bool
    """True if the client requests a streamed reply."""
    includes_usage: bool
    """True if a stream ends with a chunk of token counts."""
    requires_json: bool
    """True if the reply must be JSON."""
    reply_schema: Any
    """JSON Schema of the reply, decoded. None: no schema."""
    last_user_text: str = ""
    """Last text of the user, without sections that the client adds."""
    working_directory: str = ""
    """Working directory of the client, as the client's messages state it. "": not stated."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """Tool calls of the model since its last message without a tool call, in order."""
    tool_results: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of tool name and result text, for the calls of the last assistant message. Empty: no results."""
    tool_names: dict[str, str] = field(default_factory=dict)
    """Tool call id → tool name, for the calls of the last assistant message."""
    input_characters: int = 0
    """Number of characters of all messages and tools, from which the input tokens are estimated."""


def decode_request(body: bytes) -> DemoRequest:
    """Decode the body of a Chat Completions request. Raises `msgspec.DecodeError` if it is not a JSON object."""
    fields = msgspec.json.decode(body, type=dict[str, Any])
    functions = [entry["function"] for entry in fields.get("tools") or () if "function" in entry]
    choice = fields.get("tool_choice") or "auto"
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    form = fields.get("response_format") or {}
    request = DemoRequest(
        model=fields.get("model") or "demo",
        tools=[OfferedTool(function["name"], function.get("parameters") or {}) for function in functions],
        tool_choice=f"tool:{named}" if named else str(choice),
        max_reply_tokens=fields.get("max_completion_tokens") or fields.get("max_tokens"),
        stream=bool(fields.get("stream")),
        includes_usage=bool((fields.get("stream_options") or {}).get("include_usage")),
        requires_json=form.get("type") in {"json_schema", "json_object"},
        reply_schema=(form.get("json_schema") or {}).get("schema"),
        input_characters=len(msgspec.json.encode(fields.get("tools"))),
    )
    for message in fields.get("messages") or ():
        _read_message(request, message)
    return request


def _read_message(request: DemoRequest, message: dict[str, Any]) -> None:
    role, content = message.get("role"), message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(block["text"] for block in content if block.get("type") == "text")
    request.input_characters += len(content)
    if role == "assistant":
        _read_reply(request, message.get("tool_calls") or ())
    elif role == "tool":
        request.tool_results.append((request.tool_names.get(str(message.get("tool_call_id")), "The tool"), content))
    else:
        for directory in _DIRECTORY.findall(content):
            request.working_directory = directory.strip().rstrip(".,")
        if role == "user":
            request.last_user_text = remove_tagged_sections(content).strip() or request.last_user_text


def _read_reply(request: DemoRequest, calls: Sequence[dict[str, Any]]) -> None:
    request.tool_results, request.tool_names = [], {}
    if not calls:
        request.tool_calls = []
    for call in calls:
        function = call.get("function") or {}
        name, arguments = str(function.get("name")), str(function.get("arguments") or "{}")
        with contextlib.suppress(msgspec.DecodeError):
            request.tool_calls.append(ToolCall(name, msgspec.json.decode(arguments)))
        request.tool_names[str(call.get("id"))] = name
        request.input_characters += len(arguments)


def remove_tagged_sections(text: str) -> str:
    """Return a user text without the sections that Claude Code adds in tags, such as `<system-reminder>`.

    A tag without an end tag is kept.
    """
    for tag in _REMINDER_TAGS:
        first, *others = text.split(f"<{tag}>")
        kept = [first]
        for other in others:
            _, closed, remainder = other.partition(f"</{tag}>")
            kept.append(remainder if closed else f"<{tag}>{other}")
        text = "".join(kept)
    return text
