"""Comparison of a client request with the upstream request, to find changes that the translation has not recorded.

The translation records its changes as fidelity notes, but a note may be missing. For the command `explain`,
`find_body_changes` compares the two bodies and returns all differences. Without this comparison, `explain` would list a
changed field without a note as unchanged.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from anthropic_proxy.cli.request_fields import list_fields
from anthropic_proxy.messages.fidelity import FidelityNote

_NESTED_FIELDS = {
    "thinking": {"type", "budget_tokens", "display"},
    "tool_choice": {"type", "name", "disable_parallel_tool_use"},
    "output_config": {"effort", "format", "task_budget"},
    "output_format": {"type", "schema"},
}
"""Translated field of the Messages API → its translated members."""
_NUMBERS = ("max_tokens", "temperature", "top_p", "top_k")
_OTHER_FIELDS = {"model", "messages", "system", "tools", "mcp_servers", "stop_sequences"}
_CONTENT = {"messages", "contents", "input", "tools", "system", "instructions", "systemInstruction"}
"""Fields of an upstream request that contain the conversation and tools, not settings."""
_USER_FIELDS = ("safety_identifier", "user")
_TOOL_FIELDS = {"name", "description", "input_schema", "type", "cache_control"}
_SCHEMA_FIELDS = ("parameters", "parametersJsonSchema", "input_schema")


def find_body_changes(
    body: Mapping[str, Any], upstream_body: bytes, renamed_tools: Mapping[str, str], *, is_relayed: bool
) -> list[FidelityNote]:
    """Return the differences between the client request `body` and `upstream_body`, as fidelity notes.

    `is_relayed` is True if the provider also has the Messages API, so that both bodies have the same format.
    """
    try:
        upstream = json.loads(upstream_body)
    except ValueError:
        return []
    if not isinstance(upstream, dict):
        return []
    found = _compare_same_format(body, upstream) if is_relayed else _compare_formats(body, upstream, renamed_tools)
    return list(dict.fromkeys(found))


def _compare_same_format(body: Mapping[str, Any], sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    before, after = list_fields(body), list_fields(sent)
    for field, values in before.items():
        if field not in after:
            if field != "stream":  # some providers have another address for streams
                yield FidelityNote("dropped", field, "the proxy removes it for this provider")
        elif values != after[field]:
            yield FidelityNote("approximated", field, "the proxy changes it for this provider")


def _compare_formats(
    body: Mapping[str, Any], sent: Mapping[str, Any], renamed_tools: Mapping[str, str]
) -> Iterator[FidelityNote]:
    settings = {name: value for name, value in sent.items() if name not in _CONTENT}
    for name, value in body.items():
        if name == "metadata" and isinstance(value, dict):
            yield from _compare_metadata(value, sent)
        elif name == "service_tier":
            yield from _compare_service_tier(str(value), sent)
        elif name == "stream":
            if sent.get("stream", value) != value:
                yield FidelityNote("approximated", "stream", f"{_show(value)} → {_show(sent['stream'])}")
        elif name in _NUMBERS:
            if value not in _numbers(settings):
                yield FidelityNote("dropped", name, "the upstream request does not contain the value")
        elif name in _NESTED_FIELDS and isinstance(value, dict):
            for key in value.keys() - _NESTED_FIELDS[name]:
                yield _untranslated(f"{name}.{key}")
        elif name not in _OTHER_FIELDS and sent.get(name) != value:
            yield _untranslated(name)
    if body.get("thinking") and not any("reason" in key or "think" in key for key in _keys(settings)):
        yield FidelityNote("dropped", "thinking", "the upstream request contains no setting for reasoning")
    yield from _compare_tools(body, sent, renamed_tools)
    yield from _compare_cache_marks(body, sent)
    yield from _compare_texts(body, sent)


def _untranslated(field: str) -> FidelityNote:
    return FidelityNote("dropped", field, "the proxy has no translation of it for this provider")


def _compare_metadata(metadata: Mapping[str, Any], sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    for key in metadata:
        name = next((name for name in _USER_FIELDS if name in sent), "")
        if key == "user_id" and name:
            yield FidelityNote("approximated", "metadata.user_id", f"a hash of it is sent as {name}")
        else:
            yield _untranslated(f"metadata.{key}")


def _compare_service_tier(tier: str, sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    found = sent.get("service_tier")
    if found is None:
        yield FidelityNote("dropped", "service_tier", "without it the backend's default tier answers")
    elif found != tier:
        yield FidelityNote("approximated", "service_tier", f"{tier} → {found}")


def _compare_tools(
    body: Mapping[str, Any], sent: Mapping[str, Any], renamed_tools: Mapping[str, str]
) -> Iterator[FidelityNote]:
    entries = sent.get("tools") or []
    functions = {row["name"]: row for row in _objects(entries) if isinstance(row.get("name"), str)}
    has_other = any(not any("name" in row for row in _objects(entry)) for entry in entries)
    for tool in body.get("tools") or ():
        if not isinstance(tool, dict):
            continue
        name = str(tool.get("name", tool.get("type", "")))
        function = functions.get(renamed_tools.get(name, name))
        if tool.get("type", "custom") == "custom":
            yield from _compare_function(f"tools.{name}", tool, function)
        elif function is not None:
            reason = "sent as a function, with a description and schema of the proxy"
            yield FidelityNote("emulated", f"tools.{name}", reason)
        elif has_other:
            yield FidelityNote("approximated", f"tools.{name}", "replaced by the provider's own tool")
            if "max_uses" in tool and sent.get("max_tool_calls") == tool["max_uses"]:
                yield FidelityNote("approximated", f"tools.{name}.max_uses", "sent as max_tool_calls")
        else:
            yield _untranslated(f"tools.{name}")


def _compare_function(
    field: str, tool: Mapping[str, Any], function: Mapping[str, Any] | None
) -> Iterator[FidelityNote]:
    if function is None:
        yield FidelityNote("dropped", field, "the upstream request contains no tool of this name")
        return
    if function.get("description", "") != tool.get("description", ""):
        yield FidelityNote("approximated", f"{field}.description", "the proxy changes it for this provider")
    schema = next((function[name] for name in _SCHEMA_FIELDS if name in function), None)
    if _meaning(schema) != _meaning(tool.get("input_schema")):
        yield FidelityNote("approximated", f"{field}.input_schema", "the proxy changes it for this provider")
    for key in tool.keys() - _TOOL_FIELDS:
        if function.get(key) != tool[key]:
            yield _untranslated(f"{field}.{key}")


def _compare_cache_marks(body: Mapping[str, Any], sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    is_sent = any(key == "cache_control" for key in _keys(sent))
    for field, values in list_fields(body).items():
        if field.partition(".")[0] in ("system", "tools", "messages") and "cache_control" in set(_keys(values)):
            if is_sent:
                reason = "the proxy sets the cache marks of this provider"
                yield FidelityNote("approximated", f"{field}.cache_control", reason)
            else:
                yield _untranslated(f"{field}.cache_control")


def _compare_texts(body: Mapping[str, Any], sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    arrived = "\0".join(_strings(sent))
    fields = list_fields(body)
    for field in ("system", "messages.text"):
        texts = (block.get("text") if isinstance(block, dict) else block for block in _flatten(fields.get(field, ())))
        if any(isinstance(text, str) and text.strip() not in arrived for text in texts):
            yield FidelityNote("approximated", field, "the upstream request contains a changed text")


def _flatten(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _meaning(schema: Any) -> Any:
    """Return a schema without `$schema` and without an empty `properties` or `required`, which restrict nothing."""
    if not isinstance(schema, dict):
        return schema
    ignored: dict[str, Any] = {"properties": {}, "required": []}
    return {key: value for key, value in schema.items() if key != "$schema" and ignored.get(key) != value}


def _show(value: Any) -> str:
    return json.dumps(value)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a list of tools, without the inside of their schemas."""
    if isinstance(value, dict):
        yield value
        for key, member in value.items():
            if key not in _SCHEMA_FIELDS:
                yield from _objects(member)
    elif isinstance(value, list):
        for element in value:
            yield from _objects(element)


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, at all depths. Elements of a list have the key ""."""
    stack = [("", value)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list):
            stack += (("", element) for element in value)


def _keys(value: Any) -> Iterator[str]:
    return (key for key, _ in _leaves(value) if key)


def _strings(value: Any) -> Iterator[str]:
    return (leaf for _, leaf in _leaves(value) if isinstance(leaf, str))


def _numbers(value: Any) -> list[Any]:
    return [leaf for _, leaf in _leaves(value) if isinstance(leaf, int | float) and not isinstance(leaf, bool)]
