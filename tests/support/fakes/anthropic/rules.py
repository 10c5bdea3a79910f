"""Anthropic's rules on a request beyond its types, in its own words."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from tests.support.fakes.anthropic.models import Model
from tests.support.fakes.anthropic.shapes import check_request
from tests.support.fakes.server import ContractViolation

MIN_BUDGET_TOKENS = 1_024
MAX_CACHE_MARKS = 4
OURS = "px1."
"""The prefix of the proxy's own signatures: none may ever get here."""
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8", "image/webp": b"RIFF"}


def sign(text: str) -> str:
    """Return the signature that this server gives to a thought; no other is accepted for it."""
    return base64.b64encode(b"Ev" + hashlib.sha512(f"anthropic:{text}".encode()).digest()).decode()


def blocks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _check_content(position: int, message: dict[str, Any], last: bool) -> Iterator[ContractViolation]:
    where, role = f"messages.{position}", message["role"]
    if not message["content"]:
        if role == "user" or not last:
            text = f"{where}: all messages must have non-empty content except for the optional final assistant message"
            yield ContractViolation("empty_content", text, where)
        return
    blocks = blocks_of(message)
    for number, block in enumerate(blocks):
        place = f"{where}.content.{number}"
        if block["type"] == "text" and not block["text"].strip():
            yield ContractViolation(
                "empty_text", "messages: text content blocks must contain non-whitespace text", place
            )
        if block["type"] == "thinking" and block["signature"] not in (sign(block["thinking"]), sign("")):
            yield ContractViolation("signature", f"{place}: Invalid `signature` in `thinking` block", place)
        if block["type"] == "redacted_thinking" and block["data"] != sign("redacted"):
            yield ContractViolation("data", f"{place}: Invalid `data` in `redacted_thinking` block", place)
        if block["type"] in ("tool_use", "server_tool_use") and not _ID.fullmatch(block["id"]):
            text = f"{place}.{block['type']}.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            yield ContractViolation("id", text, place)
        yield from _check_search(place, block)
        yield from _check_picture(place, block)
    if role == "assistant" and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
        text = f"{where}: The final block in an assistant message cannot be `thinking`."
        yield ContractViolation("last_thinking", text, where)


def _check_search(place: str, block: dict[str, Any]) -> Iterator[ContractViolation]:
    found = block.get("content") if block["type"] == "web_search_tool_result" else block.get("citations")
    for entry in found if isinstance(found, list) else ():
        if entry.get("type") in ("web_search_result", "web_search_result_location"):
            field = "encrypted_content" if entry["type"] == "web_search_result" else "encrypted_index"
            if not entry[field]:
                yield ContractViolation("encrypted", f"{place}: Invalid `{field}` in `{entry['type']}`", place)


def _check_picture(place: str, block: dict[str, Any]) -> Iterator[ContractViolation]:
    source = block.get("source") or {}
    if block["type"] != "image" or source.get("type") != "base64":
        return
    try:
        data = base64.b64decode(source["data"], validate=True)
    except binascii.Error:
        yield ContractViolation("picture", f"{place}.image.source.base64.data: Invalid base64 data", place)
        return
    if not data.startswith(_MAGIC.get(source["media_type"], b"\x00")):
        text = f"{place}.image.source.base64.data: The image was specified using the {source['media_type']} media type"
        yield ContractViolation("picture", f"{text}, but does not appear to be one", place)


def _check_pairs(messages: list[dict[str, Any]]) -> Iterator[ContractViolation]:
    spoken = [(place, message) for place, message in enumerate(messages) if message["role"] != "system"]
    seen: set[str] = set()
    called: list[str] = []
    where = ""
    for place, message in spoken:
        results = [block for block in blocks_of(message) if block["type"] == "tool_result"]
        answered = {block["tool_use_id"] for block in results}
        if missing := [one for one in called if one not in answered]:
            text = (
                f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
            yield ContractViolation("unanswered", text, where)
        for number, block in enumerate(results):
            if block["tool_use_id"] not in called:
                text = (
                    f"messages.{place}.content.{number}: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{block['tool_use_id']}. Each `tool_result` block must have a corresponding `tool_use` block in "
                    "the previous message."
                )
                yield ContractViolation("uncalled", text, f"messages.{place}")
        called = [block["id"] for block in blocks_of(message) if block["type"] == "tool_use"]
        where = f"messages.{place}"
        for one in called:
            if one in seen:
                yield ContractViolation("same_id", f"{where}: `tool_use` ids must be unique", where)
            seen.add(one)
    if called:
        yield ContractViolation("unanswered", f"{where}: `tool_use` ids were found without `tool_result` blocks", where)


def _check_tools(body: dict[str, Any]) -> Iterator[ContractViolation]:
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    names = [tool.get("name", tool.get("mcp_server_name", "")) for tool in tools]
    for number, tool in enumerate(tools):
        if tool.get("type") in (None, "custom"):
            if not _NAME.fullmatch(tool["name"]):
                text = f"tools.{number}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
                yield ContractViolation("tool_name", text, f"tools.{number}")
            if tool["input_schema"].get("type") != "object":
                yield ContractViolation(
                    "schema", f"tools.{number}.custom.input_schema.type: Input should be 'object'", "tools"
                )
    if len(names) != len(set(names)):
        yield ContractViolation("tool_twice", "tools: Tool names must be unique.", "tools")
    if choice and not tools:
        yield ContractViolation(
            "choice", "tool_choice: tool_choice may only be specified while providing tools", "tool_choice"
        )
    if choice and choice["type"] == "tool" and choice["name"] not in names and tools:
        yield ContractViolation(
            "choice", f"tool_choice: Tool '{choice['name']}' not found in provided tools", "tool_choice"
        )


def _check_features(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    choice = (body.get("tool_choice") or {}).get("type")
    if choice in ("any", "tool") and not model.forced_tools:
        text = f'tool_choice.type: "{choice}" is not supported on this model. Use "auto" or "none".'
        yield ContractViolation("forced", text, "tool_choice")
    for number, tool in enumerate(body.get("tools") or ()):
        kind = tool.get("type") or ""
        if kind.startswith("computer_2") and model.computer.startswith("computer_toolset_"):
            yield ContractViolation("computer", f"tools.{number}: '{kind}' is not supported on this model.", "tools")


def _count_marks(value: Any) -> int:
    if isinstance(value, dict):
        return ("cache_control" in value) + sum(_count_marks(one) for one in value.values())
    return sum(_count_marks(one) for one in value) if isinstance(value, list) else 0


def _check_limits(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    limit = body["max_tokens"]
    if limit > model.output:
        text = f"max_tokens: {limit} > {model.output}, which is the maximum allowed number of output tokens"
        yield ContractViolation("output_limit", f"{text} for {body['model']}", "max_tokens")
    if limit < 0:
        yield ContractViolation("range", "max_tokens: Input should be greater than or equal to 0", "max_tokens")
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled":
        budget = thinking["budget_tokens"]
        if budget < MIN_BUDGET_TOKENS:
            text = f"thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_BUDGET_TOKENS}"
            yield ContractViolation("budget", text, "thinking")
        if budget >= limit:
            yield ContractViolation(
                "budget", "`max_tokens` must be greater than `thinking.budget_tokens`.", "max_tokens"
            )
    if thinking.get("type") == "adaptive" and "adaptive" not in model.thinking:
        yield ContractViolation("adaptive", "adaptive thinking is not supported on this model", "thinking")
    elif (form := thinking.get("type")) is not None and form not in model.thinking:
        text = f'"thinking.type.{form}" is not supported for this model. Use "thinking.type.{model.thinking[-1]}"'
        yield ContractViolation("thinking_type", f'{text} and "output_config.effort" to control thinking.', "thinking")
    if (effort := (body.get("output_config") or {}).get("effort")) and not model.allows_effort(
        effort, thinking.get("type", "")
    ):
        text = f"thinking.type: '{thinking['type']}' is not supported at effort '{effort}'"
        yield ContractViolation("effort", text, "output_config")
    if not 0 <= (body.get("temperature") or 0) <= 1:
        yield ContractViolation("range", "temperature: range: 0..1", "temperature")
    if any(not stop.strip() for stop in body.get("stop_sequences") or ()):
        text = "stop_sequences: each stop sequence must contain non-whitespace"
        yield ContractViolation("stop", text, "stop_sequences")
    if _count_marks(body) > MAX_CACHE_MARKS:
        text = f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found {_count_marks(body)}."
        yield ContractViolation("marks", text)


def _check_thinking(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """The tool calls since the last question begin with thinking if it is on by hand, and have none if it is off."""
    kind = (body.get("thinking") or {}).get("type", "disabled")
    for edit in (body.get("context_management") or {}).get("edits", ()):
        if kind == "disabled" and edit["type"] == "clear_thinking_20251015":
            text = "`clear_thinking_20251015` strategy requires `thinking` to be enabled or adaptive"
            yield ContractViolation("clear_thinking", text, "context_management")
    replies: list[tuple[int, dict[str, Any]]] = []
    for position, message in reversed([*enumerate(body["messages"])]):
        if message["role"] == "assistant":
            replies.append((position, message))
        elif message["role"] == "user" and all(block["type"] != "tool_result" for block in blocks_of(message)):
            break
    if not replies or body["messages"][-1]["role"] == "assistant":
        return
    position, first = replies[-1]
    found = blocks_of(first)[0]["type"]
    if kind == "enabled" and found not in ("thinking", "redacted_thinking"):
        place = f"messages.{position}.content.0.type"
        text = (
            f"{place}: Expected `thinking` or `redacted_thinking`, but found `{found}`. When `thinking` is enabled, a "
            "final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` and "
            "`tool_result` blocks). We recommend you include thinking blocks from previous turns. To avoid this "
            "requirement, disable `thinking`."
        )
        yield ContractViolation("no_thinking", text, place)
    for position, message in replies if kind == "disabled" else ():
        for number, block in enumerate(blocks_of(message)):
            if block["type"] in ("thinking", "redacted_thinking"):
                place = f"messages.{position}.content.{number}"
                text = (
                    f"{place}: When thinking is disabled, an `assistant` message in the final position cannot contain "
                    f"`{block['type']}`. To use thinking blocks, enable `thinking` in your request."
                )
                yield ContractViolation("thinking_off", text, place)


def check_body(
    body: dict[str, Any], model: Model, betas: str = "", *, counting: bool = False
) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first."""
    shapes = list(check_request(body, betas, counting=counting))
    yield from shapes
    if any(breach.rule != "unknown_field" for breach in shapes):
        return
    messages = body["messages"]
    if not messages:
        yield ContractViolation("no_messages", "messages: at least one message is required", "messages")
        return
    if messages[0]["role"] == "assistant":
        yield ContractViolation("first", 'messages: first message must use the "user" role', "messages")
    for position, message in enumerate(messages):
        yield from _check_content(position, message, position == len(messages) - 1)
    if messages[-1]["role"] == "assistant" and not model.prefill:
        text = "This model does not support assistant message prefill. The conversation must end with a user message."
        yield ContractViolation("prefill", text, "messages")
    else:
        yield from _check_pairs(messages)
    yield from _check_tools(body)
    yield from _check_features(body, model)
    yield from _check_thinking(body)
    if not counting:
        yield from _check_limits(body, model)
