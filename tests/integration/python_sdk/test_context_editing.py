"""`context_management` of the SDK: the model receives less, and the client is told what was removed."""

import json
from typing import Any

import anthropic
import pytest

from messages_conformance.backends.messages.editing import CLEARED as CLEARED_NATIVELY
from tests.support.sdk import MODEL, WEATHER, open_sdk
from tests.support.shared_servers import every_kind
from tests.support.wires import Upstream

CLEARED = "[This result was removed to save space. Call the tool again if you need it.]"
BETAS = ["context-management-2025-06-27"]
CITIES = ("Oslo", "Rome", "Bern", "Kyiv", "Riga")


def reports(city: str) -> str:
    return f"{city}: " + "rain and wind, " * 200


def conversation() -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": "Tell the weather of five cities."}]
    for city in CITIES:
        call = {"type": "tool_use", "id": f"toolu_{city}", "name": "get_weather", "input": {"city": city}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{city}", "content": reports(city)}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return messages


def ask(client: anthropic.Anthropic, edits: list[Any] | None, *, stream: bool, messages: list[Any]) -> Any:
    options: Any = {"model": MODEL, "max_tokens": 4_000, "tools": [WEATHER], "betas": BETAS, "messages": messages}
    if edits is not None:
        options["context_management"] = {"edits": edits}
    if not stream:
        return client.beta.messages.create(**options)
    with client.beta.messages.stream(**options) as events:
        return events.get_final_message()


@every_kind
@pytest.mark.parametrize("stream", [False, True])
def test_old_results_are_cleared_and_the_tokens_fall(client: anthropic.Anthropic, wire: Upstream, stream: bool) -> None:
    edit = {"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 3}}
    ask(client, None, stream=stream, messages=conversation())
    message = ask(client, [edit], stream=stream, messages=conversation())
    (applied,) = message.context_management.applied_edits
    assert (applied.type, applied.cleared_tool_uses) == ("clear_tool_uses_20250919", 2)
    assert applied.cleared_input_tokens > 1_000
    for sent, kept in zip(wire.conversations, (5, 3), strict=True):
        results = [(one.call.name, one.call.arguments, one.text) for turn in sent.turns for one in turn.results]
        calls = [("get_weather", {"city": city}, reports(city)) for city in CITIES]
        text = CLEARED_NATIVELY if wire.kind.has_native_features else CLEARED
        assert results == [(*one[:2], text) for one in calls[: 5 - kept]] + calls[5 - kept :]


@every_kind
@pytest.mark.parametrize("stream", [False, True])
def test_inputs_are_removed_and_excluded_tools_stay(client: anthropic.Anthropic, wire: Upstream, stream: bool) -> None:
    edit = {
        "type": "clear_tool_uses_20250919",
        "trigger": {"type": "input_tokens", "value": 1_000},
        "keep": {"type": "tool_uses", "value": 1},
        "clear_tool_inputs": ["get_weather"],
    }
    message = ask(client, [edit], stream=stream, messages=conversation())
    assert message.context_management.applied_edits[0].cleared_tool_uses == 4
    message = ask(client, [edit | {"exclude_tools": ["get_weather"]}], stream=stream, messages=conversation())
    assert message.context_management.applied_edits == []
    inputs = [[one.call.arguments for turn in sent.turns for one in turn.results] for sent in wire.conversations]
    assert inputs == [[{}] * 4 + [{"city": "Riga"}], [{"city": city} for city in CITIES]]


@pytest.mark.parametrize("stream", [False, True])
def test_old_results_of_server_tools_are_cleared(client: anthropic.Anthropic, wire: Upstream, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "Search for the weather of five cities."}]
    for city in CITIES:
        call = {"type": "server_tool_use", "id": f"srvtoolu_{city}", "name": "web_search", "input": {"query": city}}
        page = {"type": "web_search_result", "url": f"https://a.example/{city}", "title": reports(city)}
        result = {"type": "web_search_tool_result", "tool_use_id": call["id"]}
        result["content"] = [page | {"encrypted_content": "", "page_age": None}]
        said = {"type": "text", "text": "It rains."}
        messages += [{"role": "assistant", "content": [call, result, said]}, {"role": "user", "content": "Go on."}]
    edit = {"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 3}}
    message = ask(client, [edit], stream=stream, messages=messages)
    excluded = ask(client, [edit | {"exclude_tools": ["web_search"]}], stream=stream, messages=messages)
    (applied,) = message.context_management.applied_edits
    assert (applied.cleared_tool_uses, applied.cleared_input_tokens > 1_000) == (2, True)
    assert excluded.context_management.applied_edits == []
    sent = [json.dumps(body) for body in wire.bodies]
    assert [body.count(CLEARED) for body in sent] == [2, 0]
    assert [[reports(city) in body for city in CITIES] for body in sent] == [[False] * 2 + [True] * 3, [True] * 5]


@pytest.mark.parametrize("stream", [False, True])
def test_the_thinking_of_earlier_turns_is_removed(client: anthropic.Anthropic, wire: Upstream, stream: bool) -> None:
    options: Any = {"model": MODEL, "max_tokens": 4_000, "thinking": {"type": "enabled", "budget_tokens": 2_000}}
    messages: list[Any] = []
    for _ in range(3):
        messages.append({"role": "user", "content": "Compare the weather in Oslo and Rome"})
        reply = client.messages.create(**options, tools=[WEATHER], messages=messages)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "5 degrees"}
            for block in reply.content
            if block.type == "tool_use"
        ]
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
        messages.append({"role": "assistant", "content": "Equal."})
    messages.append({"role": "user", "content": "Thank you"})
    thoughts: list[list[str]] = []
    for edits in (None, [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}]):
        message = ask(client, edits, stream=stream, messages=messages)
        thoughts.append([thought for turn in wire.conversations[-1].turns for thought in turn.thoughts])
    thinks = any(block.type == "thinking" for block in reply.content)
    applied = [(one.type, one.cleared_thinking_turns) for one in message.context_management.applied_edits]
    assert applied == ([("clear_thinking_20251015", 2)] if thinks else [])
    before, after = thoughts  # calls of Gemini without their own thoughts get a placeholder
    kept = [thought for thought in after if thought in before]
    assert (len(before), len(kept)) == ((3, 1) if wire.kind.thoughts else (0, 0))


def test_a_request_without_effect_is_answered_with_an_empty_list(client: anthropic.Anthropic) -> None:
    for edits in ([], [{"type": "clear_thinking_20251015", "keep": "all"}]):
        for stream in (False, True):
            message = ask(client, edits, stream=stream, messages=conversation())
            assert message.context_management.applied_edits == []
    assert ask(client, None, stream=True, messages=conversation()).context_management is None


def test_a_count_has_the_tokens_before_and_after(client: anthropic.Anthropic) -> None:
    options: Any = {"model": MODEL, "tools": [WEATHER], "betas": BETAS, "messages": conversation()}
    plain = client.beta.messages.count_tokens(**options)
    edit = {"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 3}}
    edited = client.beta.messages.count_tokens(**options, context_management={"edits": [edit]})
    assert plain.context_management is None
    assert edited.context_management is not None
    original = edited.context_management.original_input_tokens
    assert edited.input_tokens < plain.input_tokens - 1_000
    assert abs(original - plain.input_tokens) < plain.input_tokens / 4


@pytest.mark.parametrize("stream", [False, True])
def test_the_proxy_edits_for_a_server_with_the_messages_api_that_does_not(other_server: Upstream, stream: bool) -> None:
    edit: Any = {"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 3}}
    edit["clear_tool_inputs"] = True
    with open_sdk(base_url=other_server.proxy.url, api_key="the-clients-own", max_retries=0) as client:
        message = ask(client, [edit], stream=stream, messages=conversation())
        unchanged = ask(client, [], stream=stream, messages=conversation())
        counted = client.beta.messages.count_tokens(
            model=MODEL, tools=[WEATHER], betas=BETAS, messages=conversation(), context_management={"edits": [edit]}
        )
    (applied,) = message.context_management.applied_edits
    assert (applied.type, applied.cleared_tool_uses) == ("clear_tool_uses_20250919", 2)
    assert applied.cleared_input_tokens > 1_000
    assert unchanged.context_management.applied_edits == []
    assert counted.context_management is not None
    assert counted.input_tokens < counted.context_management.original_input_tokens - 1_000
    edited, whole = other_server.conversations
    results = [(one.call.arguments, one.text) for turn in edited.turns for one in turn.results]
    kept = [({"city": city}, reports(city)) for city in CITIES[2:]]
    assert results == [({}, CLEARED), ({}, CLEARED), *kept]
    assert [one.text for turn in whole.turns for one in turn.results] == [*map(reports, CITIES)]
    assert not any("context_management" in body for body in other_server.bodies)


def test_a_wrong_value_is_refused_as_by_the_api(client: anthropic.Anthropic) -> None:
    edit = {"type": "clear_tool_uses_20250919", "keep": {"type": "tool_uses", "value": -1}}
    with pytest.raises(anthropic.BadRequestError) as refused:
        ask(client, [edit], stream=False, messages=conversation())
    assert refused.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "context_management.edits.0.keep.value: Input should be an integer greater than or equal to 0, "
            "got -1",
        },
        "request_id": refused.value.request_id,
    }
