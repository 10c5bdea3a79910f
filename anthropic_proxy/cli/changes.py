"""Changes that the proxy makes to a client request, for the command `explain`.

They come from two sources: the fidelity notes of the translation, and a comparison of the client request with the
upstream request. The comparison finds what the translation does not note.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.engine.messages.fidelity import FidelityNote, note_replacement
from anthropic_proxy.engine.messages.preparation.prepare import ALWAYS_REASONS, NO_KNOWN_EFFORTS, TASK_BUDGET
from anthropic_proxy.engine.wires.shared_notes import FOREIGN_THINKING_DROPPED, NO_EFFORT, NO_SERVICE_TIER, NO_TOP_K

MAX_VALUE_CHARACTERS = 20
"""Maximum length of a field value in the output. A longer value is omitted."""
_UNSENT_NOTES = {
    FOREIGN_THINKING_DROPPED: "this backend did not produce it, or does not accept it",
    NO_EFFORT: NO_EFFORT.reason,
    NO_SERVICE_TIER: "without it the backend's default tier answers",
    **dict.fromkeys(ALWAYS_REASONS.values(), "the model always reasons and has no effort levels"),
    **dict.fromkeys(NO_KNOWN_EFFORTS.values(), "the model has no known effort levels"),
    TASK_BUDGET: "the provider is not known to have it",
    NO_TOP_K: "no setting for it is known",
}
"""Fidelity note → reason for the user, after `not sent`: most have the handling `approximated`, but their field is not
sent to the provider."""


class Change(Struct, frozen=True):
    """Change of one field of the client request, or a note about a field that is kept."""

    field: str
    """Path of the field: `max_tokens`, `tools.NAME`. In messages the block type replaces the index."""
    handling: str
    """Handling of the field: kept, approximated, emulated or dropped, as in `FidelityNote`. `dropped`: the field is not
    sent."""
    before: str
    """Value in the client request. "": too long to be shown."""
    after: str
    """Value sent to the provider. "": the value is too long to be shown, or the field is not sent."""
    reason: str

    @property
    def effect(self) -> str:
        """Effect of the change as text: `64,000 → 32,000`, `40 → not sent`, `6, emulated by the proxy`."""
        if self.after:
            return f"{self.before} → {self.after}"
        if self.handling == "dropped":
            return f"{self.before} → not sent" if self.before else "not sent"
        effect = "emulated by the proxy" if self.handling == "emulated" else self.handling
        return f"{self.before}, {effect}" if self.before else effect


def list_changes(
    body: Mapping[str, Any],
    notes: Sequence[FidelityNote],
    renamed_tools: Mapping[str, str],
    unnoted: Sequence[FidelityNote] = (),
) -> list[Change]:
    """Return the changes that the proxy makes to the client request `body`.

    `unnoted`: changes found by the comparison; those of a field with a note are left out. `renamed_tools`: name of a
    tool → its name in the upstream request.
    """
    noted = {note.field for note in notes}
    others = [row for row in unnoted if noted.isdisjoint(_list_prefixes(row.field))]
    changes = []
    for note in (*notes, *others):
        if note in _UNSENT_NOTES:
            change = Change(note.field, "dropped", _find_value(note.field, body), "", _UNSENT_NOTES[note])
        elif note.after:
            before, after = map(formats.digits_in_groups, (note.before, note.after))
            change = Change(note.field, note.handling, before, after, note.explanation)
        else:
            change = Change(note.field, note.handling, _find_value(note.field, body), "", note.reason)
        changes.append(change)
    for name, alias in renamed_tools.items():
        effect = (name, alias) if len(name) == len(alias) else (f"{len(name)}", f"{len(alias)} characters")
        changes.append(Change(f"tools.{name}.name", "approximated", *effect, "the original name is in the reply"))
    return changes


def list_unchanged_fields(body: Mapping[str, Any], changes: Sequence[Change]) -> list[str]:
    """Return the fields of the client request `body` that are sent unchanged, such as `messages.text` or `tools.NAME`.

    `changes` is the result of `list_changes`. The field `model` is left out.
    """
    fields = list(list_fields(body))
    paths = {change.field for change in changes if change.handling != "kept"}
    named = set(fields)
    above = {prefix for path in paths for prefix in _list_prefixes(path)}
    known = {prefix for field in fields for prefix in _list_prefixes(field)}
    # a change of no field of the request: a property of all tools
    all_tools = any(
        path.startswith("tools.") and path not in known and named.isdisjoint(_list_prefixes(path)) for path in paths
    )
    return [
        field
        for field in fields
        if field not in above
        and paths.isdisjoint(_list_prefixes(field))
        and not (all_tools and field.startswith("tools."))
    ]


def _list_prefixes(path: str) -> list[str]:
    """Return `a`, `a.b` and `a.b.c` for `a.b.c`."""
    return [*accumulate(path.split("."), "{}.{}".format)]


def _find_value(path: str, body: Mapping[str, Any]) -> str:
    value: Any = body
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    text = str(len(value)) if isinstance(value, list) else "" if isinstance(value, dict) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else ""


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
    if not is_relayed:
        return list(dict.fromkeys(_compare_formats(body, upstream, renamed_tools)))
    notes = []
    after = list_fields(upstream)
    for field, values in list_fields(body).items():
        if field in after and values != after[field]:
            notes.append(FidelityNote("approximated", field, "the proxy changes it for this provider"))
        elif field not in after and field != "stream":  # some providers have another address for streams
            notes.append(FidelityNote("dropped", field, "the proxy removes it for this provider"))
    return notes


def _compare_formats(
    body: Mapping[str, Any], sent: Mapping[str, Any], renamed_tools: Mapping[str, str]
) -> Iterator[FidelityNote]:
    settings = {name: value for name, value in sent.items() if name not in _CONTENT}
    for name, value in body.items():
        yield from _compare_field(name, value, sent, settings)
    if body.get("thinking") and not any("reason" in key or "think" in key for key in _keys(settings)):
        yield FidelityNote("dropped", "thinking", "the upstream request contains no setting for reasoning")
    yield from _compare_tools(body, sent, renamed_tools)
    fields = list_fields(body)
    sends_marks = any(key == "cache_control" for key in _keys(sent))
    for field, values in fields.items():
        if field.partition(".")[0] in ("system", "tools", "messages") and "cache_control" in set(_keys(values)):
            if sends_marks:
                reason = "the proxy sets the cache marks of this provider"
                yield FidelityNote("approximated", f"{field}.cache_control", reason)
            else:
                yield _untranslated(f"{field}.cache_control")
    arrived = "\0".join(leaf for _, leaf in _leaves(sent) if isinstance(leaf, str))
    for field in ("system", "messages.text"):
        blocks = [block for value in fields.get(field, ()) for block in (value if isinstance(value, list) else [value])]
        texts = (block.get("text") if isinstance(block, dict) else block for block in blocks)
        if any(isinstance(text, str) and text.strip() not in arrived for text in texts):
            yield FidelityNote("approximated", field, "the upstream request contains a changed text")


def _compare_field(
    name: str, value: Any, sent: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[FidelityNote]:
    """Compare one field of the client request. `settings`: the fields of `sent` without conversation and tools."""
    if name == "metadata" and isinstance(value, dict):
        user_field = next((field for field in _USER_FIELDS if field in sent), "")
        for key in value:
            if key == "user_id" and user_field:
                yield FidelityNote("approximated", "metadata.user_id", f"a hash of it is sent as {user_field}")
            else:
                yield _untranslated(f"metadata.{key}")
    elif name == "service_tier":
        sent_tier = sent.get("service_tier")
        if sent_tier is None:
            yield FidelityNote("dropped", "service_tier", "without it the backend's default tier answers")
        elif sent_tier != str(value):
            yield note_replacement("service_tier", value, sent_tier, "")
    elif name == "stream":
        if sent.get("stream", value) != value:
            yield note_replacement("stream", json.dumps(value), json.dumps(sent["stream"]), "")
    elif name in _NUMBERS:
        leaves = (leaf for _, leaf in _leaves(settings) if isinstance(leaf, int | float) and not isinstance(leaf, bool))
        if value not in leaves:
            yield FidelityNote("dropped", name, "the upstream request does not contain the value")
    elif name in _NESTED_FIELDS and isinstance(value, dict):
        yield from (_untranslated(f"{name}.{key}") for key in value.keys() - _NESTED_FIELDS[name])
    elif name not in _OTHER_FIELDS and sent.get(name) != value:
        yield _untranslated(name)


def _untranslated(field: str) -> FidelityNote:
    return FidelityNote("dropped", field, "the proxy has no translation of it for this provider")


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
            field = f"tools.{name}"
            if function is None:
                yield FidelityNote("dropped", field, "the upstream request contains no tool of this name")
                continue
            if function.get("description", "") != tool.get("description", ""):
                yield FidelityNote("approximated", f"{field}.description", "the proxy changes it for this provider")
            schema = next((function[name] for name in _SCHEMA_FIELDS if name in function), None)
            if _meaning(schema) != _meaning(tool.get("input_schema")):
                yield FidelityNote("approximated", f"{field}.input_schema", "the proxy changes it for this provider")
            for key in tool.keys() - _TOOL_FIELDS:
                if function.get(key) != tool[key]:
                    yield _untranslated(f"{field}.{key}")
        elif function is not None:
            reason = "sent as a function, with a description and schema of the proxy"
            yield FidelityNote("emulated", f"tools.{name}", reason)
        elif has_other:
            yield FidelityNote("approximated", f"tools.{name}", "replaced by the provider's own tool")
            if "max_uses" in tool and sent.get("max_tool_calls") == tool["max_uses"]:
                yield FidelityNote("approximated", f"tools.{name}.max_uses", "sent as max_tool_calls")
        else:
            yield _untranslated(f"tools.{name}")


def _meaning(schema: Any) -> Any:
    """Return a schema without `$schema` and without an empty `properties` or `required`, which restrict nothing."""
    if not isinstance(schema, dict):
        return schema
    ignored: dict[str, Any] = {"properties": {}, "required": []}
    return {key: value for key, value in schema.items() if key != "$schema" and ignored.get(key) != value}


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


_EXPANDED_LISTS = {"tools": "name", "mcp_servers": "name"}
"""List field → key that names its elements."""


def list_fields(body: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the fields of a request body except `model`: path of the field → its values.

    Content blocks of all messages are grouped by their type: those of the type TYPE are at the path `messages.TYPE`.
    """
    named_values: list[tuple[str, Any]] = []
    for name, value in body.items():
        if name == "messages" and isinstance(value, list):
            for message in value:
                content = message.get("content") if isinstance(message, dict) else None
                if isinstance(content, str):
                    named_values.append(("messages.text", {"type": "text", "text": content}))
                blocks = content if isinstance(content, list) else ()
                named_values += [
                    (f"messages.{block.get('type', '')}", block) for block in blocks if isinstance(block, dict)
                ]
        elif name in _EXPANDED_LISTS and isinstance(value, list):
            key = _EXPANDED_LISTS[name]
            named_values += [
                (f"{name}.{row.get(key, row.get('type', ''))}", row) for row in value if isinstance(row, dict)
            ]
        elif isinstance(value, dict) and value:
            named_values += [(f"{name}.{key}", member) for key, member in value.items()]
        elif name != "model":
            named_values.append((name, value))
    fields: dict[str, list[Any]] = {}
    for field, value in named_values:
        fields.setdefault(field, []).append(value)
    return fields
