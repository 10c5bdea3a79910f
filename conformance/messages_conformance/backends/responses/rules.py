"""OpenAI's rules on a Responses request that hold for every model, and the order in which they are tried."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from messages_conformance.backends.openai.messages import check_name, empty, too_long
from messages_conformance.backends.openai.rules import MAX_TOOLS, check_length, check_ranges
from messages_conformance.backends.openai.schemas import check_schema
from messages_conformance.backends.openai.shapes import RESPONSES, RESPONSES_COUNT, check_shape
from messages_conformance.backends.responses.items import Abilities, check_items
from messages_conformance.backends.shapes import Schema
from messages_conformance.backends.wire import ContractViolation

MIN_OUTPUT_TOKENS = 16
RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "max_output_tokens": (MIN_OUTPUT_TOKENS, None),
    "max_tool_calls": (1, None),
}
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class _AnyModel:
    pictures: bool = True
    reasons: bool = True


def _check_tools(body: dict[str, Any]) -> Iterator[ContractViolation]:
    tools = body.get("tools") or []
    yield from check_length("tools", tools, MAX_TOOLS, "tools_many")
    names: set[str] = set()
    for position, tool in enumerate(tools):
        if tool["type"] != "function":
            continue
        where, name = f"tools[{position}]", tool["name"]
        yield from check_name(name, f"{where}.name")
        if name in names:
            text = f"Invalid '{where}.name': '{name}' was given before. Tool names must be unique."
            yield ContractViolation("tool_twice", text, f"{where}.name", "invalid_value")
        names.add(name)
        for text in check_schema(tool.get("parameters") or {}, strict=bool(tool.get("strict"))):
            message_text = f"Invalid schema for function '{name}': {text}"
            yield ContractViolation("schema", message_text, f"{where}.parameters", "invalid_function_parameters")
    yield from _check_servers(tools)
    yield from _check_choice(body.get("tool_choice"), tools, [*names])


def _check_servers(tools: list[dict[str, Any]]) -> Iterator[ContractViolation]:
    """Check servers of the Model Context Protocol that are to be called (guide to connectors and MCP servers)."""
    labels: set[str] = set()
    for position, tool in enumerate(tools):
        if tool["type"] != "mcp":
            continue
        where, label = f"tools[{position}]", tool["server_label"]
        if not _LABEL.fullmatch(label):
            text = f"Invalid '{where}.server_label': '{label}'. A letter must be followed by letters, digits, - and _."
            yield ContractViolation("server_label", text, f"{where}.server_label", "invalid_value")
        if label in labels:
            text = f"Duplicate '{where}.server_label': '{label}' was given before."
            yield ContractViolation("server_twice", text, f"{where}.server_label", "invalid_value")
        labels.add(label)
        if sum(name in tool for name in ("server_url", "connector_id", "tunnel_id")) != 1:
            text = f"Invalid '{where}': one of 'server_url', 'connector_id' and 'tunnel_id' must be given."
            yield ContractViolation("server_address", text, where, "invalid_value")


def _check_choice(choice: Any, tools: list[dict[str, Any]], names: list[str]) -> Iterator[ContractViolation]:
    if not tools:
        if choice not in (None, "auto", "none"):
            yield ContractViolation(
                "choice_alone", "Tool choices other than 'auto' or 'none' need 'tools'.", "tool_choice"
            )
        return
    wanted = choice.get("tools", [choice]) if isinstance(choice, dict) else []
    kinds = [tool["type"] for tool in tools]
    for one in wanted:
        if one["type"] not in kinds or (one["type"] == "function" and one.get("name") not in names):
            choice_name = one.get("name") or one["type"]
            yield ContractViolation(
                "choice", f"Tool choice '{choice_name}' not found in 'tools' parameter.", "tool_choice"
            )


def _check_output(body: dict[str, Any]) -> Iterator[ContractViolation]:
    format_ = (body.get("text") or {}).get("format") or {}
    if format_.get("type") == "json_schema":
        yield from check_name(format_["name"], "text.format.name")
        for text in check_schema(format_["schema"], strict=bool(format_.get("strict"))):
            message_text = f"Invalid schema for response_format '{format_['name']}': {text}"
            yield ContractViolation("format_schema", message_text, "text.format.schema", "invalid_json_schema")
    if body.get("stream_options") is not None and not body.get("stream"):
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield ContractViolation("stream_options", text, "stream_options")


def _check_bookkeeping(body: dict[str, Any]) -> Iterator[ContractViolation]:
    if body.get("previous_response_id"):
        text = f"Previous response with id '{body['previous_response_id']}' not found."
        yield ContractViolation("previous", text, "previous_response_id", "previous_response_not_found")
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        yield from too_long(name, body.get(name) or "", 64)


def as_items(body: dict[str, Any]) -> list[dict[str, Any]]:
    input_value = body.get("input")
    if isinstance(input_value, str):
        return [{"type": "message", "role": "user", "content": input_value}]
    items = input_value if isinstance(input_value, list) else []
    return [{"type": "message", **item} if isinstance(item, dict) and "role" in item else item for item in items]


def check_rules(
    body: dict[str, Any], items: list[dict[str, Any]], model: Abilities, issued: Mapping[str, str] | None
) -> Iterator[ContractViolation]:
    """Yield the rules beyond types and numbers that a request breaks. `issued`: as in `check_items`."""
    yield from _check_tools(body)
    yield from _check_output(body)
    yield from _check_bookkeeping(body)
    yield from check_items(items, model, issued, stored=body.get("store") is not False)


def check_body(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first."""
    items = as_items(body)
    shapes = list(_check_fields(body, items, RESPONSES))
    if "input" not in body:
        shapes.append(empty("input_missing", "input"))
    yield from shapes
    if not shapes:
        yield from check_ranges(body, RANGES)
        yield from check_rules(body, items, _AnyModel(), None)


def check_count(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield the fields that a request for a count must not have, or has with another type."""
    return _check_fields(body, as_items(body), RESPONSES_COUNT)


def _check_fields(body: dict[str, Any], items: list[dict[str, Any]], schema: Schema) -> Iterator[ContractViolation]:
    return check_shape({**body, "input": items} if "input" in body else body, schema)
