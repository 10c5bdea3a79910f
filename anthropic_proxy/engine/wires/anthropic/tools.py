"""Edits of the tools of a request: those that the server does not run, has another version of, or knows less about."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote, note_replacement
from anthropic_proxy.engine.messages.server_tools import SERVER_TOOLS
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.conversation import is_called_by_code, read_block
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.engine.wires.json_schema import (
    UNRESTRICTED_RULES,
    SchemaRules,
    encode_schema_cached,
    find_schema_rules,
)
from anthropic_proxy.errors import UnsupportedFeature

_OF_TOOLS = "tools."
_CLIENT_TYPES = ("", "custom")
_EAGER = "eager_input_streaming"
_DATE = compile_later(r"_\d{8}")


class MissingTools(Struct):
    """Tools of a request that the server does not run."""

    names: dict[str, str]
    """Name → type."""
    leaves_tools: bool
    """False: the request has no other tools."""


def find_missing_tools(body: bytes, members: Sequence[JsonSpan], dialect: Dialect) -> MissingTools | None:
    """None: the server runs all server tools, or the request has no tools."""
    tools = next((member for member in members if member.key == "tools" and body[member.value] == ord("[")), None)
    if tools is None or not dialect.missing_tools:
        return None
    spans = json_spans.find_elements(body, tools.value, tools.end)
    blocks = [read_block(body[span.start : span.end]) for span in spans]
    names = {block.name or block.type: block.type for block in blocks if is_missing_tool(block.type, dialect)}
    return MissingTools(names, leaves_tools=any(not is_missing_tool(block.type, dialect) for block in blocks))


def is_missing_tool(tool_type: str, dialect: Dialect) -> bool:
    """Return True for the type of a server tool that the server does not run, so that it is not sent."""
    return any(tool_type.startswith(SERVER_TOOLS[kind].type_prefix) for kind in dialect.missing_tools)


def require_free_choice(tool_choice: bytes, missing: MissingTools, provider: str) -> None:
    """Raise `UnsupportedFeature` if the tool choice forces a tool that the server does not run."""
    choice = read_block(tool_choice)
    if choice.type == "any" and not missing.leaves_tools:
        name, kind = next(iter(missing.names.items()))
    elif choice.type == "tool" and choice.name in missing.names:
        name, kind = choice.name, missing.names[choice.name]
    else:
        return
    raise UnsupportedFeature(
        f"tool_choice: '{choice.type}' forces {name!r} ({kind}), which {provider} is not known to run",
        code="forced-tool",
    )


def find_tool_edits(
    body: bytes, tools: JsonSpan, call: RelayCall[Dialect], missing: MissingTools | None, notes: list[FidelityNote]
) -> list[Edit]:
    dialect, provider = call.dialect, call.provider_prefix
    edits: list[Edit] = []
    is_eager = call.streams_upstream and not dialect.streams_tool_input
    is_eager = is_eager and f"{_OF_TOOLS}{_EAGER}" not in dialect.dropped_fields
    rules = find_schema_rules(dialect.schema_rules, dialect.schema_language)
    has_schema_rules = rules != UNRESTRICTED_RULES
    if missing is None and not (dialect.tool_versions or is_eager or has_schema_rules):
        return edits
    budget = WorkBudget("tools", max_steps_here=call.max_schema_steps)
    spans = json_spans.find_elements(body, tools.value, tools.end)
    kept = [True] * len(spans)
    for position, tool in enumerate(spans):
        if body[tool.value] != ord("{"):
            continue
        block = read_block(body[tool.value : tool.end])
        if is_missing_tool(block.type, dialect):
            kept[position] = False
            reason = f"{provider} is not known to run {block.type}"
            notes.append(FidelityNote("dropped", f"{_OF_TOOLS}{block.name or block.type}", reason))
            continue
        if "code_execution" in dialect.missing_tools and is_called_by_code(block):
            edits += json_spans.find_removal_edits(body, tool, "allowed_callers")
            reason = f"{provider} is not known to run code_execution; the model calls the tool itself"
            notes.append(FidelityNote("approximated", f"{_OF_TOOLS}{block.name}.allowed_callers", reason))
        if is_eager and block.type in _CLIENT_TYPES:
            members = json_spans.find_members(body, tool.value, tool.end)
            if members and all(one.key != _EAGER for one in members):
                edits.append(Edit(members[0].start, members[0].start, b'"%b":true,' % _EAGER.encode()))
        if has_schema_rules and block.type in _CLIENT_TYPES:
            with budget.error_field(f"{_OF_TOOLS}{block.name}.input_schema"):
                edits += _find_schema_edits(body, tool, rules, budget, notes)
        undated = _DATE.sub("", block.type)
        versions = (one for one in dialect.tool_versions if one != block.type and _DATE.sub("", one) == undated)
        if (version := next(versions, None)) is not None:
            members = json_spans.find_members(body, tool.value, tool.end)
            edits += [Edit(one.value, one.end, msgspec.json.encode(version)) for one in members if one.key == "type"]
            notes.append(
                note_replacement(f"{_OF_TOOLS}{block.name}", block.type, version, f", the version of {provider}")
            )
    return edits + json_spans.build_removal_edits(spans, kept)


def _find_schema_edits(
    body: bytes, tool: JsonSpan, rules: SchemaRules, budget: WorkBudget, notes: list[FidelityNote]
) -> list[Edit]:
    """Return the edits of the input schema of a client tool. A schema that cannot be read is forwarded unchanged."""
    edits: list[Edit] = []
    for member in json_spans.find_members(body, tool.value, tool.end):
        if member.key == "input_schema" and body[member.value] == ord("{"):
            with suppress(*DECODE_ERRORS):
                schema = body[member.value : member.end]
                encoded = encode_schema_cached(schema, budget, rules, budget.field)
                edits.append(Edit(member.value, member.end, bytes(encoded.schema)))
                notes += [FidelityNote("approximated", budget.field, what) for what in encoded.losses]
    return edits
