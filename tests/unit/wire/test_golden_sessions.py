"""Sessions stored as ordered scenarios: each later request of a client repeats the replies that it received."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.golden_runner import find_cases, fold_events, read_request

WIRES = ("openai_responses", "gemini", "openai_chat")
COMPACTION = "claude_code_session_12_compaction"
"""The request with a reply outside the history: a summary replaces the earlier messages."""


def session_of(wire: str) -> list[Path]:
    """Return the scenarios of a session, `claude_code_session_<number>_<topic>`, in order."""
    return find_cases(wire, "claude_code_session_[0-9][0-9]_*")


def unmarked(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return blocks without the marks for the cache, which clients set again for each request."""
    return [{name: value for name, value in block.items() if name != "cache_control"} for block in content]


@pytest.mark.parametrize("wire", WIRES)
def test_a_session_repeats_the_replies_of_the_proxy(wire: str) -> None:
    """Check each conversation by itself, identified by the last text of its system prompt."""
    known_replies: dict[str, list[Any]] = {}
    for folder in session_of(wire):
        request = json.loads(read_request(folder))
        replies = known_replies.setdefault(request["system"][-1]["text"], [])
        repeated = [unmarked(message["content"]) for message in request["messages"] if message["role"] == "assistant"]
        events = folder / "expected_events.sse"
        reply = fold_events(events.read_bytes())["content"] if events.exists() else None
        if folder.name == COMPACTION:
            assert repeated == replies[: len(repeated)], folder.name
        else:
            assert repeated == replies[len(replies) - len(repeated) :], folder.name
            assert bool(repeated) == bool(replies), folder.name
            replies += [reply] if reply is not None else []


@pytest.mark.parametrize("wire", WIRES)
def test_earlier_messages_are_sent_upstream_again_with_equal_bytes(wire: str) -> None:
    """Up to the summary; then the history is another."""
    field = {"openai_responses": "input", "gemini": "contents", "openai_chat": "messages"}[wire]
    before: dict[str, list[str]] = {}
    for folder in session_of(wire):
        name = json.loads(read_request(folder))["system"][-1]["text"]
        upstream = json.loads((folder / "expected_upstream_request.json").read_bytes())
        encoded = [json.dumps(part) for part in upstream["body"][field]]
        if folder.name == COMPACTION:
            break
        assert encoded[: len(before.get(name, []))] == before.get(name, []), folder.name
        before[name] = encoded
