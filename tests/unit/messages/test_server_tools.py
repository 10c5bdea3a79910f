"""The rows of the server tools: each stage of a request reads them."""

import json
import tomllib
from collections.abc import Mapping
from typing import Any, get_args

import msgspec
import pytest

from anthropic_proxy.engine.exchange.inspection.texts import find_texts_of_whole_block, read_body
from anthropic_proxy.engine.exchange.tool_loop.runner import RUNNERS
from anthropic_proxy.engine.messages.deltas import Usage
from anthropic_proxy.engine.messages.models import (
    SERVER_RESULTS,
    MessagesRequest,
    ServerToolResultBlock,
    Tool,
    decode_request,
)
from anthropic_proxy.engine.messages.preparation import server_tool_kind
from anthropic_proxy.engine.messages.preparation.cleaning import to_upstream_blocks
from anthropic_proxy.engine.messages.server_tools import (
    KINDS_BY_NAME,
    PROXY_TOOLS,
    SERVER_TOOLS,
    USAGE_COUNTERS,
    ServerToolKind,
)
from tests.support.paths import ROOT

KINDS = sorted(SERVER_TOOLS)
PROXY_KINDS = sorted(PROXY_TOOLS)


def decode_result(block: dict[str, Any]) -> ServerToolResultBlock:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "assistant", "content": [block]}]}
    request: MessagesRequest = decode_request(json.dumps(body).encode())
    decoded = request.messages[0].content[0]
    assert isinstance(decoded, ServerToolResultBlock)
    return decoded


def test_each_kind_has_a_row_and_each_tool_of_the_proxy_a_function_that_runs_it() -> None:
    assert set(SERVER_TOOLS) == set(get_args(ServerToolKind))
    assert set(RUNNERS) == set(PROXY_TOOLS) == set(SERVER_RESULTS)
    assert set(USAGE_COUNTERS) <= set(Usage.__struct_fields__)


def test_names_and_types_of_tools_belong_to_one_kind() -> None:
    assert len(KINDS_BY_NAME) == sum(len(row.names) for row in SERVER_TOOLS.values())
    prefixes = {kind: row.type_prefix for kind, row in SERVER_TOOLS.items()}
    for kind, prefix in prefixes.items():
        assert server_tool_kind(Tool(type=f"{prefix}20261101")) == kind
        assert [other for other in prefixes if prefix.startswith(prefixes[other])] == [kind]


@pytest.mark.parametrize("kind", PROXY_KINDS)
def test_a_model_sees_a_tool_of_the_proxy_as_a_function_with_described_arguments(kind: ServerToolKind) -> None:
    row = PROXY_TOOLS[kind]
    assert len(row.result_types) == 1
    for prefix, function in row.functions.items():
        assert prefix.startswith(row.type_prefix)
        assert row.find_function(f"{prefix}20261101") is function
        assert function.description
        assert set(function.required) <= set(function.properties)
        assert all(set(schema) == {"type", "description"} for schema in function.properties.values())
    assert row.find_function(f"{row.type_prefix}20261101")  # whatever the version is called


@pytest.mark.parametrize("kind", PROXY_KINDS)
def test_a_result_of_a_tool_of_the_proxy_is_decoded_with_its_kind_and_an_error_becomes_text(
    kind: ServerToolKind,
) -> None:
    row = PROXY_TOOLS[kind]
    block = decode_result(
        {"type": row.result_types[0], "tool_use_id": "srvtoolu_1", "content": row.error_content("unavailable")}
    )
    assert (block.kind, block.tool_use_id) == (kind, "srvtoolu_1")
    assert msgspec.json.encode(block).startswith(f'{{"type":"{row.result_types[0]}"'.encode())
    assert [*to_upstream_blocks(block)] == [*to_upstream_blocks(decode_text(f"[{kind} failed: unavailable]"))]


@pytest.mark.parametrize("kind", [kind for kind in PROXY_KINDS if not PROXY_TOOLS[kind].has_document])
def test_another_model_reads_that_a_result_is_empty(kind: ServerToolKind) -> None:
    block = decode_result({"type": PROXY_TOOLS[kind].result_types[0], "tool_use_id": "srvtoolu_1", "content": []})
    assert [*to_upstream_blocks(block)]


def decode_text(text: str) -> Any:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}
    return decode_request(json.dumps(body).encode()).messages[0].content[0]


@pytest.mark.parametrize("kind", KINDS)
def test_inspectors_read_the_texts_of_a_result_but_not_the_id_of_the_call(kind: ServerToolKind) -> None:
    for result_type in SERVER_TOOLS[kind].result_types:
        block = {"type": result_type, "tool_use_id": "srvtoolu_1", "content": [{"type": "text", "text": "a text"}]}
        texts = read_body(json.dumps(block).encode(), find_texts_of_whole_block).texts
        assert [(text.passage.text, text.passage.kind) for text in texts] == [("a text", "tool_result")]


@pytest.mark.parametrize("kind", KINDS)
def test_inspectors_skip_the_fields_without_text(kind: ServerToolKind) -> None:
    for object_type, fields in SERVER_TOOLS[kind].not_texts.items():
        found = {"type": object_type, "title": "a title", **dict.fromkeys(fields, "sealed")}
        block = {"type": "text", "text": "", "content": [found]}
        texts = read_body(json.dumps(block).encode(), find_texts_of_whole_block).texts
        assert [text.passage.text for text in texts] == ["a title"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_compatibility_matrix_has_a_row_for_each_server_tool(kind: ServerToolKind) -> None:
    matrix = (ROOT / "docs/guide/matrix.md").read_text("utf-8")
    names = {SERVER_TOOLS[kind].type_prefix.rstrip("_"), kind}
    assert any(f"| `{name}" in matrix for name in names)


CLOUD_TOOLS: Mapping[str, set[ServerToolKind]] = {
    "vertex": {"web_search", "tool_search"},
    "bedrock": {"tool_search"},
    "bedrock_messages": {"tool_search"},
    "foundry": {"web_search", "web_fetch", "tool_search", "code_execution", "mcp_toolset", "advisor"},
}
"""Table of a cloud with Claude models → the server tools that it runs."""


def test_each_cloud_of_claude_runs_a_server_tool_or_names_it_as_missing() -> None:
    """The proxy runs no tools for relays, so a cloud gets each tool that is not named, and may reject the request."""
    tables = tomllib.loads((ROOT / "anthropic_proxy/engine/providers/vendors.toml").read_text("utf-8"))
    clouds = {name: table for name, table in tables.items() if table.get("like") == "claude_clouds"}
    missing = {name: {*table["messages"]["dialect"].get("missing_tools", ())} for name, table in clouds.items()}
    assert missing == {name: SERVER_TOOLS.keys() - kinds for name, kinds in CLOUD_TOOLS.items()}


RESULTS: Mapping[ServerToolKind, tuple[Any, str]] = {
    "web_search": (
        [{"type": "web_search_result", "url": "https://a.example/", "title": "Facts", "encrypted_content": "x"}],
        "Facts – https://a.example/",
    ),
    "web_fetch": (
        {
            "type": "web_fetch_result",
            "url": "https://a.example/",
            "content": {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A fact."}},
        },
        "A fact.",
    ),
    "tool_search": (
        {
            "type": "tool_search_tool_search_result",
            "tool_references": [{"type": "tool_reference", "tool_name": "read_file"}],
        },
        "read_file",
    ),
}
"""Tool of the proxy → content of a result of a successful call, and what another model has to read of it."""


def test_another_model_reads_what_a_successful_call_of_each_tool_of_the_proxy_has_returned() -> None:
    """A result without a text needs `as_text`."""
    assert RESULTS.keys() == PROXY_TOOLS.keys()
    for kind, (content, shown) in RESULTS.items():
        result_type = PROXY_TOOLS[kind].result_types[0]
        block = decode_result({"type": result_type, "tool_use_id": "srvtoolu_1", "content": content})
        assert shown.encode() in msgspec.json.encode([*to_upstream_blocks(block)])
