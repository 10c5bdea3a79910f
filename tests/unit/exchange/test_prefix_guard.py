"""The prefix guard: a prompt that does not begin like the one before it is found, whatever the API of the provider."""

import json
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.hooks import PrefixChange
from anthropic_proxy.engine.providers.prefix_guard import (
    MAX_CONVERSATIONS,
    MAX_KEPT_BYTES,
    PrefixGuard,
    Prompt,
)
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from tests.support.cache_sessions import ROWS, Row, run_session
from tests.support.fakes.prefix_cache import CachingProvider
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

MARK = {"cache_control": {"type": "ephemeral"}}


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
            model="claude-opus-4-5",
            system=[{"type": "text", "text": text} for text in self.system],
            tools=self.tools,
            messages=self.messages,
            metadata={"user_id": json.dumps({"session_id": session})},
        )
        assert sink.error is None, sink.error
        self.messages.append({"role": "assistant", "content": sink.body["content"]})
        return self.proxy.receipts[-1].prefix_change


KEYS = {f"{name}_API_KEY": "key" for name in ("OPENAI", "GEMINI", "MOONSHOT", "XAI")}
RELAY = Row("", {"MODEL_OPUS": "anthropic/claude-opus-4-5", "ANTHROPIC_API_KEY": "key"}, "messages")


@pytest.mark.parametrize("row", [ROWS[0], ROWS[2], ROWS[3], ROWS[8]], ids=["Responses", "Chat", "Gemini", "Ollama"])
async def test_a_long_conversation_has_no_change_until_one_is_made(row: Row) -> None:
    turns = 200
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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
async def test_tools_that_are_loaded_change_the_prompt_only_if_they_are_listed(row: Row) -> None:
    """With placeholder, the proxy keeps the list of tools. Without it, each search adds tools to the list."""
    figures = await run_session(row)
    assert [change.part for change in figures.changes] == []
    figures = await run_session(row, has_placeholder=False)
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


@pytest.mark.parametrize("turns", [1, 2, 6])
async def test_interleaved_conversations_that_begin_alike_are_no_change(turns: int) -> None:
    """Parallel tasks of one agent have the same tools, system text and first turns, then other messages."""
    talk = Relayed()

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


@pytest.mark.parametrize("turns", [1, 20_000])
def test_a_prompt_of_another_conversation_is_not_compared_with_all_bytes_that_are_kept(turns: int) -> None:
    guard = PrefixGuard()
    conversation = ("one", "", "openai", "m")

    def ask(topic: str, size: int, *, keeps: bool = True) -> float:
        """Return the processor time of the comparison, in seconds."""
        count = min(turns, size // 50)
        text = topic + "x" * (size // count - 40)
        messages = [{"role": "user", "content": f"{text} {turn}"} for turn in range(count)]
        body = json.dumps({"messages": messages}).encode()
        found = Prompt(conversation, body)
        begun = time.thread_time()
        guard.compare(found)
        spent = time.thread_time() - begun
        assert found.change is None
        if keeps:
            guard.keep(found)
        return spent

    _, *large = [ask(f"task {number}", 900_000) for number in range(5)]
    small = [ask(f"title {number}", 1_000, keeps=False) for number in range(5)]
    assert min(small) < min(large) / 20


@pytest.mark.parametrize("turns", [10, 200, 5_000])
def test_a_new_branch_beside_four_of_equal_beginning_costs_little_more_than_to_read_its_prompt(turns: int) -> None:
    guard = PrefixGuard()

    def body_for(branch: str) -> bytes:
        text = "y" * (880_000 // turns - 100)
        names = ["same"] * 3 + [branch] * (turns - 3)
        contents = [[{"type": "text", "text": f"{name} {number} {text}"}] for number, name in enumerate(names)]
        return json.dumps({"messages": [{"role": "user", "content": content} for content in contents]}).encode()

    def measure(work: Callable[[bytes], object], body: bytes) -> float:
        begun = time.thread_time()
        work(body)
        return time.thread_time() - begun

    def compare(body: bytes) -> Prompt:
        found = Prompt(("one", "", "openai", "m"), body)
        guard.compare(found)
        assert (found.change, found.replaced) == (None, None)
        return found

    for number in range(4):
        guard.keep(compare(body_for(f"task {number}")))
    bodies = [body_for(f"new task {number}") for number in range(5)]
    spent = min(measure(compare, body) for body in bodies)
    assert spent < 120 * min(measure(json.loads, body) for body in bodies)


@pytest.mark.parametrize("marks", [0, 1, 2, 3])
@pytest.mark.parametrize("reports_cache", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_marks_that_move_are_no_change_and_hide_none(marks: int, reports_cache: bool, seed: int) -> None:
    """Claude Code marks the last messages of each request anew. Turns are shorter and longer than what is ignored."""
    chance, guard, size_before = Random(seed), PrefixGuard(), 0
    tools = [{"name": f"tool_{number}", "description": f"{number}{'x' * 700}"} for number in range(20)]
    system = f"rule {seed} " * 2_000

    def say(role: str, number: int) -> dict[str, Any]:
        text = f"{role} {number} " + "".join(chance.choices("abc ", k=chance.choice([50, 500, 3_000, 9_000])))
        return {"role": role, "content": text if chance.random() < 0.3 else [{"type": "text", "text": text}]}

    messages, part = [say("user", 0)], None
    for turn in range(24):
        part = chance.choice(["tool 3 (tool_2)", "system text", "message 1 (user)"]) if turn % 6 == 5 else None
        if part == "tool 3 (tool_2)":
            tools[2]["description"] += "!"
        elif part == "system text":
            system = f"{turn} {system}"
        elif part is not None:
            messages[0] = say("user", turn)
        body = {"model": "m", "system": [{"type": "text", "text": system, **MARK}], "tools": tools}
        body = json.loads(json.dumps({**body, "messages": messages}))
        blocks = [message["content"][-1] for message in body["messages"] if isinstance(message["content"], list)]
        for block in blocks[len(blocks) - marks :]:
            block.update(MARK)
        sent = json.dumps(body, separators=(",", ":")).encode()
        is_cached = reports_cache and part is None
        prompt = Prompt(("one", "", "anthropic", "m"), sent, len(sent) // 4, size_before // 4 if is_cached else 0)
        guard.compare(prompt)
        guard.keep(prompt)
        assert (prompt.change and prompt.change.part) == part
        size_before = len(sent)
        messages += [say("assistant", turn), say("user", turn + 1)]
