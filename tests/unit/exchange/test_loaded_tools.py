"""Tools that a tool search loads: the beginning of the prompt stays as it was, and calls reach the client by name."""

import gc
import itertools
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.deltas import Delta, Text, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.engine.messages.loaded_tools import CALLER_NAME, PLACEHOLDER_NAME, LoadedToolCalls
from anthropic_proxy.engine.wires import openai_chat
from tests.support.cache_sessions import RELAYS, ROWS, Client, CostModel, Row, choice_table, run_session
from tests.support.decoding import new_call, new_limits
from tests.support.fake_upstream import KEYS, FakeUpstream, reply
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.paths import ROOT

NAMES = {"WebFetch", "mcp__a__b.c"}


def convert(pieces: list[str], names: set[str] = NAMES) -> tuple[str, str]:
    """Return name and arguments of a call of the constant tool whose arguments arrive in these pieces."""
    reader = LoadedToolCalls(names)
    deltas = reader.feed([ToolCall(0, "toolu_1", CALLER_NAME)])
    for piece in pieces:
        deltas += reader.feed([ToolArgs(0, piece)])
    deltas += reader.feed([ToolEnd(0)])
    call, *arguments, end = deltas
    assert isinstance(call, ToolCall)
    assert (call.key, call.id, end) == (0, "toolu_1", ToolEnd(0))
    return call.name, "".join(one.json for one in arguments if isinstance(one, ToolArgs))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[],: é'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='ab"\\{}'), inner, max_size=3),
    max_leaves=8,
)


@given(
    arguments=st.dictionaries(st.text(max_size=5), values, max_size=3),
    name=st.sampled_from(sorted(NAMES)),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    indent=st.sampled_from([None, 1]),
)
def test_arguments_are_delivered_as_the_model_wrote_them(
    arguments: dict[str, object], name: str, cuts: list[int], indent: int | None
) -> None:
    written = json.dumps(arguments, indent=indent)
    text = f'{{"name": {json.dumps(name)}, "arguments": {written}}}'
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert convert(pieces) == (name, written)


def test_arguments_are_passed_on_as_they_arrive() -> None:
    reader = LoadedToolCalls(NAMES)
    call = ToolCall(7, "toolu_1", CALLER_NAME)
    assert reader.feed([call, ToolArgs(7, '{"name":"WebFetch",')]) == []
    started: list[Delta] = [ToolCall(7, "toolu_1", "WebFetch"), ToolArgs(7, '{"url":"a')]
    assert reader.feed([ToolArgs(7, '"arguments":{"url":"a')]) == started
    assert reader.feed([ToolArgs(7, '"}'), Text("x")]) == [ToolArgs(7, '"}'), Text("x")]
    assert reader.feed([ToolArgs(7, "}"), ToolEnd(7)]) == [ToolEnd(7)]


@pytest.mark.parametrize(("spaces", "is_passed_on"), [(450, True), (530, False)])
def test_a_name_behind_many_spaces_is_read_at_the_end_of_the_call(spaces: int, is_passed_on: bool) -> None:
    """Otherwise, each further space would be searched for the name again."""
    reader = LoadedToolCalls(NAMES)
    call = ToolCall(7, "toolu_1", CALLER_NAME)
    assert reader.feed([call, ToolArgs(7, "{" + " " * spaces)]) == []
    text, started = '{"url":"a"}', ToolCall(7, "toolu_1", "WebFetch")
    found = reader.feed([ToolArgs(7, f'"name":"WebFetch","arguments":{text}')])
    assert [*found, *reader.feed([ToolArgs(7, "}"), ToolEnd(7)])] == [started, ToolArgs(7, text), ToolEnd(7)]
    assert bool(found) == is_passed_on


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"Bash","arguments":{}}',
        '{"name":"WebFetch","arguments":[]}',
        '{"name":"WebFetch","arguments":"[]"}',
        '{"name":"WebFetch","arguments":{},"more":1}'.replace("WebFetch", "Monitor"),
        '{"arguments":{"url":"a"}}',
        '{"name":"WebFetch","url":"a"}',
        '{"name":"WebFetch","arguments":',
        '{"name":["WebFetch"],"arguments":{}}',
        "",
        "[" * 2_000,
    ],
)
def test_a_call_of_no_loaded_tool_stays_as_it_is(text: str) -> None:
    """The client reports an unknown tool, and the model calls again."""
    assert convert([text]) == (CALLER_NAME, text)


@pytest.mark.parametrize(
    "text",
    [
        '{"arguments":{"url":"a"},"name":"WebFetch"}',
        '{"name":"WebFetch","arguments":"{\\"url\\":\\"a\\"}"}',
        ' {"name":"WebFetch","arguments":{"url":"a"} } ',
        '{"name":"WebFetch","arguments":{"url":"a"},"more":1}',
        '{"name":"WebFetch","more":1,"arguments":{"url":"a"}}',
        '{"arguments":{"url":"a"},"name":"WebFetch","more":{}}',
    ],
)
def test_other_forms_of_a_call_are_read(text: str) -> None:
    assert convert([text]) == ("WebFetch", '{"url":"a"}')
    assert convert(list(text)) == ("WebFetch", '{"url":"a"}')


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert convert(['{"name":"WebFetch"}']) == ("WebFetch", "{}")


@pytest.mark.parametrize("row", ROWS + RELAYS, ids=lambda row: row.title)
@pytest.mark.sample(3)
async def test_a_session_with_three_loads_stays_in_the_cache(row: Row) -> None:
    figures = await run_session(row)
    assert figures.cached_share >= 0.95


@pytest.mark.parametrize("row", ROWS + RELAYS, ids=lambda row: row.title)
@pytest.mark.sample(3)
async def test_a_tool_that_is_searched_again_after_a_compaction_stays_in_the_list(row: Row) -> None:
    """Claude Code declares it in the first request after the compaction, in which no search names it."""
    figures = await run_session(row, "compacting")
    assert figures.changes == []
    assert figures.cached_share >= 0.9


@pytest.mark.parametrize("row", ROWS + RELAYS, ids=lambda row: row.title)
@pytest.mark.sample(3)
async def test_a_summary_without_the_exchange_that_loaded_a_tool_changes_nothing(row: Row) -> None:
    """Claude Code declares the tool in the request for the summary. The session goes on if the user cancels it."""
    figures = await run_session(row, "summarizing")
    assert figures.changes == []
    assert figures.cached_share >= 0.9


@pytest.mark.parametrize("row", ROWS + RELAYS, ids=lambda row: row.title)
@pytest.mark.sample(3)
async def test_a_summary_before_the_first_request_with_a_loaded_tool_changes_nothing(row: Row) -> None:
    figures = await run_session(row, "summarizing_at_once")
    assert figures.changes == []
    assert figures.cached_share >= 0.9


LOADING: list[dict[str, Any]] = [
    {"role": "user", "content": "Look for news."},
    {"role": "assistant", "content": "I do."},
    {"role": "user", "content": "Tell the team."},
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"query": "chat"}}],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_1",
                "content": [{"type": "tool_reference", "tool_name": "SlackSend"}],
            }
        ],
    },
]
NEXT_TURN = [{"role": "assistant", "content": "Loaded."}, {"role": "user", "content": "Go on."}]
CLEARED = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "[Old tool result content cleared]"}


@pytest.mark.parametrize(
    ("later", "is_listed"),
    [
        ([*LOADING[:4], {"role": "user", "content": [CLEARED]}, *NEXT_TURN], True),
        ([LOADING[0], {"role": "assistant", "content": "Summary: no news."}, NEXT_TURN[1]], True),
        ([*LOADING[:2], {"role": "user", "content": "Write a summary."}], False),
    ],
    ids=["cleared result", "compaction that keeps the first message", "request for a summary"],
)
async def test_a_loaded_tool_is_listed_unless_the_messages_end_before_its_search(
    later: list[dict[str, Any]], is_listed: bool
) -> None:
    listed = []

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        listed.append([tool["function"]["name"] for tool in body["tools"]])
        return reply(False)

    proxy = ProxyHarness(FakeUpstream(answer), **KEYS)
    schema = {"type": "object"}
    first: list[dict[str, Any]] = [{"name": "ToolSearch", "input_schema": schema}]
    first.append({"name": PLACEHOLDER_NAME, "input_schema": schema, "defer_loading": True})
    loaded = [*first, {"name": "SlackSend", "input_schema": schema, "defer_loading": True}]
    user_id = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})
    requests = [(LOADING[:3], first), (LOADING, loaded), (later, loaded), ([*later, *NEXT_TURN], loaded)]
    for messages, tools in requests[: 4 if is_listed else 3]:
        sink = await proxy.post(messages=messages, tools=tools, metadata={"user_id": user_id})
        assert sink.error is None
    before, after = ["ToolSearch", CALLER_NAME], ["ToolSearch", CALLER_NAME, "SlackSend"]
    assert listed == [before, before, *([after, after] if is_listed else [before])]


@pytest.mark.parametrize("client", ["declaring", "declaring_with_placeholder"])
@pytest.mark.parametrize("row", ROWS[:4] + RELAYS[:1], ids=lambda row: row.title)
@pytest.mark.sample(3)
async def test_a_client_that_declares_all_tools_from_the_start_loads_the_last_one_without_a_change(
    row: Row, client: Client
) -> None:
    figures = await run_session(row, client)
    assert figures.changes == []
    assert figures.cached_share >= 0.95


@pytest.mark.parametrize("row", [row for row in ROWS if row.price], ids=lambda row: row.title)
def test_the_constant_tool_costs_less_than_a_longer_list(row: Row) -> None:
    assert row.price is not None
    listed, constant = CostModel().costs(row.price)
    assert constant < listed


def test_the_documented_choice_is_reproduced() -> None:
    """If this fails: `python -m tests.support.cache_sessions` prints the table."""
    assert choice_table() in (ROOT / "docs/contributing/decisions/0049-loaded-tools.md").read_text("utf-8")


@pytest.mark.parametrize("form", ["listed", "caller", "items"])
def test_large_lists_of_tools_are_not_kept(form: str) -> None:
    """Clients choose the size of a list, and many caches have lists as keys."""

    def encode(number: int) -> None:
        tools = [
            {
                "name": f"tool_{number}_{place}",
                "description": "d" * 100_000,
                "input_schema": {"type": "object"},
                "defer_loading": True,
            }
            for place in range(10)
        ]
        placeholder = {"name": PLACEHOLDER_NAME, "input_schema": {"type": "object"}, "defer_loading": True}
        call = new_call(openai_chat, limits=new_limits(loaded_tools=form), tools=[placeholder, *tools])
        assert openai_chat.WIRE.encode_request(call).body.count(b"d" * 100_000) == 10

    encode(0)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1, 6):
            encode(number)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
