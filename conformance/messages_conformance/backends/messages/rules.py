"""Anthropic's rules on a request that hold for every model, in its own words."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.messages.shapes import check_shape
from messages_conformance.backends.wire import IMAGE_BEGINNINGS, ContractViolation

MIN_BUDGET_TOKENS = 1_024
MAX_CACHE_MARKS = 4
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


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
        if block["type"] in ("tool_use", "server_tool_use") and not _ID.fullmatch(block["id"]):
            text = f"{place}.{block['type']}.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            yield ContractViolation("id", text, place)
        yield from _check_search(place, block)
        yield from _check_picture(place, block)
        yield from _check_pdf(place, block)
        if block["type"] == "compaction" and block.get("content") == "":
            yield ContractViolation("summary", f"{place}.compaction.content: Input should not be empty", place)
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
    if not data.startswith(IMAGE_BEGINNINGS.get(source["media_type"], b"\x00")):
        text = f"{place}.image.source.base64.data: The image was specified using the {source['media_type']} media type"
        yield ContractViolation("picture", f"{text}, but does not appear to be one", place)


def _check_pdf(place: str, block: dict[str, Any]) -> Iterator[ContractViolation]:
    source = block.get("source") or {}
    if block["type"] != "document" or source.get("type") != "base64":
        return
    try:
        data = base64.b64decode(source.get("data", ""), validate=True)
    except binascii.Error:
        data = b""
    where = f"{place}.pdf.source.base64.data"
    if not (data.startswith(b"%PDF-") and b"%%EOF" in data[-1_024:]):
        yield ContractViolation("pdf", f"{where}: The PDF specified was not valid.", place)
    elif b"/Encrypt" in data:
        yield ContractViolation("pdf", f"{where}: The PDF specified is password protected.", place)


def _check_features(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield what cannot be combined: features of a request, and documents with and without citations."""
    if "compaction" in body and "context_management" in body:
        yield ContractViolation("together", "compaction: cannot be combined with context_management", "compaction")
    sources = {"document": set[bool](), "search_result": set[bool]()}
    for message in body["messages"]:
        for block in blocks_of(message):
            if block["type"] in sources:
                sources[block["type"]].add(bool((block.get("citations") or {}).get("enabled")))
    if any(len(found) > 1 for found in sources.values()):
        text = "messages: citations must be enabled on all or none of the documents in a request"
        yield ContractViolation("mixed_citations", text, "messages")
    has_format = (body.get("output_config") or {}).get("format")
    if has_format and any(True in found for found in sources.values()):
        yield ContractViolation("format", "output_config.format: citations are not supported", "output_config")


def check_pairs(messages: list[dict[str, Any]]) -> Iterator[ContractViolation]:
    """Yield the calls without a result in the next message, and the results without a call in the one before."""
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


def check_tools(body: dict[str, Any]) -> Iterator[ContractViolation]:
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


def _count_marks(value: Any) -> int:
    if isinstance(value, dict):
        return ("cache_control" in value) + sum(_count_marks(one) for one in value.values())
    return sum(_count_marks(one) for one in value) if isinstance(value, list) else 0


def check_limits(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield the limits that a request exceeds; a count of tokens has none."""
    limit = body["max_tokens"]
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
    if not 0 <= (body.get("temperature") or 0) <= 1:
        yield ContractViolation("range", "temperature: range: 0..1", "temperature")
    if any(not stop.strip() for stop in body.get("stop_sequences") or ()):
        text = "stop_sequences: each stop sequence must contain non-whitespace"
        yield ContractViolation("stop", text, "stop_sequences")
    if _count_marks(body) > MAX_CACHE_MARKS:
        text = f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found {_count_marks(body)}."
        yield ContractViolation("marks", text)


def check_messages(messages: list[dict[str, Any]]) -> Iterator[ContractViolation]:
    """Yield the rules on messages that these break, beside the order of calls and results."""
    if not messages:
        yield ContractViolation("no_messages", "messages: at least one message is required", "messages")
        return
    first = messages[0]
    if first["role"] == "assistant" and not any(block["type"] == "compaction" for block in blocks_of(first)[:1]):
        yield ContractViolation("first", 'messages: first message must use the "user" role', "messages")
    for position, message in enumerate(messages):
        yield from _check_content(position, message, position == len(messages) - 1)


def check_version(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield what the version 2026-10-21 does not accept any more."""
    for name in ("temperature", "top_p", "top_k"):
        if name in body:
            yield ContractViolation("removed", f"{name}: Extra inputs are not permitted", name)
    for position, message in enumerate(body["messages"]):
        for number, block in enumerate(blocks_of(message)):
            place = f"messages.{position}.content.{number}"
            if message["role"] == "assistant" and block["type"] == "document":
                yield ContractViolation("removed", f"{place}: Input tag 'document' is not allowed here", place)
            if message["role"] == "user" and block["type"] == "text" and block.get("citations"):
                yield ContractViolation("removed", f"{place}.text.citations: Extra inputs are not permitted", place)


def check_body(body: dict[str, Any], *, counting: bool = False, version: str = "") -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first. `counting`: a count of tokens."""
    shapes = list(check_shape(body, counting=counting))
    yield from shapes
    if shapes:
        return
    if version == "2026-10-21":
        yield from check_version(body)
    yield from check_messages(body["messages"])
    yield from check_pairs(body["messages"])
    yield from check_tools(body)
    yield from _check_features(body)
    if not counting:
        yield from check_limits(body)
