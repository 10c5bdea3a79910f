"""Messages, streams, pictures, counting and listing."""

import base64
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.support.fakes.openai_chat.samples import png
from tests.support.sdk import MODEL, WEATHER, Upstream, open_sdk, text_of, user_messages
from tests.support.server_process import running_proxy


def test_the_system_prompt_arrives_in_both_forms(client: anthropic.Anthropic) -> None:
    asked = user_messages("What does the system prompt say about parrots")
    blocks: Any = [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Mention parrots often."},
    ]
    for system in ("Mention parrots often.", blocks):
        message = client.messages.create(model=MODEL, max_tokens=100, system=system, messages=asked)
        assert "Mention parrots often." in text_of(message)


def test_a_conversation_keeps_its_history(client: anthropic.Anthropic) -> None:
    turns = [
        *user_messages("I keep bees"),
        {"role": "assistant", "content": "Nice."},
        *user_messages("What did I say first"),
    ]
    message = client.messages.create(model=MODEL, max_tokens=100, messages=turns)
    assert text_of(message) == "You began with: I keep bees"


def test_a_long_beginning_is_reported_as_read_from_the_cache(client: anthropic.Anthropic) -> None:
    system = "Bees are kept in hives. " * 800
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 20, "system": system}
    first = client.messages.create(**options, messages=user_messages("Say exactly: one"))
    turns = [
        *user_messages("Say exactly: one"),
        {"role": "assistant", "content": "one"},
        *user_messages("Say exactly: two"),
    ]
    second = client.messages.create(**options, messages=turns)
    assert second.usage.cache_read_input_tokens is not None
    assert second.usage.cache_read_input_tokens > 4_000
    assert second.usage.input_tokens < first.usage.input_tokens


def test_max_tokens_cuts_and_is_clamped_to_the_models_limit(client: anthropic.Anthropic) -> None:
    cut = client.messages.create(model=MODEL, max_tokens=3, messages=user_messages("Count to 50"))
    assert (text_of(cut), cut.stop_reason) == ("1 2 3", "max_tokens")
    with client.messages.stream(model=MODEL, max_tokens=128_000, messages=user_messages("Count to 5")) as stream:
        assert text_of(stream.get_final_message()) == "1 2 3 4 5"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_named(client: anthropic.Anthropic, stream: bool) -> None:
    options: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": user_messages("Count to 50"),
        "stop_sequences": ["never", "8 9", "30"],
    }
    if stream:
        with client.messages.stream(**options) as events:
            message: Any = events.get_final_message()
    else:
        message = client.messages.create(**options)
    assert text_of(message).strip() == "1 2 3 4 5 6 7"
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "8 9")


def test_a_refusal_has_its_stop_reason(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=100, messages=user_messages("hi [fault:refusal]"))
    assert message.stop_reason == "refusal"
    assert "can't help" in text_of(message)


def test_filtered_and_empty_replies_end_as_they_should(client: anthropic.Anthropic) -> None:
    filtered = client.messages.create(model=MODEL, max_tokens=100, messages=user_messages("hi [fault:filter]"))
    empty = client.messages.create(model=MODEL, max_tokens=100, messages=user_messages("hi [fault:empty]"))
    assert filtered.stop_reason == "refusal"
    assert (empty.stop_reason, empty.content) == ("end_turn", [])


def test_pictures_and_documents_arrive(client: anthropic.Anthropic, upstream: Upstream) -> None:
    picture = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(31, 17)).decode()}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF-1.7 hello").decode()}
    content: Any = [
        {"type": "text", "text": "Describe the pictures"},
        {"type": "image", "source": picture},
        {"type": "document", "source": pdf, "title": "deed.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "in writing"}},
    ]
    message = client.messages.create(model=MODEL, max_tokens=100, messages=[{"role": "user", "content": content}])
    assert text_of(message) == "I see 1 pictures: image/png 31 by 17."
    parts = upstream.last["messages"][-1]["content"]
    assert [part["file"]["filename"] for part in parts if part["type"] == "file"] == ["deed.pdf"]
    assert any("in writing" in part.get("text", "") for part in parts)


def test_a_reasoning_model_gets_its_own_parameters(
    settings: dict[str, str], tmp_path: Path, upstream: Upstream
) -> None:
    with (
        running_proxy(tmp_path, settings | {"OPENAI_WIRE": "chat"}) as proxy,
        open_sdk(base_url=proxy.url, api_key="x", max_retries=0) as client,
    ):
        message = client.messages.create(
            model="openai/o3",
            max_tokens=2_000,
            system="Be brief.",
            thinking={"type": "enabled", "budget_tokens": 1_024},
            tools=[WEATHER],  # type: ignore[list-item]
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
            messages=user_messages("Say exactly: thought over"),
            extra_body={"top_k": 5, "temperature": 0.5, "top_p": 0.9},
        )
    assert text_of(message) == "thought over"
    assert upstream.last["max_completion_tokens"] == 2_000
    assert upstream.last["reasoning_effort"] == "low"


def test_one_model_by_name(client: anthropic.Anthropic) -> None:
    model = client.models.retrieve("claude-openai/gpt-4.1")
    assert (model.id, model.type) == ("claude-openai/gpt-4.1", "model")
    assert client.models.retrieve("openai/newer-than-our-list").id == "openai/newer-than-our-list"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("claude-haiku-4-5", "gpt-4.1-mini"),
        ("claude-opus-5-5", "gpt-4.1"),
        ("claude-fable-5-2", "gpt-4.1"),
        ("openai/gpt-4o", "gpt-4o"),
        ("claude-openai/gpt-4o-mini", "gpt-4o-mini"),
    ],
)
def test_a_model_is_mapped_and_the_reply_names_the_requested_one(
    client: anthropic.Anthropic, upstream: Upstream, asked: str, sent: str
) -> None:
    message = client.messages.create(model=asked, max_tokens=10, messages=user_messages("Count to 2"))
    assert message.model == asked
    assert upstream.last["model"] == sent
