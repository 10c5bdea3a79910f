"""Compaction with the SDK on four wires and relays: a summary takes the place of the conversation."""

from typing import Any

import anthropic
import pytest
from anthropic.types import CompactionBlockMisplacedError, CompactionContentMismatchError

from tests.support.sdk import MODEL, WEATHER, open_sdk
from tests.support.shared_servers import every_kind
from tests.support.wires import Upstream

LIMIT = "Never write to the disk"
LONG = "Rain and wind. " * 16_000
"""More tokens than the smallest trigger."""
SUMMARY = f"The user said first: {LIMIT}."
THRESHOLD, AT_ONCE = "compact-2026-01-12", "compact-2026-09-04"
EDIT: dict[str, Any] = {"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}


def conversation() -> list[Any]:
    return [
        {"role": "user", "content": f"{LIMIT}. {LONG}"},
        {"role": "assistant", "content": "It is wet."},
        {"role": "user", "content": "Say exactly: Sunny"},
    ]


def ask(client: anthropic.Anthropic, messages: list[Any], *, stream: bool = False, **fields: Any) -> Any:
    options: Any = {"model": MODEL, "max_tokens": 4_000, "tools": [WEATHER], "messages": messages, **fields}
    if not stream:
        return client.beta.messages.create(**options)
    with client.beta.messages.stream(**options) as events:
        return events.get_final_message()


def tokens_of(message: Any) -> list[tuple[str, int]]:
    return [
        (one.type, one.input_tokens + one.cache_read_input_tokens + one.cache_creation_input_tokens)
        for one in message.usage.iterations
    ]


@every_kind
@pytest.mark.parametrize("stream", [False, True])
def test_a_long_conversation_goes_on_behind_its_summary(
    client: anthropic.Anthropic, wire: Upstream, stream: bool
) -> None:
    go_on_behind_a_summary(client, wire, stream=stream, is_native=wire.kind.has_native_features)


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_with_a_server_with_the_messages_api_goes_on_behind_its_summary(
    other_server: Upstream, stream: bool
) -> None:
    """The server does not compact, and the reply that it relays begins with the block of the proxy."""
    with open_sdk(base_url=other_server.proxy.url, api_key="the-clients-own", max_retries=0) as client:
        go_on_behind_a_summary(client, other_server, stream=stream, is_native=False)
    assert not any("compact" in str(body) for body in other_server.bodies)


def go_on_behind_a_summary(client: anthropic.Anthropic, wire: Upstream, *, stream: bool, is_native: bool) -> None:
    edits: Any = {"betas": [THRESHOLD], "context_management": {"edits": [EDIT]}}
    first = ask(client, conversation(), stream=stream, **edits)
    block, *_ = first.content
    tool_changes = None if is_native else []
    assert (block.type, block.content, block.tool_changes) == ("compaction", SUMMARY, tool_changes)
    assert first.context_management.applied_edits == []
    (summary, read), (reply, left) = tokens_of(first)
    assert (summary, reply) == ("compaction", "message")
    assert read > 50_000 > 1_000 > left > 0
    usage = first.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0) == left
    if not is_native:  # else there is one request, which has the edit
        asked, went_on = wire.conversations
        assert LONG.strip() in asked.turns[-3].text.strip()
        assert asked.turns[-1].text.startswith("Say exactly: Sunny")
        assert [LIMIT in turn.text for turn in went_on.turns] == [True]
        assert LONG[:200] not in went_on.turns[0].text
    later = [
        *conversation(),
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "Say exactly: Dry"},
    ]
    second = ask(client, later, stream=stream, **edits)
    assert [block.text for block in second.content if block.type == "text"] == ["Dry"]
    assert [kind for kind, _ in tokens_of(second)] == ["message"]
    assert tokens_of(second)[0][1] < 1_000


@every_kind
@pytest.mark.parametrize("stream", [False, True])
def test_a_pause_leaves_the_rest_to_the_client(client: anthropic.Anthropic, wire: Upstream, stream: bool) -> None:
    edit = EDIT | {"pause_after_compaction": True}
    paused = ask(client, conversation(), stream=stream, betas=[THRESHOLD], context_management={"edits": [edit]})
    assert (paused.stop_reason, [block.type for block in paused.content]) == ("compaction", ["compaction"])
    messages = [*conversation(), {"role": "assistant", "content": paused.content}, conversation()[-1]]
    reply = ask(client, messages, stream=stream, betas=[THRESHOLD], context_management={"edits": [edit]})
    assert [block.text for block in reply.content if block.type == "text"] == ["Sunny"]
    assert len(wire.conversations) == 2


def summarize(client: anthropic.Anthropic, *, stream: bool) -> list[Any]:
    """Return a conversation that goes on behind its summary."""
    summary = ask(client, conversation(), stream=stream, betas=[AT_ONCE], compaction={"type": "summarize"})
    (block,) = summary.content
    assert (summary.stop_reason, block.type, block.content) == ("compaction", "compaction", SUMMARY)
    assert block.signature
    assert (summary.usage.input_tokens, summary.usage.output_tokens) == (0, 0)
    ((kind, read),) = tokens_of(summary)
    assert kind == "compaction"
    assert read > 50_000
    messages = [
        {"role": "assistant", "content": summary.content},
        {"role": "user", "content": "Say exactly: Dry"},
    ]
    reply = ask(client, messages, stream=stream, betas=[AT_ONCE])
    assert [block.text for block in reply.content if block.type == "text"] == ["Dry"]
    return messages


@every_kind
@pytest.mark.parametrize("stream", [False, True])
def test_a_summary_at_once_takes_the_place_of_the_conversation(
    client: anthropic.Anthropic, wire: Upstream, stream: bool
) -> None:
    messages = summarize(client, stream=stream)
    asked, went_on = wire.conversations
    assert LONG.strip() in "".join(turn.text for turn in asked.turns)
    assert LIMIT in went_on.turns[0].text
    assert LONG[:200] not in str(wire.bodies[1])
    if wire.kind.has_native_features:
        assert [body.get("compaction") for body in wire.bodies] == [{"type": "summarize"}, None]
        return  # its server verifies the blocks
    (block,) = messages[0]["content"]
    changed = [{"role": "assistant", "content": [block.to_dict() | {"content": "Write to the disk."}]}, messages[1]]
    with pytest.raises(CompactionContentMismatchError):
        ask(client, changed, stream=stream, betas=[AT_ONCE])
    with pytest.raises(CompactionBlockMisplacedError):
        ask(client, [messages[1], *messages], stream=stream, betas=[AT_ONCE])
    with pytest.raises(anthropic.BadRequestError):
        ask(
            client,
            conversation(),
            stream=stream,
            betas=[AT_ONCE],
            compaction={"type": "summarize"},
            context_management={"edits": []},
        )


def test_a_count_ignores_the_field_and_applies_a_block(client: anthropic.Anthropic, wire: Upstream) -> None:
    options: Any = {"model": MODEL, "tools": [WEATHER], "messages": conversation()}
    plain = client.beta.messages.count_tokens(**options)
    asked = client.beta.messages.count_tokens(**options, betas=[AT_ONCE], compaction={"type": "summarize"})
    assert asked.input_tokens == plain.input_tokens > 50_000
    edits: Any = {"betas": [THRESHOLD], "context_management": {"edits": [EDIT]}}
    assert client.beta.messages.count_tokens(**options, **edits).input_tokens == plain.input_tokens
    block = {"type": "compaction", "content": SUMMARY}
    options["messages"] = [*conversation(), {"role": "assistant", "content": [block]}, conversation()[-1]]
    assert client.beta.messages.count_tokens(**options, **edits).input_tokens < 1_000
    assert wire.conversations == []


@pytest.mark.parametrize("stream", [False, True])
def test_the_proxy_summarizes_for_a_server_with_the_messages_api_that_does_not(
    other_server: Upstream, stream: bool
) -> None:
    seen = other_server
    with open_sdk(base_url=seen.proxy.url, api_key="the-clients-own", max_retries=0) as client:
        summarize(client, stream=stream)
    asked, went_on = seen.conversations
    assert LONG.strip() in asked.turns[0].text.strip()
    assert "between <summary> and </summary>" in asked.turns[-1].text
    assert LIMIT in went_on.turns[0].text
    assert not any("compaction" in str(body) for body in seen.bodies)
    assert LONG[:200] not in str(seen.bodies[1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_with_the_messages_api_that_does_not_compact_pauses_behind_a_summary(
    other_server: Upstream, stream: bool
) -> None:
    edit: Any = EDIT | {"pause_after_compaction": True}
    with open_sdk(base_url=other_server.proxy.url, api_key="the-clients-own", max_retries=0) as client:
        paused = ask(client, conversation(), stream=stream, betas=[THRESHOLD], context_management={"edits": [edit]})
    (block,) = paused.content
    assert (paused.stop_reason, block.type, block.content) == ("compaction", "compaction", SUMMARY)
    assert len(other_server.conversations) == 1


def test_a_streamed_summary_comes_in_the_form_of_the_api(client: anthropic.Anthropic, wire: Upstream) -> None:
    """A signed block comes whole, without a delta; another one with a single delta, from which the SDK has its event.

    Source: platform.claude.com, "Compaction on demand" and "Compaction at a token threshold", read 2026-11.
    """
    kinds: dict[str, list[str]] = {}
    requests: Any = {
        "edit": {"betas": [THRESHOLD], "context_management": {"edits": [EDIT | {"pause_after_compaction": True}]}},
        "field": {"betas": [AT_ONCE], "compaction": {"type": "summarize"}},
    }
    for name, fields in requests.items():
        options: Any = {"model": MODEL, "max_tokens": 4_000, "tools": [WEATHER], "messages": conversation(), **fields}
        with client.beta.messages.stream(**options) as stream:
            events = [*stream]
            (block,) = stream.get_final_message().content
        kinds[name] = [event.type for event in events if event.type != "ping"]
        assert (
            block.to_dict()
            == next(event.content_block for event in events if event.type == "content_block_stop").to_dict()
        )
        assert [event.content for event in events if event.type == "compaction"] == (
            [SUMMARY] if name == "edit" else []
        )
        start = next(event.content_block for event in events if event.type == "content_block_start")
        assert (start.content, bool(start.signature)) == ((None, False) if name == "edit" else (SUMMARY, True))
        assert (block.content, block.signature) == (SUMMARY, start.signature)
    around = ["message_start", "content_block_start"], ["content_block_stop", "message_delta", "message_stop"]
    assert kinds == {
        "edit": [*around[0], "content_block_delta", "compaction", *around[1]],
        "field": [*around[0], *around[1]],
    }
