"""The prefix guard: a prompt that does not begin like the one before it is found, whatever the API of the provider."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from random import Random
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.hooks import PrefixChange
from anthropic_proxy.engine.providers import prefix_guard
from anthropic_proxy.engine.providers.prefix_guard import (
    MAX_CONVERSATIONS,
    MAX_KEPT_BYTES,
    MAX_SAMPLED_PROMPTS,
    PrefixGuard,
    Prompt,
)
from anthropic_proxy.engine.providers.vendors import build_config
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.growth import work
from tests.growth.instrument import copy_counting
from tests.support.cache_sessions import RELAYS, ROWS, Row, run_session
from tests.support.fakes.prefix_cache import CachingProvider
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

MARK = {"cache_control": {"type": "ephemeral"}}
CHAT, RESPONSES = (build_config("openai", api).dialect for api in ("chat", "responses"))
UNKNOWN, UNKNOWN_RESPONSES = (build_config("open_models", api).dialect for api in ("chat", "responses"))
counting = copy_counting(prefix_guard)


def count_work(guard: PrefixGuard, prompt: Prompt) -> tuple[int, int]:
    """Return the steps and units of the comparison (`tests.growth.work`). Both belong to the module `counting`."""
    steps, units = work.METER
    guard.compare(prompt)
    return work.METER[work.STEPS] - steps, work.METER[work.UNITS] - units


def lines(topic: str, count: int = 60) -> str:
    return "\n".join(f"{topic}: line {number}" for number in range(count))


class Talk:
    """A long conversation of a client, with a provider that has a prefix cache."""

    def __init__(self, row: Row, turns: int) -> None:
        self.provider = CachingProvider([f"Answer {turn}." for turn in range(turns)])
        self.proxy = ProxyHarness(self.provider, **KEYS | row.settings)
        self.system = [lines("rule", 300)]
        self.tools = [
            {"name": name, "description": lines(name), "input_schema": {"type": "object", "properties": {}}}
            for name in ("Bash", "Edit", "Read")
        ]
        self.messages: list[dict[str, Any]] = []

    async def ask(self, session: str = "one") -> PrefixChange | None:
        self.messages.append({"role": "user", "content": lines(f"question {len(self.messages)}", 20)})
        sink = await self.proxy.post(
            headers={"x-claude-code-session-id": session},
            model="claude-opus-4-5",
            system=[{"type": "text", "text": text} for text in self.system],
            tools=self.tools,
            messages=self.messages,
            metadata={"user_id": json.dumps({"session_id": session})},
        )
        assert sink.error is None, sink.error
        content = (sink.body or json.loads(sink.stream))["content"]
        self.messages.append({"role": "assistant", "content": content})
        return self.proxy.receipts[-1].prefix_change


KEYS = {f"{name}_API_KEY": "key" for name in ("OPENAI", "GEMINI", "MOONSHOT", "XAI")}
GATEWAY = {
    "OPENAI_BASE_URL": "http://gateway.example/v1",
    "OPENAI_WIRE": "messages",
    "BIG_MODEL": "openai/claude-opus-4-6",
}
RELAY = Row("", {"MODEL_OPUS": "anthropic/claude-opus-4-5", "ANTHROPIC_API_KEY": "key"}, "messages")


@pytest.mark.parametrize(
    ("row", "turns"),
    [(ROWS[0], 100), (ROWS[2], 200), (ROWS[3], 100), (ROWS[8], 100)],
    ids=["Responses", "Chat", "Gemini", "Ollama"],
)
@pytest.mark.sample(3)
async def test_a_long_conversation_has_no_change_until_one_is_made(row: Row, turns: int) -> None:
    talk = Talk(row, turns)
    changes = {turns - 50: "system text", turns - 40: "tool 2 (Read)"}
    changes |= {turns - 30: "message 41 (user)", turns - 20: "message 1 (user)"}
    for turn in range(turns):
        part = changes.get(turn)
        if part == "system text":
            talk.system[0] = talk.system[0].replace("rule: line 200", "rule: line two")
        elif part == "tool 2 (Read)":
            talk.tools.insert(1, talk.tools.pop())
        elif part == "message 41 (user)":
            talk.messages[40]["content"] += "!"
        elif part is not None:
            talk.messages[0]["content"] = "Now: 10:15\n" + talk.messages[0]["content"]
        change = await talk.ask()
        assert (change.part if change is not None else None) == part, turn
        if change is not None:
            assert change.kind == {"s": "system", "t": "tools", "m": "messages"}[change.part[0]]
            call, before = talk.provider.calls[-1], talk.provider.calls[-2]
            assert change.tokens == pytest.approx(before.tokens - call.cached, rel=0.1)
    written = [line for line in talk.proxy.log.getvalue().splitlines() if "has changed" in line]
    assert len(written) == 1
    assert "the prompt of session one has changed at system text, so about " in written[0]


@pytest.mark.parametrize(
    "row",
    [ROWS[0], ROWS[2], ROWS[3], *RELAYS, Row("Gateway", GATEWAY, "messages")],
    ids=lambda row: row.title,
)
async def test_an_early_message_that_keeps_its_length_is_found_at_once_if_cached_tokens_are_reported(row: Row) -> None:
    talk = Talk(row, 30)
    talk.system = [lines("rule", 3_000)]
    for turn in range(30):
        if turn == 20:
            talk.messages[0]["content"] = talk.messages[0]["content"].replace(
                "question 0: line 3", "question 0: line x"
            )
        change = await talk.ask()
        assert (change and change.part) == ("message 1 (user)" if turn == 20 else None), turn
        if change is not None:
            call, before = talk.provider.calls[-1], talk.provider.calls[-2]
            assert change.tokens == pytest.approx(before.tokens - call.cached, rel=0.1)
    assert talk.proxy.log.getvalue().count("the prompt of session one has changed at message 1 (user), so about ") == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
@pytest.mark.sample(3)
async def test_tools_that_are_loaded_change_the_prompt_only_if_they_are_listed(row: Row) -> None:
    """With placeholder, the proxy keeps the list of tools. Without it, each search adds tools to the list."""
    figures = await run_session(row)
    assert [change.part for change in figures.changes] == []
    figures = await run_session(row, "adding")
    assert [change.part for change in figures.changes] == [
        "tool 4 (Monitor)",
        "tool 9 (mcp__tracker__comment)",
        "tool 8 (WebFetch)",
    ]


class Relayed:
    """A conversation of Claude Code with a server of the Messages API, in the client's own bytes."""

    def __init__(self) -> None:
        def reply(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
            self.sent.append(request.body)
            usage = {"input_tokens": 1_000, "output_tokens": 1, "cache_read_input_tokens": self.cached}
            message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "usage": usage}
            message |= {"content": [{"type": "text", "text": "Yes."}], "stop_reason": self.stop, "stop_sequence": None}
            return FakeResponse(self.status, json.dumps(message).encode(), headers={"content-type": "application/json"})

        self.cached, self.status, self.stop = 0, 200, "end_turn"
        self.sent: list[bytes] = []
        self.proxy = ProxyHarness(reply, **KEYS | RELAY.settings)

    async def ask(self, fields: dict[str, Any], **headers: str) -> PrefixChange | None:
        given = {
            "x-claude-code-session-id": "one",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        body = {"model": "claude-opus-4-5", "max_tokens": 900, **fields}
        client_request = new_client_request(json.dumps(body, separators=(",", ":")).encode(), given)
        await Exchange(self.proxy.services, client_request, RecordingSink()).run()
        return client_request.receipt.prefix_change


def claude_code(turns: int, *, nonce: str = "0a1", **fields: Any) -> dict[str, Any]:
    """Return a request of Claude Code: marks at the end of the system text and of the last message, which move."""
    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        content = [
            {"type": "text", "text": lines(f"reminder {turn}", 20)},
            {"type": "text", "text": lines(f"task {turn}", 20)},
        ]
        messages += [{"role": "user", "content": content if turn % 2 else content[1:]}]
        messages += [{"role": "assistant", "content": [{"type": "text", "text": f"Answer {turn}."}]}]
    messages.pop()
    for message in messages[:-1]:
        if len(message["content"]) == 1 and message["role"] == "user":
            message["content"] = message["content"][0]["text"]
    messages[-1]["content"][-1] |= MARK
    billing = f"x-anthropic-billing-header: cc_version=2.1.330.{nonce}; cc_entrypoint=cli;"
    system = [{"type": "text", "text": billing}, {"type": "text", "text": lines("rule", 200), **MARK}]
    tools = [
        {"name": name, "description": lines(name), "input_schema": {"type": "object"}} for name in ("Bash", "Read")
    ]
    return {"messages": messages, "system": system, "tools": tools, **fields}


async def test_what_anthropic_s_cache_ignores_is_no_change() -> None:
    talk = Relayed()
    for turn in range(1, 12):
        assert await talk.ask(claude_code(turn, nonce=f"{turn:03x}")) is None
    deferred = {"name": "Monitor", "input_schema": {"type": "object"}, "defer_loading": True}
    fields = claude_code(12)
    fields["tools"].insert(1, deferred)
    assert await talk.ask(fields) is None
    fields = claude_code(13)
    fields["tools"].insert(1, {**deferred, "defer_loading": False})
    change = await talk.ask(fields)
    assert change is not None
    assert change.part == "tool 2 (Monitor)"


async def test_the_count_of_the_provider_decides() -> None:
    """A provider that has read nearly all of the prompt from its cache does not care about what has changed."""
    talk = Relayed()
    await talk.ask(claude_code(8))
    talk.cached = 30_000
    fields = claude_code(9)
    fields["tools"].reverse()
    assert await talk.ask(fields) is None


@pytest.mark.parametrize(
    ("second", "headers"),
    [
        ({"tools": []}, {}),
        ({"messages": [{"role": "user", "content": lines("Another conversation.", 300)}]}, {}),
        ({"system": "You are an explorer."}, {"x_claude_code_agent_id": "agent-1"}),
        ({"model": "claude-haiku-4-5", "system": "x"}, {}),
        ({"system": "x"}, {"x_claude_code_session_id": "two"}),
        ({"system": "x"}, {"x_claude_code_session_id": ""}),
    ],
    ids=["a title", "after a compaction", "a subagent", "another model", "another session", "no session"],
)
async def test_another_conversation_is_no_change(second: dict[str, Any], headers: dict[str, str]) -> None:
    talk = Relayed()
    await talk.ask(claude_code(8))
    assert await talk.ask(claude_code(9, **second), **headers) is None
    assert await talk.ask(claude_code(9)) is None
    change = await talk.ask(claude_code(10, system="Rules."))
    assert change is not None
    assert change.part == "system text"


async def test_a_step_back_of_the_user_is_no_change_and_an_edited_message_is_one() -> None:
    talk = Relayed()
    await talk.ask(claude_code(20))
    assert await talk.ask(claude_code(12)) is None
    fields = claude_code(13)
    fields["messages"][8]["content"] = "x" + fields["messages"][8]["content"]
    change = await talk.ask(fields)
    assert change is not None
    assert change.part == "message 9 (user)"
    assert 0.1 < change.share < 0.5


@pytest.mark.parametrize("cached", [0, 30_000])
@pytest.mark.parametrize("turns", [1, 2, 6])
async def test_interleaved_conversations_that_begin_alike_are_no_change(turns: int, cached: int) -> None:
    """Parallel tasks of one agent have the same tools, system text and first turns, then other messages."""
    talk = Relayed()
    talk.cached = cached

    def task(name: str, turn: int, **fields: Any) -> dict[str, Any]:
        body = claude_code(turn, **fields)
        for message in body["messages"][2 * turns - 1 :]:
            blocks = message["content"] if isinstance(message["content"], list) else [message]
            for block in blocks:
                key = "text" if "text" in block else "content"
                block[key] = f"{name}: {lines(name, 200)} {block[key]}"
        return body

    names = ["red", "green", "blue"]
    for turn in range(turns, turns + 6):
        for name in names:
            assert await talk.ask(task(name, turn)) is None, (name, turn)
    talk.cached = 0
    for name in names:
        fields = task(name, turns + 6)
        fields["messages"][2 * turns]["content"] = "An edited message."
        change = await talk.ask(fields)
        assert change is not None
        assert change.part == f"message {2 * turns + 1} (user)"


async def test_a_prompt_that_the_provider_rejected_is_not_compared() -> None:
    talk = Relayed()
    await talk.ask(claude_code(8))
    talk.status = 400
    await talk.ask(claude_code(9, system="Another."))
    talk.status = 200
    assert await talk.ask(claude_code(9)) is None


@pytest.mark.parametrize("row", [ROWS[2], ROWS[8]], ids=["counts of the cache", "no counts of the cache"])
async def test_side_requests_between_two_turns_do_not_end_the_comparison(row: Row) -> None:
    talk = Talk(row, 1_000)
    system, tools, messages = talk.system, talk.tools, talk.messages
    for turn in range(8):
        talk.system, talk.tools, talk.messages = system, tools, messages
        if turn == 6:
            talk.system = system = [system[0].replace("rule: line 200", "rule: line two")]
        change = await talk.ask()
        assert (change.part if change is not None else None) == ("system text" if turn == 6 else None), turn
        for side in range(7):
            talk.system, talk.tools = [lines("title", 300)], []
            talk.messages = [{"role": "user", "content": lines(f"text {turn} {side}", 300)}]
            assert await talk.ask() is None


@pytest.mark.parametrize("side", ["Title of one message.", lines("title", 100)], ids=["short", "long"])
@pytest.mark.parametrize("fields", [{"system": "Write a title."}, {}], ids=["other system text", "same system text"])
async def test_a_side_request_of_one_message_hides_no_change(side: str, fields: dict[str, Any]) -> None:
    """In the bytes of Claude Code, nothing but the model's name stands in front of the messages."""
    relayed = Relayed()
    relayed.cached = 20_000
    for turn in range(17, 20):
        assert await relayed.ask(claude_code(turn)) is None
    relayed.cached = 500
    assert await relayed.ask(claude_code(1, **fields, messages=[{"role": "user", "content": side}])) is None
    changed = claude_code(20)
    changed["messages"][4]["content"] = "x" + changed["messages"][4]["content"][1:]
    change = await relayed.ask(changed)
    assert change is not None
    assert change.part == "message 5 (user)"


@pytest.mark.parametrize("row", [RELAY, *(ROWS[place] for place in (0, 2, 3, 8))], ids=lambda row: row.title or "relay")
@pytest.mark.parametrize("side", ["Title.", lines("title", 100)], ids=["short", "long"])
@pytest.mark.parametrize("shared", ["", lines("reminder", 20)], ids=["one text", "first text of the conversation"])
@pytest.mark.sample(3)
async def test_a_side_request_with_the_beginning_of_the_conversation_hides_no_change(
    row: Row, side: str, shared: str
) -> None:
    talk = Talk(row, 1_000)
    messages, blocks = talk.messages, [{"type": "text", "text": shared}] if shared else []
    for turn in range(31):
        talk.messages = messages
        if turn == 1:
            messages[0]["content"] = [*blocks, {"type": "text", "text": messages[0]["content"]}]
        if turn == 30:
            messages[4]["content"] = "x" + messages[4]["content"][1:]
        change = await talk.ask()
        assert (change and change.part) == ("message 5 (user)" if turn == 30 else None), turn
        if turn > 26:
            talk.messages = [{"role": "user", "content": [*blocks, {"type": "text", "text": side}]}]
            assert await talk.ask() is None


FORMAT = {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"output_config": {"effort": "high"}}, "effort"),
        ({"output_config": {"effort": "medium", **FORMAT}}, "reply schema"),
        ({"thinking": {"type": "disabled"}}, "thinking"),
        ({"tool_choice": {"type": "any"}}, "tool choice"),
        ({"tool_choice": {"type": "auto"}}, None),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, None),
        ({"max_tokens": 800, "temperature": 1}, None),
    ],
)
async def test_a_setting_that_claude_has_in_its_prompt_is_named(changed: dict[str, Any], part: str | None) -> None:
    usual = {"output_config": {"effort": "medium"}, "thinking": {"type": "adaptive"}}
    relayed = Relayed()
    for turn in range(16, 19):
        assert await relayed.ask(claude_code(turn, **usual)) is None
    beside = await relayed.ask(claude_code(19, **usual | changed))
    assert (beside and (beside.kind, beside.part, beside.is_first)) == (part and ("settings", part, True))
    if beside is not None:
        assert beside.tokens == round(beside.share * 1_000)
        assert 0.3 < beside.share < 0.95, "Claude's tools and system text stay in the cache"
    assert await relayed.ask(claude_code(19, **usual)) is None, "the conversation itself goes on as before"
    assert await relayed.ask(claude_code(20, **usual | changed)) is None, "so does the request beside it"
    assert relayed.proxy.log.getvalue().count("has changed at") == (part is not None)


async def test_a_setting_that_the_provider_has_read_from_its_cache_is_no_change() -> None:
    relayed = Relayed()
    for turn in range(16, 19):
        assert await relayed.ask(claude_code(turn, tool_choice={"type": "none"})) is None
    relayed.cached = 30_000
    assert await relayed.ask(claude_code(19, tool_choice={"type": "any"})) is None


@pytest.mark.parametrize(
    ("dialect", "before", "after", "part"),
    [
        (RESPONSES, {"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "high"}}, "effort"),
        (RESPONSES, {"text": FORMAT}, {}, "reply schema"),
        (RESPONSES, {"text": {"verbosity": "low"}}, {}, None),
        (RESPONSES, {"tool_choice": "required"}, {}, None),
        (CHAT, {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, "effort"),
        (CHAT, {"response_format": FORMAT}, {}, "reply schema"),
        (UNKNOWN, {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, None),
        (UNKNOWN_RESPONSES, {"reasoning": {"effort": "low"}}, {}, None),
        (structs.replace(UNKNOWN, prompt_settings=("verbosity",)), {"verbosity": "low"}, {}, "verbosity"),
    ],
)
def test_only_settings_of_the_prompt_of_a_provider_are_named(
    dialect: BaseDialect, before: dict[str, Any], after: dict[str, Any], part: str | None
) -> None:
    guard = PrefixGuard()
    messages: list[dict[str, str]] = []
    for turn, settings in enumerate((before, before, after, after)):
        messages.append({"role": "user", "content": lines(f"question {turn}", 300)})
        body = json.dumps({"messages": messages, **settings}).encode()
        prompt = Prompt(("one", "", "p", "m"), body, settings=dialect.prompt_settings)
        guard.compare(prompt)
        guard.keep(prompt)
        assert (prompt.change.part if prompt.change is not None else None) == (part if turn == 2 else None)


async def test_a_body_that_is_no_request_is_not_compared() -> None:
    guard = PrefixGuard()
    conversation = ("one", "", "anthropic", "m")
    for body in (b"", b"[", b'{"a":1}', b'{"messages":1}', b'{"messages":[],"messages":[1]}', b"\xff" * 9_000):
        found = Prompt(conversation, body)
        guard.compare(found)
        assert found.change is None
        guard.keep(found)


def test_what_is_kept_has_a_bound() -> None:
    guard = PrefixGuard()

    def ask(number: int, size: int) -> bool:
        """Return True if the conversation is known."""
        body = b'{"messages":[{"role":"user","content":"%b"}]}' % (b"%09d" % number * (size // 9))
        found = Prompt((str(number), "", "p", "m"), body)
        guard.compare(found)
        is_known = found.replaced is not None
        guard.keep(found)
        assert guard.kept_bytes <= MAX_KEPT_BYTES
        return is_known

    sizes = {1_000: MAX_CONVERSATIONS, 100_000: MAX_KEPT_BYTES // 100_000}
    for size, count in sizes.items():
        assert [ask(number, size) for number in range(count)] == [False] * count
        assert [ask(number, size) for number in range(count)] == [True] * count
        ask(count + 1, size)
        assert not ask(0, size)
        guard = PrefixGuard()


@pytest.mark.parametrize("place", ["header", "json", "text"])
async def test_ids_of_any_length_are_kept_as_short_ones(place: str) -> None:
    talk, kept = Talk(ROWS[2], 12), list[tuple[str, str]]()
    for number in range(2):
        for length in (256, 257, 2_000_000):
            given = str(number) * length
            ids = {"x-claude-code-session-id": given, "x-claude-code-agent-id": given} if place == "header" else {}
            user_id = f"user_1_session_{given}" if place == "text" else json.dumps({"session_id": given})
            sink = await talk.proxy.post(headers=ids, model="claude-opus-4-5", metadata={"user_id": user_id})
            assert sink.error is None
            digest = given if length == 256 else hashlib.sha256(given.encode()).hexdigest()
            assert sink.receipt.session == digest
            assert sink.receipt.agent == (digest if place == "header" else "")
            kept.append((sink.receipt.session, sink.receipt.agent))
    assert len(set(kept)) == len(kept)


async def test_a_session_with_a_long_id_is_compared() -> None:
    talk = Talk(ROWS[2], 13)
    session = "s" * 100_000
    for _ in range(12):
        assert await talk.ask(session) is None
    talk.system[0] = talk.system[0].replace("rule: line 200", "rule: line two")
    change = await talk.ask(session)
    assert change is not None
    assert change.part == "system text"


@pytest.mark.parametrize("turns", [1, 20_000])
def test_a_prompt_of_another_conversation_is_not_compared_with_all_bytes_that_are_kept(turns: int) -> None:
    guard = counting.PrefixGuard()
    conversation = ("one", "", "openai", "m")

    def ask(topic: str, size: int, *, keeps: bool = True) -> int:
        """Return the units of the comparison."""
        count = min(turns, size // 50)
        text = topic + "x" * (size // count - 40)
        messages = [{"role": "user", "content": f"{text} {turn}"} for turn in range(count)]
        body = json.dumps({"messages": messages}).encode()
        found = counting.Prompt(conversation, body)
        _, units = count_work(guard, found)
        assert found.change is None
        if keeps:
            guard.keep(found)
        return units

    _, *large = [ask(f"task {number}", 900_000) for number in range(5)]
    small = ask("title", 1_000, keeps=False)
    assert small < min(large) / 20


@pytest.mark.parametrize("turns", [1, 10, 400])
def test_a_prompt_that_only_replaces_the_short_last_message_is_not_divided(turns: int) -> None:
    """As those of Claude Code that suggest the next message."""
    guard = counting.PrefixGuard()

    def ask(last: str) -> tuple[int, int]:
        said = [
            {"role": role, "content": [{"type": "text", "text": f"{role} {turn} " + "x" * (60_000 // turns)}]}
            for turn in range(turns)
            for role in ("user", "assistant")
        ]
        body = json.dumps({"messages": [*said, {"role": "user", "content": last}]}).encode()
        found = counting.Prompt(("one", "", "openai", "m"), body)
        spent = count_work(guard, found)
        assert found.change is None
        guard.keep(found)
        return spent

    ask("Go on.")
    divided, _ = ask("Suggest the next message.")  # the second prompt always is
    steps, _ = ask("Summarize this.")
    assert steps < 10 < divided


@pytest.mark.parametrize("turns", [10, 200, 5_000])
def test_a_new_branch_beside_four_of_equal_beginning_costs_little_more_than_to_read_its_prompt(turns: int) -> None:
    guard = counting.PrefixGuard()

    def body_for(branch: str) -> bytes:
        text = "y" * (880_000 // turns - 100)
        names = ["same"] * 3 + [branch] * (turns - 3)
        contents = [[{"type": "text", "text": f"{name} {number} {text}"}] for number, name in enumerate(names)]
        return json.dumps({"messages": [{"role": "user", "content": content} for content in contents]}).encode()

    def compare(body: bytes) -> tuple[Prompt, int, int]:
        found = counting.Prompt(("one", "", "openai", "m"), body)
        steps, units = count_work(guard, found)
        assert (found.change, found.replaced) == (None, None)
        return found, steps, units

    for number in range(4):
        found, *_ = compare(body_for(f"task {number}"))
        guard.keep(found)
    body = body_for("new task")
    _, steps, units = compare(body)
    assert steps < 1_000 + 20 * turns
    assert units < 80 * len(body)


def marked_session(marks: Collection[int], form: str, size: int, *, turns: int = 12) -> Iterator[bytes]:
    """Yield requests that grow by two messages of so many lines. `form`: one without a mark is a text, or a list.

    `marks`: places of the marked messages, from the end.
    """
    encoded = [list[str](), list[str]()]
    """All messages without a mark, and all with one."""
    beginning = f'{{"system":{json.dumps(lines("rule", 4_000))},"messages":['
    for turn in range(turns):
        for role in ("user", "assistant"):
            text = lines(f"{role} {turn}", size)
            for messages, mark in zip(encoded, ({}, MARK), strict=True):
                content = [{"type": "text", "text": text, **mark}] if form == "list" or mark else text
                messages.append(json.dumps({"role": role, "content": content}, separators=(",", ":")))
            if role == "user":
                sent = [*encoded[0]]
                for place in marks:
                    if place <= len(sent):
                        sent[-place] = encoded[1][-place]
                yield f"{beginning}{','.join(sent)}]}}".encode()


@pytest.mark.parametrize("marks", [(), (1,), (1, 2), (1, 2, 3), (1, 9)], ids=str)
@pytest.mark.parametrize("form", ["text", "list"])
@pytest.mark.parametrize("size", [10, 250])
@pytest.mark.parametrize("reports_cache", [True, False])
def test_marks_that_move_cost_little(marks: Collection[int], form: str, size: int, reports_cache: bool) -> None:
    """A prompt is divided only if it is the second one of its conversation."""
    guard, tokens, spent = counting.PrefixGuard(), 0, list[int]()
    for body in marked_session(marks, form, size):
        prompt = counting.Prompt(("one", "", "anthropic", "m"), body, len(body) // 4, tokens if reports_cache else 0)
        steps, _ = count_work(guard, prompt)
        spent.append(steps)
        assert prompt.change is None
        guard.keep(prompt)
        tokens = prompt.tokens
    first_comparison, *others = spent[1:]
    assert sorted(others)[len(others) // 2] < first_comparison / 4, spent


def test_a_message_of_many_marks_costs_as_much_as_its_size() -> None:
    marks = 3_000

    def build(text: str) -> Prompt:
        call = {"type": "tool_use", "id": "1", "name": "Read", "input": {"list": [MARK] * marks, "text": text}}
        messages = [{"role": "user", "content": "begin"}, {"role": "assistant", "content": [call]}]
        body = json.dumps({"messages": [*messages, {"role": "user", "content": lines("end", 300)}]}).encode()
        return counting.Prompt(("one", "", "anthropic", "m"), body)

    guard = counting.PrefixGuard()
    guard.keep(build("one"))
    prompt = build("two")
    steps, units = count_work(guard, prompt)
    assert steps < 15 * marks
    assert units < 40 * len(prompt.body)


def test_a_small_change_in_a_message_that_loses_its_mark_is_none() -> None:
    def ask(messages: list[Any]) -> PrefixChange | None:
        body = {"messages": [{"role": "user", "content": content} for content in messages]}
        prompt = Prompt(("one", "", "anthropic", "m"), json.dumps(body).encode())
        guard.compare(prompt)
        guard.keep(prompt)
        return prompt.change

    guard, first, second = PrefixGuard(), lines("one", 300), lines("two", 600)
    assert ask([first, [{"type": "text", "text": second, **MARK}], "three"]) is None
    assert ask([first, second + "!", "three", "four"]) is None


_CHARACTERS = bytes(b'abcd ,{}[]"\\'[byte % 12] for byte in range(256))
"""Byte → one of the characters in texts of a `RandomSession`."""


class RandomSession:
    """A client that sends a session with moving marks, and changes some part of it now and then."""

    def __init__(self, chance: Random, marks: Collection[int]) -> None:
        """`marks`: places of the marked messages, from the end."""
        self._chance, self._marks = chance, marks
        self._marks_replies, self._marks_stand_first = chance.random() < 0.5, chance.random() < 0.2
        self._order = chance.sample(["tools", "system", "messages", "metadata"], 4)
        self._separators = chance.choice([(",", ":"), (",", ":"), (", ", ": ")])
        self._parts = {f"tool {number} (tool_{number})": self._text(1_000) for number in range(1, 21)}
        self._parts["system text"] = self._text(20_000)
        self._forms = list[str]()
        """How the client writes each message: as a text while it has no mark, or always as a list."""
        self._say("user")

    def _say(self, role: str) -> None:
        self._forms.append(self._chance.choice(["text", "text", "list", "two blocks"]))
        self._parts[f"message {len(self._forms)} ({role})"] = self._text(
            self._chance.choice([20, 300, 3_000, 7_000, 9_000])
        )

    def _text(self, size: int) -> str:
        return self._chance.randbytes(size).translate(_CHARACTERS).decode()

    def change(self, name: str = "") -> tuple[str | None, int]:
        """Change a part. Return the size that the provider has to read again, and the part's name if that is much.

        `name`: the part. "": any one.
        """
        names = list(self._parts)
        place = self._chance.choice([self._chance.randrange(len(names)), len(names) - self._chance.randint(1, 3)])
        if name:
            place = names.index(name)
        text, behind = self._parts[names[place]], names[place + 1 :]
        begin = self._chance.randrange(len(text))
        lost = len(text) - begin + sum(len(self._parts[name]) for name in behind)
        if 2_500 < lost < 6_000 or (lost > 2_500 and not behind):  # a new last message may be another branch
            return None, 0
        changed = "x" if text[begin] == "y" else "y"
        self._parts[names[place]] = text[:begin] + changed + text[begin + self._chance.randrange(2) :]
        return names[place] if lost > 2_500 else None, lost

    def grow(self) -> None:
        self._say("assistant")
        self._say("user")

    def encode(self) -> bytes:
        body: dict[str, Any] = {"metadata": {"user_id": "u"}, "tools": [], "messages": []}
        for name, text in self._parts.items():
            kind, _, role = name.replace("(", "").rstrip(")").rpartition(" ")
            if kind.startswith("tool"):
                body["tools"].append({"name": role, "description": text})
            elif kind == "system":
                body["system"] = [{"type": "text", "text": text, **MARK}]
            else:
                body["messages"].append({"role": role, "content": text})
        markable = [message for message in body["messages"] if message["role"] == "user" or self._marks_replies]
        marked = [message for place, message in enumerate(reversed(markable), start=1) if place in self._marks]
        for message, form in zip(body["messages"], self._forms, strict=True):
            if message in marked or form != "text":
                texts = ["A reminder.", message["content"]] if form == "two blocks" else [message["content"]]
                content = [{"type": "text", "text": text} for text in texts]
                if message in marked:
                    content[-1] = {**MARK, **content[-1]} if self._marks_stand_first else {**content[-1], **MARK}
                message["content"] = content
        return json.dumps({name: body[name] for name in self._order}, separators=self._separators).encode()


@pytest.mark.parametrize("marks", [(), (1,), (1, 2), (1, 2, 3), (1, 9)], ids=str)
@pytest.mark.parametrize("has_cache", [True, False])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.sample(3)
def test_each_change_of_a_random_session_is_found_and_named(marks: Collection[int], has_cache: bool, seed: int) -> None:
    chance = Random(f"{marks} {has_cache} {seed}")
    guard, session, tokens = PrefixGuard(), RandomSession(chance, marks), 0
    for turn in range(25):
        part, lost = session.change() if turn > 2 and chance.random() < 0.5 else (None, 0)
        if chance.random() < 0.9:  # otherwise, the request is sent again
            session.grow()
        body = session.encode()
        cached = tokens - lost // 4 if has_cache else 1
        if turn > 1 and chance.random() < 0.1:  # the cache has forgotten it
            cached = 0
        prompt = Prompt(("one", "", "anthropic", "m"), body, len(body) // 4, cached)
        guard.compare(prompt)
        guard.keep(prompt)
        assert (prompt.change and prompt.change.part) == part, turn
        tokens = prompt.tokens


@pytest.mark.parametrize("marks", [(), (1,), (1, 2), (1, 2, 3), (1, 9)], ids=str)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.sample(3)
def test_a_change_of_a_random_session_without_counts_is_found_at_most_once(marks: Collection[int], seed: int) -> None:
    chance = Random(f"{marks} {seed}")
    guard, session, found = PrefixGuard(), RandomSession(chance, marks), list[str]()
    begin, part = chance.randrange(3, 30), ""
    for turn in range(begin + MAX_SAMPLED_PROMPTS + 1):
        if turn == begin:
            part = session.change()[0] or ""
        if chance.random() < 0.9:
            session.grow()
        prompt = Prompt(("one", "", "local", "m"), session.encode())
        guard.compare(prompt)
        guard.keep(prompt)
        found += [prompt.change.part] if prompt.change is not None else []
        if turn == begin and part == "system text":
            assert found == [part]
    assert found in ([], [part])


@pytest.mark.parametrize("marks", [(), (1,), (1, 2, 3)], ids=str)
@pytest.mark.parametrize(
    ("part", "old", "new", "latest"),
    [
        ("system text", "rule: line 7", "rule: line x", MAX_SAMPLED_PROMPTS),
        ("system text", "rule: line 7", "rule: line seven", 0),
        ("tool 2 (Read)", "Read: line 7", "Read: line x", 0),
        ("message 1 (user)", "user 0: line 7", "user 0: line x", MAX_SAMPLED_PROMPTS),
        ("message 1 (user)", "user 0: line 7", "user 0: line seven", 0),
    ],
    ids=["system text", "longer system text", "tool", "message", "longer message"],
)
@pytest.mark.parametrize("begin", [40, 47])
@pytest.mark.sample(3)
def test_a_change_at_a_provider_without_counts_is_found_within_some_requests(
    marks: Collection[int], part: str, old: str, new: str, latest: int, begin: int
) -> None:
    guard, found = PrefixGuard(), dict[int, str]()
    declared = [{"name": name, "description": lines(name, 400)} for name in ("Bash", "Read", "Write")]
    tools = json.dumps(declared, separators=(",", ":"))
    changed_tools = tools.replace(old, new, 1)
    for turn, session in enumerate(marked_session(marks, "text", 60, turns=80)):
        body = f'{{"tools":{tools},{session.decode()[1:]}'
        if turn >= begin:
            body = body.replace(old, new, 1)
        sent_tools = [json.dumps(tool) for tool in json.loads(tools if turn < begin else changed_tools)]
        prompt = Prompt(("one", "", "local", "m"), body.encode(), tools=sent_tools)
        guard.compare(prompt)
        guard.keep(prompt)
        if prompt.change is not None:
            found[turn] = prompt.change.part
        assert guard.kept_bytes <= len(prompt.body)
    (turn,) = found
    assert found[turn] == part
    assert begin <= turn <= begin + latest


async def test_a_session_that_a_relay_has_in_its_body_only_is_compared() -> None:
    relayed = Relayed()
    given = {"metadata": {"user_id": json.dumps({"session_id": "two"})}}
    for turn in range(8, 11):
        assert await relayed.ask(claude_code(turn, **given), x_claude_code_session_id="") is None
    change = await relayed.ask(claude_code(11, **given) | {"system": "Rules."}, x_claude_code_session_id="")
    assert change is not None
    assert change.part == "system text"
    assert [receipt.session for receipt in relayed.proxy.receipts] == ["two"] * 4
    for invalid in ({"user_id": 7}, "two"):
        await relayed.ask(claude_code(12, metadata=invalid), x_claude_code_session_id="")
        assert json.loads(relayed.sent[-1])["metadata"] == invalid, "the provider itself rejects it"


@pytest.mark.parametrize("marks", [(), (1,)], ids=str)
@pytest.mark.parametrize("order", ["messages last", "messages first"])
@pytest.mark.parametrize(
    ("changed", "part", "latest"),
    [
        (lambda body: body["tools"].reverse(), "tool 1 (Write)", 0),
        (lambda body: body["tools"][1].update(description=lines("READ", 400)), "tool 2 (Read)", 0),
        (lambda body: body["output_config"].update(effort="max"), "effort", MAX_SAMPLED_PROMPTS),
        (lambda body: body["output_config"].update(effort="medium"), "effort", 0),
        (lambda body: body.pop("thinking"), "thinking", 0),
    ],
    ids=["other order", "tool", "effort of equal length", "longer effort", "setting that is gone"],
)
@pytest.mark.sample(3)
async def test_changed_tools_and_settings_at_a_relay_without_counts_are_found(
    marks: Collection[int], order: str, changed: Callable[[dict[str, Any]], object], part: str, latest: int
) -> None:
    relayed, found = Relayed(), dict[int, str]()
    for turn, session in enumerate(marked_session(marks, "text", 60, turns=36)):
        tools = [{"name": name, "description": lines(name, 400)} for name in ("Bash", "Read", "Write")]
        body = {"tools": tools, "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
        body = body | json.loads(session) if order == "messages last" else json.loads(session) | body
        if turn >= 18:
            changed(body)
        change = await relayed.ask(body)
        if change is not None:
            found[turn] = change.part
    (turn,) = found
    assert found[turn] == part
    assert 18 <= turn <= 18 + latest


@pytest.mark.parametrize("row", [ROWS[0], ROWS[2], ROWS[3], ROWS[8]], ids=["Responses", "Chat", "Gemini", "Ollama"])
@pytest.mark.parametrize("size", [20, 400], ids=["short results", "long results"])
async def test_a_loaded_tool_that_is_gone_is_a_change(row: Row, size: int) -> None:
    """Its definition and its calls have stood in the messages, and their form changes without it."""
    talk = Talk(row, 12)
    names = ("mcp__tracker__find", "DeferredToolPlaceholder")
    fields = {"input_schema": {"type": "object"}, "defer_loading": True}
    loaded, placeholder = ({"name": name, "description": lines(name), **fields} for name in names)
    talk.tools.append(placeholder)
    assert await talk.ask() is None
    talk.tools.append(loaded)
    for number in range(6):
        name = "ToolSearch" if number == 0 else "mcp__tracker__find"
        call = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {"value": number}}
        found = [{"type": "tool_reference", "tool_name": "mcp__tracker__find"}]
        result = found if number == 0 else lines(f"issue {number}", size)
        talk.messages += [
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": result}]},
        ]
    talk.messages.append({"role": "assistant", "content": "Found."})
    assert await talk.ask() is None
    assert await talk.ask() is None
    talk.tools.remove(loaded)
    change = await talk.ask()
    assert change is not None
    assert change.kind == "messages"
