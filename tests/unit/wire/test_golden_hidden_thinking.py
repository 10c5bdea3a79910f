"""Each golden case for a client that gets no thinking: it gets the rest of the reply, and its calls carry the state."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.messages.call_states import (
    cut_state,
    decode_kept_state,
    list_ids_with_states,
    restore_states,
)
from anthropic_proxy.engine.messages.models import decode_request
from tests.support.golden_runner import GoldenCase, find_cases, fold_events
from tests.support.paths import GOLDEN
from tests.support.tables import in_one_test

FOLDERS = [folder for folder in find_cases() if not (case := GoldenCase(folder)).target.is_relayed and case.upstream]
Content = list[dict[str, Any]]
WITH_STATE_BEHIND_CALLS = ("gemini/server_tools/search_then_call",)
"""Cases with state of the provider that no call follows. It is lost, and texts stand for the search."""


def replay(folder: Path, *, hides_thinking: bool) -> tuple[GoldenCase, dict[str, Any] | None, dict[str, Any] | None]:
    """Return the case, and its reply as a stream and as a whole."""
    case = GoldenCase(folder, hides_thinking=hides_thinking)
    assert case.upstream is not None
    played = case.play([case.upstream])
    return case, played.events and fold_events(played.events), played.message and json.loads(played.message)


def leave_out_thinking(case: GoldenCase, message: dict[str, Any]) -> dict[str, Any]:
    """Return a reply without thinking, with the ids of the provider. Texts without a block between them are joined."""
    kept = {call_id: decode_kept_state(state) for call_id, state in case.kept_states.items()}
    content: Content = []
    for block in message["content"]:
        if block["type"] == "tool_use":
            state = kept.get(block["id"])
            content.append({**block, "id": state.call_id if state else cut_state(block["id"])})
        elif block["type"] == "text" and content and content[-1]["type"] == "text":
            cited = [*content[-1].get("citations", ()), *block.get("citations", ())]
            joined = {"type": "text", "text": content[-1]["text"] + block["text"]}
            content[-1] = {**joined, "citations": cited} if cited else joined
        elif block["type"] != "thinking":
            content.append(block)
    for block in content:
        if block["type"] == "text":  # paragraphs are apart if nothing stands between them
            block["text"] = block["text"].replace("\n", "")
    return {**message, "content": content}


@in_one_test
@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_client_without_thinking_gets_the_rest_of_the_reply(folder: Path) -> None:
    shown, *replies = replay(folder, hides_thinking=False)
    hidden, *found = replay(folder, hides_thinking=True)
    for reply, message in zip(replies, found, strict=True):
        if reply is None or message is None:
            assert reply is message is None
            continue
        assert "thinking" not in [block["type"] for block in message["content"]]
        assert leave_out_thinking(hidden, message) == leave_out_thinking(shown, reply)


def encode_next(case: GoldenCase, content: Content) -> Any:
    """Return the body of the next request to the provider, in which the client sends the results of all calls."""
    calls = [block["id"] for block in content if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call_id, "content": "done"} for call_id in calls]
    body = json.loads(case.posted)
    body["messages"] += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
    request = decode_request(json.dumps(body).encode())
    assert isinstance(request.messages, list)
    if list_ids_with_states(request.messages):
        kept = {call_id: decode_kept_state(state) for call_id, state in case.kept_states.items()}
        known = {call_id: state for call_id, state in kept.items() if state is not None}
        request = structs.replace(request, messages=restore_states(request.messages, known))
    case.request = request
    return json.loads(case.target.wire.encode_request(case.call()).body)


@in_one_test
@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_the_next_request_is_the_same_as_with_thinking(folder: Path) -> None:
    if str(folder.relative_to(GOLDEN)) in WITH_STATE_BEHIND_CALLS:
        return
    shown, reply, _ = replay(folder, hides_thinking=False)
    hidden, message, _ = replay(folder, hides_thinking=True)
    if reply is None or message is None or reply["stop_reason"] != "tool_use":
        return
    assert encode_next(hidden, message["content"]) == encode_next(shown, reply["content"])
