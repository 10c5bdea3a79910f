"""What the edits of `context_management` remove from a conversation, for any model of another API."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from anthropic.types.beta import beta_context_management_config_param as sdk
from hypothesis import given, settings
from hypothesis import strategies as st

from anthropic_proxy.engine.histories import Histories
from anthropic_proxy.engine.messages.context_editing import ContextEditor, count_context, edit_context, find_removed
from anthropic_proxy.engine.messages.models import (
    Block,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    UnknownBlock,
    decode_request,
)
from anthropic_proxy.engine.messages.models.context_edits import EDITS
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.routing.targets import build_target_limits
from anthropic_proxy.engine.wires.anthropic.context_spans import edit_conversation
from anthropic_proxy.errors import InvalidRequest
from messages_conformance.backends.messages.editing import edit_context as edit_natively
from tests.matrix.backends import BACKENDS
from tests.support.fakes.anthropic.models import MODELS
from tests.support.fakes.anthropic.rules import check_body
from tests.support.paths import ROOT

USES, THINKING = "clear_tool_uses_20250919", "clear_thinking_20251015"
CLEARED = "[This result was removed to save space. Call the tool again if you need it.]"
LIMITS = build_target_limits(BACKENDS[0].target(), has_web_fetch=True)
Json = dict[str, Any]


def step(number: int, name: str = "read", *, size: int = 100, thinks: bool = True, says: str = "") -> list[Json]:
    """Return a call with its result, which is followed by a text of the user."""
    thought = [{"type": "thinking", "thinking": f"thought {number} " * 20, "signature": "s"}] if thinks else []
    call = {"type": "tool_use", "id": f"call_{number}", "name": name, "input": {"path": f"{name}/{number}"}}
    result = {"type": "tool_result", "tool_use_id": f"call_{number}", "content": f"{number} " + "word " * size}
    return [
        {"role": "assistant", "content": [*thought, {"type": "text", "text": f"step {number}"}, call]},
        {"role": "user", "content": [result, *([{"type": "text", "text": says}] if says else [])]},
    ]


def body_of(messages: list[Json], *edits: Json, **fields: Any) -> bytes:
    request = {"model": "m", "max_tokens": 10, "messages": messages, "context_management": {"edits": edits}}
    return json.dumps(request | fields, separators=(",", ":")).encode()


def edit(messages: list[Json], *edits: Json, **fields: Any) -> tuple[MessagesRequest, list[Json]]:
    return edit_context(decode_request(body_of(messages, *edits, **fields)))


def uses(edited: MessagesRequest) -> Iterator[tuple[str, str, Any]]:
    """Yield id, input and result of each call."""
    blocks: list[Json] = [
        msgspec.json.decode(block.raw if type(block) is UnknownBlock else msgspec.json.encode(block))
        for message in edited.messages
        for block in message.blocks
    ]
    results = {block["tool_use_id"]: block["content"] for block in blocks if "tool_use_id" in block}
    for block in blocks:
        if block["type"].endswith("tool_use"):
            yield block["id"], json.dumps(block["input"]), results.get(block["id"], "")


def cleared(edited: MessagesRequest) -> list[str]:
    return [call_id for call_id, given, result in uses(edited) if result == CLEARED or given == "{}"]


def by_uses(above: int, keep: int | None = None, **fields: Any) -> Json:
    edit: Json = {"type": USES, "trigger": {"type": "tool_uses", "value": above}, **fields}
    return edit if keep is None else edit | {"keep": {"type": "tool_uses", "value": keep}}


HELLO: Json = {"role": "user", "content": "hello"}
FIVE = [HELLO, *(message for number in range(5) for message in step(number))]


NOT_MADE: dict[str, str] = {}
"""Edit of the SDK that the proxy does not make → reason."""


def test_each_edit_of_the_sdk_is_made_or_the_reason_is_stated() -> None:
    types = {kind for edit in get_args(sdk.Edit) for kind in get_args(get_type_hints(edit)["type"])}
    assert types == EDITS.keys() | NOT_MADE.keys()
    assert not EDITS.keys() & NOT_MADE.keys()


@pytest.mark.parametrize(
    "place",
    [
        "conformance/messages_conformance/backends/messages/editing.py",
        "conformance/messages_conformance/backends/messages/shapes.py",
        "conformance/messages_conformance/checks/*.toml",
        "docs/guide/api-on-every-model.md",
        "tests/golden_texts/requests.txt",
        "tests/growth/rows_requests.py",
        "tests/integration/python_sdk/*.py",
        "tests/matrix/features.toml",
        "tests/support/edited_sessions.py",
        "tests/unit/messages/test_context_editing.py",
    ],
)
def test_each_edit_is_checked_and_described(place: str) -> None:
    text = "".join(file.read_text("utf-8") for file in ROOT.glob(place))
    assert [kind for kind in EDITS if kind not in text] == []


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_requires_thinking_if_the_strict_server_refuses_it_without(kind: str) -> None:
    body = json.loads(body_of([HELLO], {"type": kind}))
    refused = {}
    for thinking in ({"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}):
        violations = check_body(body | {"thinking": thinking}, MODELS["claude-sonnet-4-5"])
        refused[thinking["type"]] = any(kind in violation.message for violation in violations)
    assert refused == {"disabled": EDITS[kind].requires_thinking, "enabled": False}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (by_uses(4), ["call_0", "call_1"]),
        (by_uses(5), []),
        (by_uses(4, keep=0), ["call_0", "call_1", "call_2", "call_3"]),  # the last one is not read yet
        (by_uses(1, keep=4), ["call_0"]),
        (by_uses(1, keep=9), []),
        ({"type": USES}, []),
        ({"type": USES, "trigger": {"type": "input_tokens", "value": 500}}, ["call_0", "call_1"]),
        ({"type": USES, "trigger": {"type": "input_tokens", "value": 9_000}}, []),
        (by_uses(4, exclude_tools=["read"]), []),
        (by_uses(4, exclude_tools=["write"]), ["call_0", "call_1"]),
        (by_uses(4, clear_at_least={"type": "input_tokens", "value": 100_000}), []),
    ],
)
def test_the_oldest_results_are_cleared_above_the_trigger(given: Json, expected: list[str]) -> None:
    edited, applied = edit(FIVE, given)
    assert cleared(edited) == expected
    assert [one["cleared_tool_uses"] for one in applied] == ([len(expected)] if expected else [])
    before, after = (list(uses(decode_request(body_of(FIVE)))), list(uses(edited)))
    assert [one for one in before if one[0] not in expected] == [one for one in after if one[0] not in expected]


def test_a_result_that_is_shorter_than_the_text_in_its_place_is_cleared() -> None:
    """The API counts uses, and replaces the oldest results whatever their size (platform.claude.com, "Context editing",
    read 2026-11-29).
    """
    short = [HELLO, *(message for number in range(5) for message in step(number))]
    for message in short[2::2]:
        message["content"][0]["content"] = "ok"
    edited, applied = edit(short, by_uses(4))
    assert cleared(edited) == ["call_0", "call_1"]
    assert applied == [{"type": USES, "cleared_tool_uses": 2, "cleared_input_tokens": 0}]
    at_least = {"type": "input_tokens", "value": 1}
    assert edit(short, by_uses(4, clear_at_least=at_least))[1] == []
    edited, applied = edit(short, by_uses(4, clear_at_least=at_least, clear_tool_inputs=True))
    assert applied == []  # the texts are longer than results and inputs


def test_unknown_fields_of_an_edit_are_noted() -> None:
    edits = [by_uses(4, of_the_future=1, another=2), {"type": THINKING, "keep": "all", "keeep": 1}, {"type": "new"}]
    request = decode_request(body_of(FIVE, *edits))
    noted = [(note.field, note.reason) for note in prepare(request, LIMITS).notes]
    assert [one for one in noted if one[0].startswith("context_management")] == [
        ("context_management", "the proxy edits the conversation, and counts tokens by its own estimate"),
        ("context_management.edits.0", "unknown fields have no effect: another, of_the_future"),
        ("context_management.edits.1", "unknown fields have no effect: keeep"),
        ("context_management", "an edit of an unknown type is not made"),
    ]


def test_the_default_trigger_is_100_000_tokens_of_the_whole_request() -> None:
    long = [HELLO, *(message for number in range(5) for message in step(number, size=15_000))]
    assert edit(long, {"type": USES})[1] == []
    edited, applied = edit(long, {"type": USES}, system="rule " * 60_000)
    assert cleared(edited) == ["call_0", "call_1"]
    assert 25_000 < applied[0]["cleared_input_tokens"] < 35_000


@pytest.mark.parametrize(
    ("inputs", "emptied"), [(None, []), (False, []), (True, [0, 1]), (["write"], [1]), ([], []), (["other"], [])]
)
def test_inputs_are_removed_of_all_or_of_named_tools(inputs: Any, emptied: list[int]) -> None:
    messages = [HELLO, *step(0), *step(1, "write"), *step(2), *step(3)]
    edited, _ = edit(messages, by_uses(1, keep=2, clear_tool_inputs=inputs))
    assert cleared(edited) == ["call_0", "call_1"]
    assert [number for number, (_, given, _) in enumerate(uses(edited)) if given == "{}"] == emptied


CITED: Json = {"type": "search_result", "source": "a.example", "title": "A", "citations": {"enabled": True}}
CITED["content"] = [{"type": "text", "text": "word " * 100}]


@pytest.mark.parametrize("needed", [{"type": "tool_reference", "tool_name": "Monitor"}, CITED])
def test_results_that_load_tools_or_are_cited_stay(needed: Json) -> None:
    messages = [HELLO, *step(0, "Search"), *step(1), *step(2)]
    messages[2]["content"][0]["content"] = [needed]
    edited, applied = edit(messages, by_uses(1, keep=0, clear_tool_inputs=True))
    assert [one["cleared_tool_uses"] for one in applied] == [1]
    assert edited.messages[:3] == decode_request(body_of(messages)).messages[:3]


FOUND: Json = {"type": "web_search_result", "url": "https://a.example", "title": "word " * 60, "encrypted_content": ""}
PAGE: Json = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word " * 60}}
SERVER_RESULTS: dict[str, Any] = {
    "web_search": [FOUND],
    "web_fetch": {"type": "web_fetch_result", "url": "https://a.example", "content": PAGE},
    "bash_code_execution": {"type": "bash_code_execution_result", "stdout": "word " * 60, "return_code": 0},
    "tool_search": {
        "type": "tool_search_tool_search_result",
        "tool_references": [{"type": "tool_reference", "tool_name": f"tool_{number}"} for number in range(60)],
    },
    "mcp": [{"type": "text", "text": "word " * 60}],
}


def server_use(number: int, tool: str) -> list[Json]:
    """Return a call of a server tool with its result, which stand in one reply."""
    kind, name = ("mcp_tool_use", "find") if tool == "mcp" else ("server_tool_use", tool)
    call = {"type": kind, "id": f"srvtoolu_{number}", "name": name, "input": {"query": f"question {number}"}}
    result = {"type": f"{tool}_tool_result", "tool_use_id": call["id"], "content": SERVER_RESULTS[tool]}
    return [call, result]


def shown(edited: MessagesRequest) -> list[str]:
    """Return the texts of the conversation as another model reads them."""
    return [
        bytes(block.text).decode() if type(block) is TextBlock else type(block).__name__
        for message in prepare(edited, LIMITS).request.messages
        for block in message.blocks
    ]


@pytest.mark.parametrize(
    ("tool", "named", "is_cleared"),
    [
        ("web_search", "web_search", True),
        ("web_fetch", "web_fetch", True),
        ("bash_code_execution", "bash_code_execution", True),
        ("mcp", "find", True),
        ("tool_search", "tool_search", False),
    ],
)
def test_results_of_server_tools_are_cleared_like_others(tool: str, named: str, is_cleared: bool) -> None:
    says = {"type": "text", "text": "I know."}
    messages = [HELLO, {"role": "assistant", "content": [*server_use(0, tool), says]}, HELLO]
    edited, applied = edit(messages, by_uses(1, keep=0))
    assert applied == []
    more = [*messages[:2], *(message for number in range(2) for message in step(number))]
    edited, applied = edit(more, by_uses(1, keep=0))
    (report,) = applied
    assert report["cleared_tool_uses"] == 1 + is_cleared
    before = count_context(decode_request(body_of(more)))
    assert before - count_context(edited) == pytest.approx(report["cleared_input_tokens"], abs=2)
    texts = shown(edited)
    assert (json.dumps(CLEARED) in texts) == is_cleared
    assert [text for text in texts if "I know" in text] == ['"I know."']
    edited, _ = edit(more, by_uses(1, keep=0, clear_tool_inputs=True))
    assert any("question 0" in text for text in shown(edited)) != is_cleared
    edited, applied = edit(more, by_uses(1, keep=0, exclude_tools=[named]))
    assert [one["cleared_tool_uses"] for one in applied] == [1]
    assert edited.messages[1] == decode_request(body_of(more)).messages[1]


def test_a_result_is_read_if_the_same_reply_goes_on_behind_it() -> None:
    """A model calls server tools several times in one reply. What it has not read when the reply ends stays."""
    searches = [server_use(number, "web_search") for number in range(4)]
    says = {"type": "text", "text": "I know."}
    for reply, expected in (
        ([*searches[0], *searches[1], says], 2),
        ([*searches[0], *searches[1]], 1),
        ([searches[0][0], searches[1][0], searches[0][1], searches[1][1]], 0),
        ([searches[0][0], searches[1][0], searches[0][1], searches[1][1], says], 2),
        ([searches[0][0], searches[1][0], searches[0][1], says], 0),
    ):
        _, applied = edit([HELLO, {"role": "assistant", "content": reply}, HELLO], by_uses(1, keep=0))
        assert sum(one["cleared_tool_uses"] for one in applied) == expected


def test_a_reply_that_is_continued_is_not_cleared_within() -> None:
    """The proxy runs the tools of a reply in several calls. Its beginning stays equal, so that the cache serves it."""
    reply = [block for number in range(5) for block in server_use(number, "web_search")]
    for end in range(2, len(reply) + 1, 2):
        assert edit([HELLO, {"role": "assistant", "content": reply[:end]}], by_uses(1, keep=0))[1] == []


def test_content_that_cannot_be_decoded_is_refused_with_its_path() -> None:
    messages = [HELLO, *step(0), *step(1), *step(2)]
    messages[2]["content"][0]["content"] = [{"type": "tool_result", "tool_use_id": "a"}]
    edited, applied = edit(messages, by_uses(1))
    assert applied == []
    with pytest.raises(InvalidRequest) as refused:
        prepare(edited, LIMITS)
    assert refused.value.message == (
        "messages.2.content.0.content.0.type: Input should be a type of block that a tool_result can contain, "
        'got "tool_result"'
    )


def test_a_summary_replaces_what_is_before_it() -> None:
    summary = {"role": "assistant", "content": [{"type": "compaction", "content": "The work so far."}]}
    messages = [*FIVE, summary, HELLO, *step(5), *step(6)]
    edited, _ = edit(messages, by_uses(2, keep=0))
    assert cleared(edited) == []
    edited, _ = edit([*messages, *step(7)], by_uses(2, keep=0))
    assert cleared(edited) == ["call_5", "call_6"]


def test_repeated_call_ids_are_different_uses() -> None:
    messages = [HELLO, *step(0), *step(1), *step(0), *step(1)]
    edited, _ = edit(messages, by_uses(1, keep=2))
    contents = [msgspec.json.decode(block.content) for message in edited.messages[2::2] for block in message.blocks[:1]]
    assert [content == CLEARED for content in contents] == [True, True, False, False]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"type": "thinking_turns", "value": 1}, [0, 1]),
        ({"type": "thinking_turns", "value": 2}, [0]),
        ({"type": "thinking_turns", "value": 3}, []),
        ({"type": "all"}, []),
        ("all", []),
        (None, [0, 1]),
    ],
)
def test_the_thinking_of_earlier_turns_is_removed(keep: Any, expected: list[int]) -> None:
    turns = [[HELLO, *step(3 * turn), *step(3 * turn + 1, says="go on"), *step(3 * turn + 2)] for turn in range(3)]
    answer = {"role": "assistant", "content": "done"}
    messages = [message for turn in turns for message in (*turn, answer)][:-1]
    edited, applied = edit(messages, {"type": THINKING, "keep": keep})
    thinks = [any(type(block) is ThinkingBlock for block in message.blocks) for message in edited.messages]
    size = len(turns[0]) + 1
    assert [turn for turn in range(3) if not any(thinks[turn * size : (turn + 1) * size])] == expected
    assert [one["cleared_thinking_turns"] for one in applied] == ([len(expected)] if expected else [])
    assert sum(thinks) == 3 * (3 - len(expected))


THOUGHT: Json = {"type": "thinking", "thinking": "thought " * 20, "signature": "s"}
ANSWER: Json = {"type": "text", "text": "done"}
SUMMARY: Json = {"type": "compaction", "content": "It was long."}


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        pytest.param([[THOUGHT, ANSWER], [THOUGHT], [ANSWER]], [[ANSWER], [THOUGHT], [ANSWER]], id="only thinking"),
        pytest.param([[THOUGHT], [THOUGHT, ANSWER]], None, id="only thinking first"),
        pytest.param([[THOUGHT, SUMMARY], [THOUGHT, ANSWER]], None, id="thinking before a summary"),
        pytest.param([[SUMMARY, THOUGHT], [THOUGHT, ANSWER]], [[SUMMARY], [THOUGHT, ANSWER]], id="behind a summary"),
    ],
)
def test_turns_with_thinking_behind_the_summary_are_counted(
    replies: list[list[Json]], expected: list[list[Json]] | None
) -> None:
    """A reply of nothing but thinking counts as the API says, but keeps it. What a summary replaces does not count."""
    contents = [[HELLO, {"role": "assistant", "content": reply}] for reply in replies]
    messages = [message for turn in contents for message in turn] + [HELLO]
    edited, applied = edit(messages, {"type": THINKING})
    shown = [{"role": "assistant", "content": reply} for reply in expected or replies]
    assert edited.messages[1::2] == decode_request(body_of(shown)).messages
    assert [one["cleared_thinking_turns"] for one in applied] == ([] if expected is None else [1])


def test_edits_are_reported_in_their_order() -> None:
    messages = [*FIVE, {"role": "assistant", "content": "done"}, HELLO, *step(5)]
    for edits in ([by_uses(1), {"type": THINKING}], [{"type": THINKING}, by_uses(1)]):
        _, applied = edit(messages, *edits, {"type": "compact_20260112"}, {"type": "clear_of_the_future"})
        assert [one["type"] for one in applied] == [one["type"] for one in edits]


def test_the_edits_of_the_latest_call_are_reported() -> None:
    messages = [block for number in range(5) for block in step(number)]
    given = decode_request(body_of(messages, by_uses(1, 1)))
    summarized = decode_request(body_of(messages[:4], by_uses(1, 1)))
    editor = ContextEditor(given)
    reported: list[list[int]] = []
    calls: list[Callable[[], object]] = [lambda: editor.edit(summarized), editor.find_removed]
    for call in calls * 2:
        call()
        reported.append([edit["cleared_tool_uses"] for edit in editor.applied])
    assert reported == [[1], [4], [1], [4]]


def test_a_moved_boundary_wins_at_least_what_is_asked() -> None:
    given = by_uses(1, keep=1, clear_at_least={"type": "input_tokens", "value": 250})
    messages = [HELLO, *(message for number in range(20) for message in step(number))]
    reports = [edit(messages[:end], given)[1] for end in range(3, len(messages) + 1, 2)]
    numbers = [sum(one["cleared_tool_uses"] for one in applied) for applied in reports]
    tokens = [0, *(sum(one["cleared_input_tokens"] for one in applied) for applied in reports)]
    assert numbers == [number // 4 * 4 for number in range(20)]
    assert min(after - before for before, after in itertools.pairwise(tokens) if after != before) >= 250


# Any conversation


NAMES = ("read", "write", "memo")


@st.composite
def conversations(draw: st.DrawFn) -> list[Json]:
    messages = [HELLO]
    for number in range(draw(st.integers(0, 12))):
        name, size = draw(st.sampled_from(NAMES)), draw(st.integers(0, 80))
        messages += step(number, name, size=size, thinks=draw(st.booleans()), says=draw(st.sampled_from(("", "hm"))))
        for place in range(draw(st.integers(0, 2))):
            said = [{"type": "text", "text": "found"}] if draw(st.booleans()) else []
            use = server_use(10 * number + place, draw(st.sampled_from([*SERVER_RESULTS])))
            messages[-2]["content"] = [*use, *said, *messages[-2]["content"]]
        if draw(st.integers(0, 3)) == 0:
            messages += [{"role": "assistant", "content": "done"}, {"role": "user", "content": "and now?"}]
    return messages


CLEARING = st.fixed_dictionaries(
    {
        "trigger": st.one_of(
            st.builds(lambda value: {"type": "tool_uses", "value": value}, st.integers(1, 8)),
            st.builds(lambda value: {"type": "input_tokens", "value": value}, st.integers(1, 1_500)),
        ),
        "keep": st.builds(lambda value: {"type": "tool_uses", "value": value}, st.integers(0, 5)),
        "clear_at_least": st.builds(lambda value: {"type": "input_tokens", "value": value}, st.integers(0, 300)),
        "exclude_tools": st.lists(st.sampled_from(NAMES), max_size=2),
        "clear_tool_inputs": st.one_of(st.booleans(), st.lists(st.sampled_from(NAMES), max_size=2)),
    }
)


def texts(request: MessagesRequest) -> list[Block]:
    return [block for message in request.messages for block in message.blocks if type(block) is TextBlock]


@settings(deadline=None)
@given(conversations(), CLEARING, st.integers(1, 4))
def test_what_is_cleared_only_grows_and_nothing_else_changes(messages: list[Json], given: Json, turns: int) -> None:
    edits = ({"type": USES, **given}, {"type": THINKING, "keep": {"type": "thinking_turns", "value": turns}})
    before: list[str] = []
    tokens = 0
    for end in range(1, len(messages) + 1, 2):
        edited, applied = edit(messages[:end], *edits)
        now = cleared(edited)
        assert now[: len(before)] == before
        names = {block["id"]: block["name"] for one in messages for block in one["content"] if "name" in block}
        assert not {names[call] for call in now} & set(given["exclude_tools"])
        won = sum(one["cleared_input_tokens"] for one in applied if one["type"] == USES)
        least = given["clear_at_least"]["value"]  # 0: results are cleared that are shorter than the text in their place
        assert won == tokens or (len(now) > len(before) and (won - tokens >= least or not least))
        before, tokens = now, won
        original = decode_request(body_of(messages[:end]))
        assert texts(edited) == texts(original)
        assert [one[0] for one in uses(edited)] == [one[0] for one in uses(original)]
        assert [message.role for message in edited.messages] == [message.role for message in original.messages]
        prepared = prepare(edited, LIMITS)
        assert {note for note in prepared.notes if note.field.startswith("messages")} <= {
            *prepare(original, LIMITS).notes
        }


@settings(deadline=None)
@given(conversations(), CLEARING)
def test_an_instance_that_knows_the_conversation_removes_the_same(messages: list[Json], given: Json) -> None:
    histories = Histories(min_bytes=300)
    edits = ({"type": USES, **given}, {"type": THINKING})
    for end in range(1, len(messages) + 1, 2):
        body = body_of(messages[:end], *edits)
        conversation = histories.find("client", {}, body)
        assert conversation is not None
        request = decode_request(body, known=conversation.known)
        histories.learn(conversation, body, request)
        fresh = decode_request(body)
        assert edit_context(request)[1] == edit_context(fresh)[1]
        edited = edit_context(request)[0]
        assert edited.messages == edit_context(fresh)[0].messages
        assert request.messages == fresh.messages
        assert prepare(edited, LIMITS).request.messages == prepare(edit_context(fresh)[0], LIMITS).request.messages


def test_requests_with_other_edits_of_as_much_share_nothing() -> None:
    """Two requests of a conversation, of which one spares what the other clears, as side calls of a client do."""
    histories = Histories(min_bytes=300)
    messages = [HELLO, *step(0, "read"), *step(1, "write"), *step(2), *step(3)]
    spares_write = by_uses(1, keep=2, exclude_tools=["write"])
    spares_read = by_uses(1, keep=2, exclude_tools=["read"])
    found = []
    for end, asked in ((7, spares_write), (9, spares_write), (9, spares_read), (9, spares_write)):
        body = body_of(messages[:end], asked)
        conversation = histories.find("client", {}, body)
        assert conversation is not None
        request = decode_request(body, known=conversation.known)
        histories.learn(conversation, body, request)
        found.append(cleared(edit_context(request)[0]))
    assert found == [["call_0"], ["call_0"], ["call_1"], ["call_0"]]


def without_results(request: MessagesRequest) -> list[Json]:
    messages: list[Json] = [json.loads(msgspec.json.encode(message.role)) for message in request.messages]
    blocks = [block for message in request.messages for block in message.blocks]
    raws = [block.raw if type(block) is UnknownBlock else msgspec.json.encode(block) for block in blocks]
    return [*messages, *(block for raw in raws if "tool_use_id" not in (block := msgspec.json.decode(raw)))]


@settings(deadline=None)
@given(conversations(), CLEARING)
def test_the_body_for_a_server_with_the_messages_api_loses_the_same(messages: list[Json], asked: Json) -> None:
    body = body_of(messages, {"type": USES, **asked}, {"type": THINKING}, {"type": "compact_20260112"})
    request = decode_request(body)
    removed, applied = find_removed(request)
    edited, expected = decode_request(edit_conversation(body, removed)), edit_context(request)[0]
    assert edited.context_edits is None
    assert without_results(edited) == without_results(expected)
    for one, other in zip(uses(edited), uses(expected), strict=True):
        assert one[:2] == other[:2]
        assert one[2] == other[2] or (other[2] == CLEARED and (one[2] == [] or one[2]["error_code"] == "unavailable"))
    assert (edited.messages == request.messages) == (not applied)


@settings(deadline=None)
@given(conversations(), st.integers(1, 400))
def test_the_context_only_grows_until_a_summary_replaces_it(messages: list[Json], words: int) -> None:
    """So a conversation that has reached a trigger stays above it until it is summarized."""
    counts = [count_context(decode_request(body_of(messages[: end + 1]))) for end in range(len(messages))]
    assert counts == sorted(counts)
    assert len({*counts}) == len(counts)
    summary = {"role": "assistant", "content": [{"type": "compaction", "content": "word " * words}]}
    behind = [count_context(decode_request(body_of([*messages[:end], summary, HELLO]))) for end in range(len(messages))]
    assert len({*behind}) == 1


@pytest.mark.parametrize(
    ("model", "keeps_all"),
    [
        ("claude-opus-5-5", True),
        ("claude-opus-4-5-20251101", True),
        ("anthropic/claude-opus-4.6", True),
        ("claude-sonnet-4-6", True),
        ("us.anthropic.claude-sonnet-5-5", True),
        ("claude-fable-5", True),
        ("claude-mythos-preview", True),
        ("claude-opus-4-1-20250805", False),
        ("claude-opus-4-20250514", False),
        ("claude-sonnet-4-5", False),
        ("claude-3-5-sonnet-20241022", False),
        ("claude-haiku-5-5", False),
        ("openai/gpt-5.5", False),
    ],
)
def test_without_keep_the_model_of_the_request_decides_which_thinking_stays(model: str, keeps_all: bool) -> None:
    """Source: platform.claude.com, "Context editing", read 2026-11-29. The strict server does the same."""
    messages: list[Json] = []
    for turn in range(3):
        thought = {"type": "thinking", "thinking": f"thought {turn} " * 20, "signature": "s"}
        messages += [HELLO, {"role": "assistant", "content": [thought, {"type": "text", "text": "Done."}]}]
    messages.append(HELLO)
    for keep in (None, {"type": "thinking_turns", "value": 1}, "all"):
        asked = {"type": THINKING} | ({} if keep is None else {"keep": keep})
        _, applied = edit(messages, asked, model=model)
        expected = [] if keep == "all" or (keep is None and keeps_all) else [2]
        assert [one["cleared_thinking_turns"] for one in applied] == expected
        _, natively = edit_natively(json.loads(body_of(messages, asked, model=model)))
        assert [one["cleared_thinking_turns"] for one in natively] == expected
