"""Preparation of a request: a wire receives clean, paired and named messages within the limits of the target."""

import contextlib
import json
import re
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.messages.models import (
    Block,
    CleanMessages,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
    decode_request,
)
from anthropic_proxy.engine.messages.preparation import PreparationResult, TargetLimits, prepare
from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature
from tests.support.messages import exactly
from tests.support.sessions import EncodingStyle, Session, encoding_styles, sessions

ANY = TargetLimits()


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


SOUND = {"type": "document", "source": {"type": "base64", "media_type": "audio/wav", "data": "AA=="}}
FILM = {"type": "image", "source": {"type": "base64", "media_type": "video/mp4", "data": "AA=="}}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ([{"type": "text", "text": "Listen."}, SOUND], "messages.2.content.1"),
        ([FILM], "messages.2.content.0"),
        ([{"type": "tool_result", "tool_use_id": "c", "content": [FILM, SOUND]}], "messages.2.content.0.content.0"),
    ],
)
def test_sound_and_film_are_refused_by_every_provider(content: list[Any], field: str) -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well?"}]
    body = {"model": "m", "max_tokens": 9, "messages": [*history, {"role": "user", "content": content}]}
    with pytest.raises(UnsupportedFeature, match=rf"^{re.escape(field)}\.source\.media_type: .* PDF") as caught:
        prepare(decode_request(json.dumps(body).encode()), TargetLimits(accepts_pdf=True))
    assert caught.value.status == 400


def call(identifier: str, name: str = "f", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": name, "input": arguments}


def result(identifier: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identifier, "content": content, **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def system(*blocks: Any) -> dict[str, Any]:
    return {"role": "system", "content": list(blocks)}


def body_of(*messages: dict[str, Any], **fields: Any) -> bytes:
    whole = {"model": "m", "max_tokens": 100, "messages": list(messages) or [user(text("hi"))], **fields}
    return json.dumps(whole).encode()


def request_of(*messages: dict[str, Any], **fields: Any) -> MessagesRequest:
    return decode_request(body_of(*messages, **fields))


def prepared(*messages: dict[str, Any], limits: TargetLimits = ANY, **fields: Any) -> PreparationResult:
    return prepare(request_of(*messages, **fields), limits)


def words_of(block: Block) -> str:
    """A block on one line: texts as they are, calls as `id:name`, results as `id=words`."""
    if isinstance(block, TextBlock):
        return str(json.loads(bytes(block.text)))
    if isinstance(block, ToolUseBlock):
        return f"{block.id}:{block.name}"
    if isinstance(block, ToolResultBlock):
        return f"{block.tool_use_id}={'|'.join(words_of(part) for part in decode_nested_content(block.content))}"
    return type(block).__name__


def texts_of(messages: list[Message]) -> list[tuple[str, list[str]]]:
    return [(message.role, [words_of(block) for block in message.blocks]) for message in messages]


def spoken(*messages: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return texts_of(prepared(*messages).request.messages)


BILLING = "x-anthropic-billing-header: cc_version=2.1.328.abc; cc_entrypoint=sdk-cli;"


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("Be brief.", ["Be brief."]),
        ("", []),
        (f"{BILLING}\nBe brief.\nPlease.", ["Be brief.\nPlease."]),
        (BILLING, []),
        ([text(BILLING), text("Be brief."), text("")], ["Be brief."]),
        ([text(f"{BILLING}\n"), text("a"), text("b")], ["a", "b"]),
        ([text("said: x-anthropic-billing-header: no")], ["said: x-anthropic-billing-header: no"]),
        ([{"type": "future", "text": "a"}], ["a"]),
    ],
)
def test_the_system_prompt_loses_its_billing_line_and_empty_texts(prompt: Any, left: list[str]) -> None:
    assert [words_of(block) for block in prepared(system=prompt).request.system] == left


def test_empty_texts_go_and_neighbours_of_one_role_merge() -> None:
    assert spoken(
        {"role": "user", "content": "a"},
        user(text(""), text("b")),
        assistant(text("")),
        user(text("c")),
        assistant(text("d")),
        {"role": "assistant", "content": ""},
        assistant(text("e")),
        system(text("f")),
        {"role": "system", "content": "g"},
    ) == [("user", ["a", "b", "c"]), ("assistant", ["d", "e"]), ("system", ["f", "g"])]


def test_empty_messages_are_refused() -> None:
    with pytest.raises(
        InvalidRequest, match=exactly("messages: at least one message must have content that is not empty")
    ):
        prepared(user(text("")), {"role": "assistant", "content": ""})


def served(kind: str, content: Any, **fields: Any) -> dict[str, Any]:
    """Return a reply with the result of a server tool."""
    return assistant({"type": f"{kind}_tool_result", "tool_use_id": "s", "content": content, **fields})


def serving(name: str, given: Any, kind: str = "server_tool_use") -> dict[str, Any]:
    return assistant({"type": kind, "id": "s", "name": name, "input": given})


def file(kind: str, **source: Any) -> dict[str, Any]:
    return {"type": kind, "source": source}


CATS = {"type": "web_search_result", "title": "Cats", "url": "https://cats", "encrypted_content": "x"}
RAN = {"stdout": "", "stderr": "ouch", "return_code": 1}
FOUND = {"tool_references": [{"type": "tool_reference", "tool_name": "Web"}]}
ADDRESS = "https://a.example/" + "a" * 200 + ",b"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            assistant(
                *serving("web_search", {"query": "cats"})["content"],
                *served("web_search", [CATS])["content"],
                text("Found."),
            ),
            ["[web_search: cats]", "Cats – https://cats", "Found."],
        ),
        (served("web_search", {"error_code": "unavailable"}), ["[web_search failed: unavailable]"]),
        (served("web_search", [CATS | {"title": "https://cats", "encrypted_content": ""}]), ["https://cats"]),
        (serving("web_fetch", {"url": "u"}), ["[web_fetch: u]"]),
        (serving("find", {"q": "x"}, "mcp_tool_use"), ["[find: x]"]),
        (serving("find", 5, "mcp_tool_use"), ["[find]"]),
        (serving("find", {"q": "x", "n": 5}, "mcp_tool_use"), ['[find: {"q":"x","n":5}]']),
        (served("mcp", [text("a"), text("b")]), ["a\nb"]),
        (served("mcp", [text("no")], is_error=True), ["[tool error] no"]),
        (serving("code_execution", {"code": "x" * 999}), ["[code_execution]\n" + "x" * 999]),
        (
            served("code_execution", {"type": "code_execution_tool_result_error", "error_code": "unavailable"}),
            ["[code_execution failed: unavailable]"],
        ),
        (served("code_execution", {"type": "code_execution_result", **RAN}), ["ouch\n[exit code 1]"]),
        (served("bash_code_execution", {"stdout": "out", "stderr": "", "return_code": 0}), ["out"]),
        (served("tool_search", FOUND), ["Tool available: Web"]),
        (user({"type": "future", "text": "a"}), ["a"]),
        (user({"type": "future", "content": "b"}), ["b"]),
        (user({"type": "future", "n": 1}), ["[unsupported block: future]"]),
        (user({"type": "container_upload", "file_id": "f"}), ["[unsupported block: container_upload]"]),
        (user(file("image", type="file", file_id="f1")), ["[image file f1 not available]"]),
        (user(file("document", type="file", file_id="f1")), ["[document file f1 not available]"]),
        (user(file("document", type="text", data="body") | {"title": "T", "context": "C"}), ["T\nC", "body"]),
        (user(file("document", type="content", content=[text("a"), text("")])), ["a"]),
        (
            user({"type": "search_result", "title": "T", "source": "https://s", "content": [text("body")]}),
            ["T\nhttps://s", "body"],
        ),
        (user({"type": "tool_reference", "tool_name": "Web"}), ["Tool available: Web"]),
        (user(text("a"), {"type": "fallback", "from": {}, "to": {}}), ["a"]),
        (user(text("a"), {"type": "thinking", "thinking": "t", "signature": "s"}), ["a"]),
        (assistant(file("image", type="base64", media_type="image/png")), ["[image omitted: image/png]"]),
        (assistant(file("image", type="url", url="data:;base64,QUJD")), ["[image omitted: text/plain]"]),
        (assistant(file("document", type="url", url="Data:text/html,abc")), ["[document omitted: text/html]"]),
        (assistant(file("image", type="url", url="data:" + "a" * 1_000)), [f"[image omitted: data:{'a' * 95}]"]),
        (assistant(file("image", type="url", url=ADDRESS)), [f"[image omitted: {ADDRESS}]"]),
        (user({"type": "future", "content": [file("image", type="url", url="data:;base64,QUJD")]}), ["data:;base64"]),
        (user(call("1", "f", x=1)), ['[call of f] {"x": 1}']),
    ],
)
def test_blocks_that_no_wire_knows_become_text(message: dict[str, Any], words: list[str]) -> None:
    assert spoken(message) == [(message["role"], words)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("plain", "plain"),
        ("", ""),
        (None, ""),
        ([], ""),
        ([text("")], ""),
        (
            [{"type": "tool_reference", "tool_name": "A"}, {"type": "tool_reference", "tool_name": "B"}],
            "Tool available: A|Tool available: B",
        ),
        ([text("a"), {"type": "browser_state", "tabs": []}], "a|[unsupported block: browser_state]"),
        ([{"type": "image", "source": {"type": "url", "url": "u"}}, text("a")], "ImageBlock|a"),
        ([{"type": "search_result", "title": "T", "source": "S", "content": [text("b")]}], "T\nS|b"),
    ],
)
def test_the_content_of_a_result_is_converted_to_blocks_of_the_wires(content: Any, words: str) -> None:
    _, _, answer = spoken(user(text("a")), assistant(call("1")), user(result("1", content)))
    assert answer == ("user", [f"1={words}"])


def test_a_summary_stands_for_what_was_before_it() -> None:
    assert spoken(
        user(text("old")),
        assistant(text("old"), {"type": "compaction", "content": "summary"}, text("after")),
        user(text("new")),
    ) == [("user", ["summary"]), ("assistant", ["after"]), ("user", ["new"])]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param(
            [assistant(call("1"), call("2")), user(text("x"), result("2", "two"), result("1", "one"))],
            [("assistant", ["1:f", "2:f"]), ("user", ["1=one", "2=two", "x"])],
            id="out of order, after text",
        ),
        pytest.param(
            [assistant(text("a"), call("1"))],
            [("assistant", ["a", "1:f"]), ("user", ["1=[no result recorded]"])],
            id="no answer at the end",
        ),
        pytest.param(
            [assistant(call("1"), call("2")), user(result("2", "two")), assistant(text("b"))],
            [("assistant", ["1:f", "2:f"]), ("user", ["1=[no result recorded]", "2=two"]), ("assistant", ["b"])],
            id="one missing",
        ),
        pytest.param(
            [assistant(call("1")), system(text("s")), user(text("x"), result("1"))],
            [("assistant", ["1:f"]), ("user", ["1=ok"]), ("system", ["s"]), ("user", ["x"])],
            id="a system message in between",
        ),
        pytest.param(
            [assistant(call("1"), call("2")), user(result("1")), system(text("s")), user(result("2"))],
            [("assistant", ["1:f", "2:f"]), ("user", ["1=ok", "2=ok"]), ("system", ["s"])],
            id="results on both sides of a system message",
        ),
        pytest.param(
            [user(result("9", "lost")), assistant(text("a")), user(result("8", "late"), text("x"))],
            [
                ("user", ["[result of an earlier tool call] lost"]),
                ("assistant", ["a"]),
                ("user", ["[result of an earlier tool call] late", "x"]),
            ],
            id="orphans",
        ),
        pytest.param(
            [assistant(call("1")), user(result("1", "a"), result("1", "a"), result("1", "b"))],
            [("assistant", ["1:f"]), ("user", ["1=a", "[result of an earlier tool call] b"])],
            id="the same result twice, and another",
        ),
        pytest.param(
            [assistant(call("1"), call("1")), user(result("1", "a"), result("1", "b"))],
            [("assistant", ["1:f", "1_2:f"]), ("user", ["1=a", "1_2=b"])],
            id="one id for two calls of a message",
        ),
        pytest.param(
            [assistant(call("1")), user(result("1", "a")), assistant(call("1")), user(result("1", "b"))],
            [("assistant", ["1:f"]), ("user", ["1=a"]), ("assistant", ["1_2:f"]), ("user", ["1_2=b"])],
            id="ids that start again with each step",
        ),
        pytest.param(
            [assistant(call("")), user(result("", "a"))],
            [("assistant", ["call:f"]), ("user", ["call=a"])],
            id="an empty id",
        ),
        pytest.param(
            [assistant(call("1")), assistant(call("2")), user(result("2", "two"), result("1", "one"))],
            [("assistant", ["1:f", "2:f"]), ("user", ["1=one", "2=two"])],
            id="calls in two messages of the model",
        ),
    ],
)
def test_calls_and_results_are_paired(messages: list[dict[str, Any]], expected: list[tuple[str, list[str]]]) -> None:
    assert spoken(*messages) == expected


def test_the_pictures_of_an_orphan_result_stay() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "u"}}
    assert spoken(user(result("9", [text("a"), picture]))) == [
        ("user", ["[result of an earlier tool call] a", "ImageBlock"])
    ]


LONG = "mcp__server__" + "x" * 80


def test_names_that_a_wire_does_not_allow_get_an_alias_everywhere() -> None:
    names = [LONG, "päth.read", "fine"]
    ready = prepared(
        user(text("a")),
        assistant(*[call(str(index), name) for index, name in enumerate(names)]),
        tools=[{"name": name} for name in names],
        tool_choice={"type": "tool", "name": LONG, "disable_parallel_tool_use": True},
    )
    offered = [tool.name for tool in ready.request.tools]
    assert offered[2] == "fine"
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in offered)
    assert re.fullmatch(r"mcp__server__x{37}_[0-9a-f]{8}", offered[0])
    assert ready.aliases == {offered[0]: LONG, offered[1]: "päth.read"}
    assert [block.name for block in ready.request.messages[1].blocks if isinstance(block, ToolUseBlock)] == offered
    assert (ready.request.tool_choice.name, ready.request.tool_choice.disable_parallel_tool_use) == (offered[0], True)


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [
        ("bash_20250124", "bash", {"command", "restart"}),
        ("text_editor_20241022", "str_replace_editor", {"command", "path", "old_str", "new_str", "view_range"}),
        ("text_editor_20250728", "str_replace_based_edit_tool", {"command", "path", "old_str", "insert_text"}),
        ("computer_20250124", "computer", {"action", "coordinate", "scroll_direction"}),
        ("memory_20250818", "memory", {"command", "path", "old_path", "new_path"}),
    ],
)
def test_tools_that_claude_knows_by_type_become_functions(kind: str, name: str, arguments: set[str]) -> None:
    (tool,) = prepared(
        tools=[{"type": kind, "name": name, "display_width_px": 800, "display_height_px": 600}]
    ).request.tools
    schema = json.loads(bytes(tool.input_schema))
    assert (tool.type, tool.name, schema["type"]) == (None, name, "object")
    assert arguments <= schema["properties"].keys()
    assert tool.description
    assert "800 × 600" in tool.description


def test_an_old_editor_can_undo_and_a_new_one_cannot() -> None:
    for kind, undoes in (("text_editor_20250124", True), ("text_editor_20250429", False)):
        (tool,) = prepared(tools=[{"type": kind, "name": "e"}]).request.tools
        commands = json.loads(bytes(tool.input_schema))["properties"]["command"]["enum"]
        assert ("undo_edit" in commands) == undoes


def test_system_messages_add_and_remove_tools() -> None:
    def change(kind: str, tool: dict[str, Any]) -> dict[str, Any]:
        return {"type": kind, "tool": tool}

    ready = prepared(
        user(text("a")),
        system(
            change("tool_removal", {"type": "tool_reference", "name": "a"}),
            change("tool_removal", {"type": "tool_reference", "name": "b"}),
            text("s"),
        ),
        system(
            change("tool_addition", {"type": "tool_reference", "name": "b"}),
            change("tool_addition", {"type": "tool_definition", "definition": {"name": "d"}}),
            change("tool_addition", {"type": "mcp_toolset_reference", "server_name": "x"}),
        ),
        tools=[{"name": "a"}, {"name": "b"}, {"name": "c"}],
    )
    assert [tool.name for tool in ready.request.tools] == ["b", "c", "d"]
    assert texts_of(ready.request.messages) == [("user", ["a"]), ("system", ["s"])]


@pytest.mark.parametrize(
    ("choice", "tools", "words"),
    [
        (
            {"type": "tool", "name": "b"},
            [{"name": "a"}, {"name": LONG}],
            f"no tool named 'b' is offered; there are: a, {LONG}",
        ),
        ({"type": "tool"}, [{"name": "a"}], "no tool named None is offered"),
        ({"type": "tool", "name": "b"}, [], "forces a tool call, but no tool is offered"),
        ({"type": "any"}, [], "forces a tool call, but no tool is offered"),
    ],
)
def test_a_forced_tool_that_is_not_offered_is_refused(choice: dict[str, Any], tools: list[Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        prepared(tools=tools, tool_choice=choice)


def test_a_model_without_tools_gets_none() -> None:
    bare = TargetLimits(accepts_tools=False)
    ready = prepared(tools=[{"name": "a"}], tool_choice={"type": "auto"}, limits=bare)
    assert ready.request.tools == []
    assert ready.request.tool_choice is None
    assert [(note.handling, note.field) for note in ready.notes] == [("dropped", "tools")]
    with pytest.raises(
        UnsupportedFeature, match=exactly("tool_choice: 'any' forces a tool call, but the model does not support tools")
    ):
        prepared(tools=[{"name": "a"}], tool_choice={"type": "any"}, limits=bare)


FULL = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@pytest.mark.parametrize(
    ("fields", "efforts", "default", "effort"),
    [
        ({}, FULL, "medium", "default"),
        ({"thinking": {"type": "adaptive"}}, FULL, "medium", "default"),
        ({"thinking": {"type": "adaptive"}}, FULL, "none", "medium"),
        ({"thinking": {"type": "enabled"}}, ("low", "high"), "none", "low"),
        ({"thinking": {"type": "between_tools"}}, FULL, "none", "low"),
        ({"thinking": {"type": "of the future"}}, FULL, "medium", "default"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, FULL, "high", "none"),
        ({"thinking": {"type": "disabled"}}, ("minimal", "low", "high"), "low", "minimal"),
        ({"thinking": {"type": "disabled"}}, ("medium", "high"), "high", "medium"),
        ({"thinking": {"type": "disabled"}}, (), None, "default"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, FULL, None, "high"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 32000}, "output_config": {"effort": "low"}},
            FULL,
            None,
            "low",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, FULL, None, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 16384}}, FULL, None, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, FULL, None, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32001}}, FULL, None, "xhigh"),
        ({"output_config": {"effort": "max"}}, ("none", "low", "medium", "high"), "none", "high"),
        ({"output_config": {"effort": "low"}}, ("none", "medium", "high"), "none", "medium"),
        ({"output_config": {"effort": "low"}}, ("none",), "none", "default"),
        ({"output_config": {"effort": "max"}}, (), None, "default"),
        ({"output_config": {"effort": "of the future"}}, FULL, "low", "default"),
    ],
)
def test_effort_is_one_value_that_the_model_knows(
    fields: dict[str, Any], efforts: tuple[str, ...], default: str | None, effort: str
) -> None:
    assert prepared(limits=TargetLimits(efforts=efforts, default_effort=default), **fields).request.effort == effort


def test_a_changed_effort_is_noted() -> None:
    (note,) = prepared(limits=TargetLimits(efforts=("low", "high")), output_config={"effort": "max"}).notes
    assert (note.handling, note.field) == ("approximated", "output_config.effort")
    assert note.reason.startswith("max → high")


@pytest.mark.parametrize(
    ("asked", "limits", "counted", "given"),
    [
        (100, TargetLimits(), 0, 100),
        (0, TargetLimits(max_output=50), 0, 1),
        (128_000, TargetLimits(max_output=32_768), 0, 32_768),
        (128_000, TargetLimits(max_output=65_536, context_window=131_072), 1_000, 65_536),
        (128_000, TargetLimits(max_output=65_536, context_window=131_072), 100_000, 131_072 - 100_000 - 64),
        (128_000, TargetLimits(context_window=8_192), 9_000, 1),
    ],
)
def test_the_output_limit_fits_model_and_window(asked: int, limits: TargetLimits, counted: int, given: int) -> None:
    request = request_of(user(text("x" * 200_000)), max_tokens=asked)
    ready = prepare(request, limits, lambda _: counted)
    assert ready.request.max_tokens == given
    assert [note.field for note in ready.notes] == (["max_tokens"] if given < asked else [])


def test_what_only_anthropic_has_is_noted() -> None:
    notes = prepared(mcp_servers=[{"type": "url"}], container="c").notes
    assert [(note.handling, note.field) for note in notes] == [("dropped", "mcp_servers"), ("dropped", "container")]


def test_mending_is_noted() -> None:
    data = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a \\ud800"}]}'
    (note,) = prepare(decode_request(data), ANY).notes
    assert note.reason == "1 lone surrogate replaced by U+FFFD"


def test_the_newer_field_for_a_schema_wins() -> None:
    ready = prepared(
        output_format={"type": "json_schema", "schema": {"old": 1}},
        output_config={"format": {"type": "json_schema", "schema": {"new": 1}}},
    ).request
    assert json.loads(bytes(ready.output_schema)) == {"new": 1}
    assert bytes(prepared().request.output_schema) == b""


IDS = st.sampled_from(["1", "2", "3", ""])
WORDS = st.sampled_from(["", "a", "b"])
TEXTS = st.builds(text, WORDS)
NESTED = st.lists(
    TEXTS | st.just({"type": "tool_reference", "tool_name": "t"}) | st.just({"type": "future"}), max_size=2
)
CALLS = st.builds(call, IDS, st.sampled_from(["f", "g.h", LONG]))
RESULTS = st.builds(result, IDS, WORDS | NESTED | st.none())
PICTURES = st.just({"type": "image", "source": {"type": "url", "url": "u"}})
OTHERS = st.sampled_from(
    [
        {"type": "future", "n": 1},
        {"type": "thinking", "thinking": "t"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "compaction", "content": "summary"},
        {"type": "fallback"},
        {"type": "document", "source": {"type": "text", "data": ""}},
    ]
)
CONTENTS = WORDS | st.lists(TEXTS | CALLS | RESULTS | PICTURES | OTHERS, max_size=5)
ROLES = st.sampled_from(["user", "assistant", "system"])
HISTORIES = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, ROLES, CONTENTS), min_size=1, max_size=8
)
HOLDS = {
    "user": TextBlock | ImageBlock | DocumentBlock | ToolResultBlock,
    "assistant": TextBlock | ThinkingBlock | ToolUseBlock,
    "system": TextBlock,
}


def check_pairs(messages: list[Message]) -> None:
    """Every call is answered directly after its message, in order, before anything else; no result stands elsewhere."""
    owed: list[str] = []
    seen: set[str] = set()
    for message in messages:
        results = [block.tool_use_id for block in message.blocks if isinstance(block, ToolResultBlock)]
        assert results == owed
        assert all(isinstance(block, ToolResultBlock) for block in message.blocks[: len(owed)])
        owed = [block.id for block in message.blocks if isinstance(block, ToolUseBlock)]
        assert not seen & set(owed)
        assert len(set(owed)) == len(owed)
        assert all(owed)
        seen.update(owed)
    assert not owed


@given(HISTORIES)
def test_any_history_is_paired_clean_and_alternating(history: list[dict[str, Any]]) -> None:
    request = request_of(*history)
    before = msgspec.json.encode([texts_of([message]) for message in request.messages])
    with contextlib.suppress(ClientError):
        messages = prepare(request, ANY).request.messages
        check_pairs(messages)
        assert all(one.role != other.role for one, other in pairwise(messages))
        for message in messages:
            assert message.content
            for block in message.blocks:
                assert isinstance(block, HOLDS[message.role])
                assert words_of(block) or not isinstance(block, TextBlock)
    assert msgspec.json.encode([texts_of([message]) for message in request.messages]) == before


def check_both_scans(request: MessagesRequest) -> None:
    """Check that messages read as plain give the same result as the steps for all other messages, to the last note."""
    by_steps = structs.replace(request, messages=[*request.messages])
    if isinstance(request.messages, CleanMessages):
        assert msgspec.json.encode(prepare(request, ANY)) == msgspec.json.encode(prepare(by_steps, ANY))


@given(HISTORIES)
def test_a_plain_history_needs_no_steps(history: list[dict[str, Any]]) -> None:
    with contextlib.suppress(ClientError):
        check_both_scans(request_of(*history))


@given(sessions(), encoding_styles)
def test_a_plain_conversation_needs_no_steps(talk: Session, style: EncodingStyle) -> None:
    for end in talk.ends():
        check_both_scans(decode_request(json.dumps(talk.request(end, style)).encode()))


PICTURE = {"type": "image", "source": {"type": "url", "url": "u"}}
DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}
AGENT = [
    {"role": "user", "content": "Look."},
    system(text("Today.")),
    assistant({"type": "thinking", "thinking": "Hm."}, text("I look."), call("1"), call("2")),
    user(result("1"), result("2", [text("There."), text("And there.")]), text("Go on.")),
    user(text("Please."), DOCUMENT),
    assistant(call("3", LONG)),
    user({"type": "tool_result", "tool_use_id": "3"}),
    assistant(call("4")),
    user(result("4", [text("There."), PICTURE])),
    {"role": "assistant", "content": "Done."},
]


def test_what_agents_send_is_plain() -> None:
    request = request_of(*AGENT)
    assert isinstance(request.messages, CleanMessages)
    assert request.messages.called == ["f", LONG]
    check_both_scans(request)


def test_errors_inside_a_result_are_refused_where_its_content_is_encoded() -> None:
    """A relay passes it on: the request is read all the same, only not as a plain one."""
    request = request_of(*AGENT[:3], user(result("1"), result("2", [{"type": "text", "text": 5}])))
    assert not isinstance(request.messages, CleanMessages)
    with pytest.raises(InvalidRequest, match=exactly("content.0.text: Input should be a string, got 5")):
        prepare(request, ANY)


@given(HISTORIES)
def test_no_result_is_lost(history: list[dict[str, Any]]) -> None:
    """Each tool result is kept, paired or as text, unless a summary replaces it."""
    for message in history:
        for index, block in enumerate(message["content"]):
            if isinstance(block, dict) and block["type"] == "tool_result":
                block["content"] = f"answer {index}"
    if any(isinstance(block, dict) and block["type"] == "compaction" for m in history for block in m["content"]):
        return
    answers = {
        block["content"]
        for message in history
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    }
    with contextlib.suppress(ClientError):
        messages = prepare(request_of(*history), ANY).request.messages
        spoken_words = json.dumps(texts_of(messages))
        assert all(answer in spoken_words for answer in answers)
