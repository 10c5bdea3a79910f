"""Compaction with the SDK on four wires: a summary takes the place of the conversation."""

from typing import Any

import anthropic
import pytest
from anthropic.types import CompactionBlockMisplacedError, CompactionContentMismatchError

from tests.support.sdk import MODEL, WEATHER
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


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_conversation_goes_on_behind_its_summary(
    client: anthropic.Anthropic, wire: Upstream, stream: bool
) -> None:
    edits: Any = {"betas": [THRESHOLD], "context_management": {"edits": [EDIT]}}
    first = ask(client, conversation(), stream=stream, **edits)
    block, *_ = first.content
    assert (block.type, block.content, block.tool_changes) == ("compaction", SUMMARY, [])
    assert first.context_management.applied_edits == []
    (summary, read), (reply, left) = tokens_of(first)
    assert (summary, reply) == ("compaction", "message")
    assert read > 50_000 > 1_000 > left > 0
    usage = first.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0) == left
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


@pytest.mark.parametrize("stream", [False, True])
def test_a_pause_leaves_the_rest_to_the_client(client: anthropic.Anthropic, wire: Upstream, stream: bool) -> None:
    edit = EDIT | {"pause_after_compaction": True}
    paused = ask(client, conversation(), stream=stream, betas=[THRESHOLD], context_management={"edits": [edit]})
    assert (paused.stop_reason, [block.type for block in paused.content]) == ("compaction", ["compaction"])
    messages = [*conversation(), {"role": "assistant", "content": paused.content}, conversation()[-1]]
    reply = ask(client, messages, stream=stream, betas=[THRESHOLD], context_management={"edits": [edit]})
    assert [block.text for block in reply.content if block.type == "text"] == ["Sunny"]
    assert len(wire.conversations) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_summary_at_once_takes_the_place_of_the_conversation(
    client: anthropic.Anthropic, wire: Upstream, stream: bool
) -> None:
    summary = ask(client, conversation(), stream=stream, betas=[AT_ONCE], compaction={"type": "summarize"})
    (block,) = summary.content
    assert (summary.stop_reason, block.type, block.content) == ("compaction", "compaction", SUMMARY)
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
    assert len(wire.conversations) == 2
    assert LIMIT in wire.conversations[1].turns[0].text
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
