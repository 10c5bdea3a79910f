"""OpenAI's rules on a Chat Completions request that hold for every model, and the order in which they are tried."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from messages_conformance.backends.openai.messages import check_messages, check_name, empty, too_long
from messages_conformance.backends.openai.schemas import check_schema
from messages_conformance.backends.openai.shapes import CHAT, check_shape
from messages_conformance.backends.wire import ContractViolation

MAX_TOOLS = 128
MAX_STOPS = 4
RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "n": (1, 128),
    "top_logprobs": (0, 20),
    "max_tokens": (1, None),
    "max_completion_tokens": (1, None),
}


def check_ranges(body: dict[str, Any], ranges: Mapping[str, tuple[float, float | None]]) -> Iterator[ContractViolation]:
    """Yield every number of a body that is out of its range; None: there is no highest."""
    for name, (low, high) in ranges.items():
        value = body.get(name)
        if value is None:
            continue
        kind = "integer" if isinstance(value, int) else "decimal"
        if value < low:
            text = f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}, but got {value} instead."
            yield ContractViolation("range", text, name, f"{kind}_below_min_value")
        elif high is not None and value > high:
            text = f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high}, but got {value} instead."
            yield ContractViolation("range", text, name, f"{kind}_above_max_value")


def check_length(name: str, values: Sequence[Any], most: int, rule: str) -> Iterator[ContractViolation]:
    """`name`: that of the field with the values."""
    if len(values) > most:
        text = (
            f"Invalid '{name}': array too long. Expected an array with maximum length {most}, "
            f"but got an array with length {len(values)} instead."
        )
        yield ContractViolation(rule, text, name, "array_above_max_length")


def _check_tools(body: dict[str, Any]) -> Iterator[ContractViolation]:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body:
                text = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
                yield ContractViolation("needs_tools", text, name)
        return
    if not tools:
        yield empty("tools_empty", "tools")
    yield from check_length("tools", tools, MAX_TOOLS, "tools_many")
    names: set[str] = set()
    for position, tool in enumerate(tools):
        function, where = tool.get("function") or tool["custom"], f"tools[{position}].function"
        yield from check_name(function["name"], f"{where}.name")
        if function["name"] in names:
            text = f"Invalid '{where}.name': '{function['name']}' was given before. Tool names must be unique."
            yield ContractViolation("tool_twice", text, f"{where}.name", "invalid_value")
        names.add(function["name"])
        if "parameters" in function:
            for text in check_schema(function["parameters"], strict=bool(function.get("strict"))):
                message_text = f"Invalid schema for function '{function['name']}': {text}"
                yield ContractViolation("schema", message_text, f"{where}.parameters", "invalid_function_parameters")
    choice = body.get("tool_choice")
    wanted = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    if wanted is not None and wanted not in names:
        yield ContractViolation(
            "choice", f"Tool choice 'function {wanted}' not found in 'tools' parameter.", "tool_choice"
        )


def _check_output(body: dict[str, Any]) -> Iterator[ContractViolation]:
    format_ = body.get("response_format") or {}
    if format_.get("type") == "json_schema":
        named = format_["json_schema"]
        yield from check_name(named["name"], "response_format.json_schema.name")
        for text in check_schema(named.get("schema", {}), strict=bool(named.get("strict"))):
            message_text = f"Invalid schema for response_format '{named['name']}': {text}"
            yield ContractViolation("format_schema", message_text, "response_format", "invalid_json_schema")
    elif format_.get("type") == "json_object" and "json" not in str(body["messages"]).lower():
        text = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        yield ContractViolation("format_word", text, "messages")
    if body.get("stream_options") is not None and not body.get("stream"):
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield ContractViolation("stream_options", text, "stream_options")
    stop = body.get("stop")
    if isinstance(stop, list):
        yield from check_length("stop", stop, MAX_STOPS, "stops")


def _check_bookkeeping(body: dict[str, Any]) -> Iterator[ContractViolation]:
    metadata = body.get("metadata")
    if metadata is not None:
        if not body.get("store"):
            text = "The 'metadata' parameter is only allowed when 'store' is enabled."
            yield ContractViolation("metadata_store", text, "metadata")
        if len(metadata) > 16:
            text = "Invalid 'metadata': too many properties. Expected an object with at most 16 properties."
            yield ContractViolation("metadata_many", text, "metadata", "object_above_max_properties")
        for key, value in metadata.items():
            yield from too_long(f"metadata.{key}", key, 64)
            yield from too_long(f"metadata.{key}", value, 512)
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        yield from too_long(name, body.get(name) or "", 64)


def check_rules(body: dict[str, Any], *, pictures: bool = True) -> Iterator[ContractViolation]:
    """Yield the rules beyond types and numbers that a request breaks. `pictures`: True if the model takes images."""
    yield from _check_tools(body)
    yield from _check_output(body)
    yield from _check_bookkeeping(body)
    yield from check_messages(body["messages"], pictures=pictures)


def _check_limits(body: dict[str, Any]) -> Iterator[ContractViolation]:
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        yield ContractViolation("two_limits", text, "max_tokens", "invalid_parameter_combination")


def check_body(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first."""
    shapes = list(check_shape(body, CHAT))
    yield from shapes
    if not shapes:
        yield from check_ranges(body, RANGES)
        yield from _check_limits(body)
        yield from check_rules(body)
