"""For clients with rules, only fields of the Messages API are sent, and each model that a body names is known."""

import json
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.wires.anthropic.api_fields import (
    _FURTHER_FIELDS,
    _OTHER_MODELS,
    NamedModel,
    keep_api_fields,
    load_places,
)
from anthropic_proxy.errors import InvalidRequest
from tests.support.api_fields import read_places
from tests.support.paths import ROOT

FILE = ROOT / "anthropic_proxy/engine/wires/anthropic/api_fields.json"


def test_the_list_has_the_fields_of_the_sdk(request: pytest.FixtureRequest) -> None:
    expected = read_places()  # `--update` writes the file
    if request.config.getoption("--update-golden"):
        FILE.write_text(json.dumps(expected, indent=1) + "\n", "utf-8")
    assert json.loads(FILE.read_text("utf-8")) == expected


def test_each_further_field_is_missing_in_the_sdk() -> None:
    listed = json.loads(FILE.read_text("utf-8"))
    assert {place: set(fields) & set(listed.get(place, ())) for place, fields in _FURTHER_FIELDS.items()} == {
        place: set() for place in _FURTHER_FIELDS
    }


def test_each_place_with_a_model_is_known() -> None:
    with_model = {place for place, fields in load_places().items() if "model" in fields}
    assert with_model - _OTHER_MODELS == {"fallbacks", "tools", "messages.content.tool_changes.tool.definition"}


def message(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [*blocks]}


def text(**fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": "a", **fields}


MESSAGE = {"role": "user", "content": "hi"}
PLAIN: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [MESSAGE]}
SCHEMA = {"type": "object", "model": "x", "$defs": {"route": 1}}
TOOL = {"name": "read", "description": "Reads.", "input_schema": SCHEMA}
OPUS, ADVISES = "claude-opus-4-5", "advisor_20260301"
ADVISOR = {"type": ADVISES, "name": "advisor", "model": OPUS}
CALL = {"name": "read", "input": {"model": "x", "provider": {"only": ["y"]}}}
FALLBACK = {"from": {"model": "a"}, "to": {"model": "b"}, "trigger": {"type": "refusal", "category": None}}
KEPT: list[dict[str, Any]] = [
    {},
    {"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
    {"tools": [{"type": "mcp_toolset", "mcp_server_name": "a", "configs": {"model": {"enabled": True}}}]},
    {"temperature": 1, "top_p": 0.5, "top_k": 3, "output_format": {"type": "json_schema", "schema": {"a": 1}}},
    {"system": [text(cache_control={"type": "ephemeral", "scope": "global"})]},
    {"safeguards": [{"type": "dangerous_tool_use", "classifier_context": {"route": {"model": "x"}}}]},
    {"metadata": {"user_id": '{"device_id":"a"}'}, "service_tier": "auto", "inference_geo": "us", "speed": "fast"},
    {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
    {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "max"}},
    {"messages": [MESSAGE, message({"type": "thinking", "thinking": "", "signature": "a"}, role="assistant")]},
    {"messages": [message({"type": "tool_use", "id": "t", **CALL}, {"type": "server_tool_use", "id": "s", **CALL})]},
    {"messages": [message({"type": "fallback", **FALLBACK}, {"type": "later", "text": "x"})]},
    {"messages": [message({"type": "tool_result", "content": [text(), {"type": "tool_reference", "tool_name": "a"}]})]},
    {"messages": [message({"type": "document", "source": {"type": "content", "content": [text()]}, "title": "t"})]},
    {"stop_sequences": ["a", "b"], "metadata": {"user_id": None}},
    {"tools": "none", "system": None, "messages": 7, "container": "c_1", "mcp_servers": []},
]
"""Fields of bodies of which each byte is sent."""
LEFT_OUT: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"models": ["x"], "route": "fallback", "plugins": [{"id": "web"}]}, {}, ["models", "route", "plugins"]),
    ({"provider": {"order": ["x"]}, "transforms": []}, {}, ["provider", "transforms"]),
    ({"metadata": {"user_id": "u", "model_group": "x"}}, {"metadata": {"user_id": "u"}}, ["metadata.model_group"]),
    ({"tools": [{**TOOL, "engine": {"model": "x"}}, TOOL]}, {"tools": [TOOL, TOOL]}, ["tools.engine"]),
    (
        {"tools": [{"type": "openrouter:web_search", "name": "a", "parameters": {"model": "x"}}]},
        {"tools": [{"type": "openrouter:web_search", "name": "a"}]},
        ["tools.parameters"],
    ),
    (
        {"messages": [{**MESSAGE, "model": "x"}, message(text(route="x"))]},
        {"messages": [MESSAGE, message(text())]},
        ["messages.model", "messages.content.route"],
    ),
    (
        {"messages": [message({"type": "routing", "model": "x", "text": "a"})]},
        {"messages": [message({"type": "routing", "text": "a"})]},
        ["messages.content.model"],
    ),
    (
        {"output_config": {"effort": "low", "model": "x"}, "context_management": {"edits": [{"model": "x"}]}},
        {"output_config": {"effort": "low"}, "context_management": {"edits": [{}]}},
        ["output_config.model", "context_management.edits.model"],
    ),
    (
        {"mcp_servers": [{"name": "a", "type": "url", "model": "x"}], "thinking": {"type": "enabled", "model": "x"}},
        {"mcp_servers": [{"name": "a", "type": "url"}], "thinking": {"type": "enabled"}},
        ["mcp_servers.model", "thinking.model"],
    ),
    ({"tool_choice": {"type": "auto", "provider": "x"}}, {"tool_choice": {"type": "auto"}}, ["tool_choice.provider"]),
    ({"service_tier": {"models": ["x"]}, "stop_sequences": [{"model": "x"}]}, {}, ["service_tier", "stop_sequences"]),
    ({"metadata": {"user_id": {"model": "x"}}, "speed": [[{}]]}, {"metadata": {}}, ["metadata.user_id", "speed"]),
    ({"system": [text(text={"route": "x"})]}, {"system": [{"type": "text"}]}, ["system.text"]),
    ({"fallbacks": "default"}, {}, ["fallbacks"]),
    ({"fallbacks": [OPUS, "default"]}, {}, ["fallbacks"]),
    ({"fallbacks": [[{"model": OPUS}], [OPUS]]}, {}, ["fallbacks"]),
    ({"fallbacks": [{"claude-haiku-4-5": [OPUS]}, {"model": None}, {}]}, {}, ["fallbacks"]),
    ({"fallbacks": True}, {}, ["fallbacks"]),
    ({"fallbacks": {"max_tokens": 9}}, {}, ["fallbacks"]),
    ({"fallbacks": ["x", {"model": OPUS}, 7]}, {"fallbacks": [{"model": OPUS}]}, ["fallbacks"]),
    (
        {"safeguards": [{"type": "dangerous_tool_use", "classifier_context": {"v": 1}, "model": "x"}]},
        {"safeguards": [{"type": "dangerous_tool_use", "classifier_context": {"v": 1}}]},
        ["safeguards.model"],
    ),
    ({"system": [[text(model="x")]]}, {"system": [[text()]]}, ["system.model"]),
]
NAMED: list[tuple[dict[str, Any], list[NamedModel]]] = [
    ({"tools": [TOOL, ADVISOR]}, [NamedModel("tools.1.model", OPUS, ADVISES)]),
    (
        {"tools": [{**ADVISOR, "type": "advisor_20271231", "max_uses": 2, "max_tokens": 500}]},
        [NamedModel("tools.0.model", OPUS, "advisor_20271231", max_tokens=500, max_uses=2)],
    ),
    ({"tools": [{**TOOL, "model": "x"}]}, [NamedModel("tools.0.model", "x")]),
    (
        {"fallbacks": [{"model": "a", "max_tokens": 7, "speed": "fast"}, {"model": "b"}]},
        [NamedModel("fallbacks.0.model", "a", max_tokens=7, is_fast=True), NamedModel("fallbacks.1.model", "b")],
    ),
    ({"fallbacks": {"model": "a"}}, [NamedModel("fallbacks.model", "a")]),
    ({"tools": [ADVISOR], "fallbacks": []}, [NamedModel("tools.0.model", OPUS, ADVISES)]),
    ({"tools": [ADVISOR], "fallbacks": None}, [NamedModel("tools.0.model", OPUS, ADVISES)]),
    ({"tools": [{"type": ADVISES, "model": 7}]}, [NamedModel("tools.0.model", "7", ADVISES)]),
    (
        {"messages": [MESSAGE, message({"type": "tool_addition", "tool": {"definition": ADVISOR}}, role="system")]},
        [NamedModel("messages.1.content.0.tool.definition.model", OPUS, ADVISES)],
    ),
    (
        {"messages": [message({"type": "mcp", "tool_changes": [{"tool": {"definition": ADVISOR}}]})]},
        [NamedModel("messages.0.content.0.tool_changes.0.tool.definition.model", OPUS, ADVISES)],
    ),
]


@pytest.mark.parametrize("body", KEPT, ids=range(len(KEPT)))
@pytest.mark.parametrize("indent", [None, 2])
def test_a_body_of_the_api_keeps_each_byte(body: dict[str, Any], indent: int | None) -> None:
    sent = json.dumps({**PLAIN, **body}, indent=indent).encode()
    read = keep_api_fields(sent)
    assert (read.body, list(read.named_models), list(read.notes)) == (sent, [], [])


@pytest.mark.parametrize(("fields", "kept", "names"), LEFT_OUT, ids=[case[2][0] for case in LEFT_OUT])
def test_other_fields_are_left_out_with_a_note(fields: dict[str, Any], kept: dict[str, Any], names: list[str]) -> None:
    read = keep_api_fields(json.dumps({**PLAIN, **fields}, indent=1).encode())
    assert json.loads(read.body) == {**PLAIN, **kept}
    assert sorted(note.field for note in read.notes) == sorted(names)
    assert {note.handling for note in read.notes} == {"approximated"}
    assert keep_api_fields(read.body).body == read.body


@pytest.mark.parametrize(("fields", "named"), NAMED, ids=[case[1][0].field for case in NAMED])
def test_each_model_that_a_body_names_is_found(fields: dict[str, Any], named: list[NamedModel]) -> None:
    body = {**PLAIN, **fields}
    read = keep_api_fields(json.dumps(body).encode())
    assert (json.loads(read.body), list(read.named_models), list(read.notes)) == (body, named, [])


@pytest.mark.parametrize(
    "sent",
    [
        '{"model": "a", "tools": [{"type": "advisor_20260301", "\\u006dodel": "claude-opus-4-5"}]}',
        '{"model": "a", "\\u0074ools": [{"type": "advisor_20260301", "model": "claude-opus-4-5"}]}',
        '\ufeff  {"model": "a", "tools": [{"type": "advisor_20260301", "model": "claude-opus-4-5"}]}\n',
        '{"model": "a", "system": "\\ud800", "tools": [{"type": "advisor_20260301", "model": "claude-opus-4-5"}]}',
    ],
)
def test_escapes_and_marks_hide_no_model(sent: str) -> None:
    read = keep_api_fields(sent.encode())
    assert [(one.field, one.model) for one in read.named_models] == [("tools.0.model", "claude-opus-4-5")]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('{"model": "opus", "messages": [], "model": "haiku"}', '{"model":"haiku","messages":[]}'),
        ('{"tools": [{"model": "opus", "model": "haiku"}]}', '{"tools":[{"model":"haiku"}]}'),
        ('{"tools": [{"model": "opus", "model": null}]}', '{"tools":[{"model":null}]}'),
        ('{"fallbacks": [{"model": "opus"}], "fallbacks": "default"}', "{}"),
        (
            '{"messages": [{"content": [{"tool": {"definition": {"model": "opus"}}, "tool": null}]}]}',
            '{"messages":[{"content":[{"tool":null}]}]}',
        ),
        (
            '{"messages": [{"content": [{"tool": {"definition": {"model": "opus"}, "definition": {}}}]}]}',
            '{"messages":[{"content":[{"tool":{"definition":{}}}]}]}',
        ),
    ],
)
def test_of_a_repeated_field_only_the_last_value_is_sent(sent: str, kept: str) -> None:
    read = keep_api_fields(sent.encode())
    assert b"opus" not in read.body
    assert read.body.decode() == kept


def test_notes_are_bounded() -> None:
    fields = {f"field_{number}{'x' * 300}": 1 for number in range(400)}
    read = keep_api_fields(json.dumps({**PLAIN, **fields}).encode())
    assert json.loads(read.body) == PLAIN
    assert len(read.notes) == 50
    assert all(len(note.field) == 100 for note in read.notes)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"{", "The request body is not valid JSON: Input data was truncated."),
        (b'{"a": NaN}', "The request body is not valid JSON: invalid character (byte 6)."),
        (b"\xff", "The request body is not valid JSON: invalid character (byte 0)."),
    ],
)
def test_a_body_that_cannot_be_compared_is_refused(sent: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keep_api_fields(sent)
    assert caught.value.message == message


def test_a_note_says_why() -> None:
    (note,) = keep_api_fields(msgspec.json.encode({**PLAIN, "models": []})).notes
    assert note == FidelityNote(
        "approximated", "models", "no field of the Messages API; the rules or the budget of this key allow only these"
    )
