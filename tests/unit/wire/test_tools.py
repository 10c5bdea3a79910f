"""Caches of facts about tools: kept for the next request with the same tools, up to a limit."""

import gc
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import anthropic_proxy
from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.messages.work_budget import WorkCache
from tests.support.sessions import SessionStep, session_steps

PACKAGE = f"{Path(anthropic_proxy.__file__).parent}/"
TURNS = 30
WORK = (
    "engine/messages/models/tools.py: _load",
    "engine/wires/json_schema.py",
    "engine/wires/ollama/request.py: encode_parameters",
)
"""The places that read definitions of tools, and that encode schemas."""
LISTS = "engine/messages/models/tools.py: share_tools"
"""The place that every list passes that was read."""
STEPS = list({step.wire: step for step in session_steps() if step.wire != "anthropic"}.values())


def make_tools(kind: str, count: int) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    return [{"name": f"{kind}_{number}", "description": "Reads.", "input_schema": schema} for number in range(count)]


def ask(step: SessionStep, tools: list[dict[str, Any]], turn: int = 0) -> None:
    messages = [{"role": "user", "content": f"turn {turn}"}]
    step.encode_body({"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": messages, "tools": tools})


def count_work(
    step: SessionStep, sets: list[list[dict[str, Any]]], turns: int = 1, work: Sequence[str] = WORK
) -> list[int]:
    """Return how often tools were read or schemas encoded in each turn of as many sessions as there are sets."""
    counts = []
    for turn in range(turns):
        calls: Counter[str] = Counter()

        def count(frame: FrameType, event: str, argument: Any, calls: Counter[str] = calls) -> None:
            if event == "call":
                code = frame.f_code
                calls[f"{code.co_filename.removeprefix(PACKAGE)}: {code.co_qualname}"] += 1

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            for tools in sets:
                ask(step, tools, turn)
        finally:
            sys.setprofile(before)
        counts.append(sum(count for place, count in calls.items() if place.startswith(tuple(work))))
    return counts


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.wire)
def test_the_tools_of_many_sessions_are_read_and_encoded_once(step: SessionStep) -> None:
    sets = [make_tools(f"{step.wire}_{session}", 2 + session) for session in range(20)]
    first, *later = count_work(step, sets, TURNS, (*WORK, LISTS))
    assert first > 0
    assert set(later) == {0}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.wire)
def test_a_tool_that_joins_a_session_is_all_that_is_encoded(step: SessionStep) -> None:
    tools = make_tools(f"{step.wire}_joins", 40)
    alone = count_work(step, [tools[:1]])[0]
    for count in range(2, 20):
        assert count_work(step, [tools[:count]])[0] == alone


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.wire)
@pytest.mark.sample(4)
def test_what_is_kept_of_tools_does_not_grow_with_their_number(
    step: SessionStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkCache, "kept", SizedCache(1 << 20))

    def ask_with(sets: range) -> int:
        for number in sets:
            tools = make_tools(step.wire, 12)
            ask(step, [tool | {"description": f"Reads, in version {number}."} for tool in tools])
        gc.collect()
        return sys.getallocatedblocks()

    start = ask_with(range(1))
    full = ask_with(range(1, 120))
    assert full - start > 1_000
    assert ask_with(range(120, 240)) - full < (full - start) / 20
