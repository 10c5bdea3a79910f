"""Preparation of a request: a wire receives clean, paired and named messages within the limits of the target."""

import contextlib
import gc
import json
import tracemalloc
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.messages.models import (
    Block,
    CleanMessages,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
    decode_request,
)
from anthropic_proxy.engine.messages.models.tools import MAX_ALIASED_NAME_LENGTH
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.messages.work_budget import WorkCache
from anthropic_proxy.errors import ClientError, InvalidRequest
from tests.support.decoding import new_limits
from tests.support.golden_texts import Check
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.messages import exactly
from tests.support.sessions import EncodingStyle, Session, encoding_styles, sessions

ANY = new_limits()


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(identifier: str, name: str = "f", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": name, "input": arguments}


def result(identifier: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identifier, "content": content, **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def system(*blocks: Any) -> dict[str, Any]:
    return {"role": "system", "content": list(blocks)}


def request_of(*messages: dict[str, Any]) -> MessagesRequest:
    return decode_request(json.dumps({"model": "m", "max_tokens": 100, "messages": messages}).encode())


def words_of(block: Block) -> str:
    """A block on one line: texts as they are, calls as `id:name`, results as `id=words`."""
    if isinstance(block, TextBlock):
        return str(json.loads(bytes(block.text)))
    if isinstance(block, ToolUseBlock):
        return f"{block.id}:{block.name}"
    if isinstance(block, ToolResultBlock):
        return f"{block.tool_use_id}={'|'.join(words_of(part) for part in decode_nested_content(block.content))}"
    return type(block).__name__


def texts_of(messages: list[Message]) -> list[tuple[str, list[str]]]:
    return [(message.role, [words_of(block) for block in message.blocks]) for message in messages]


def show(given: str) -> str:
    """Return what a wire receives of a request: fields of it, with `limits` of the target and `counted` tokens.

    `characters`: length of the only text.
    """
    fields = json.loads(given)
    given_limits, counted = fields.pop("limits", {}), fields.pop("counted", 0)
    words = "x" * fields.pop("characters", 0) or "hi"
    whole = {"model": "m", "max_tokens": 100, "messages": [user(text(words))], **fields}
    limits = new_limits(**given_limits)
    try:
        ready = prepare(decode_request(json.dumps(whole).encode()), limits, lambda _: counted)
    except ClientError as error:
        return f"{error.status} {error.error_type}: {error.message}"
    request, lines = ready.request, []
    if request.system:
        lines.append(f"system: {' | '.join(map(words_of, request.system))}")
    lines += [f"{message.role}: {' | '.join(map(words_of, message.blocks))}" for message in request.messages]
    for tool in request.tools:
        known = f": {tool.description} {bytes(tool.input_schema).decode()}" if tool.description else ""
        lines.append(f"tool {tool.name}{f' ({tool.type})' if tool.type else ''}{known}")
    lines += [f"the proxy runs {name} as {tool.name}" for name, tool in ready.proxy_tools.items()]
    if request.tool_choice:
        lines.append(f"choice: {msgspec.json.encode(request.tool_choice).decode()}")
    if request.effort != "default":
        lines.append(f"effort: {request.effort}")
    if request.max_tokens != whole["max_tokens"]:
        lines.append(f"max_tokens: {request.max_tokens}")
    if schema := bytes(request.output_schema).decode():
        lines.append(f"schema: {schema}")
    lines += [f"alias {sent} of {name}" for sent, name in ready.aliases.items()]
    lines += [f"{note.handling} {note.field}: {note.reason}" for note in ready.notes]
    return "\n".join(line.replace("\n", "\\n") if len(line) < 10_000 else f"{len(line)} characters" for line in lines)


def test_what_a_wire_receives(golden: Check) -> None:
    golden("preparation", show)


LONG = "mcp__server__" + "x" * 80
IDS = st.sampled_from(["1", "2", "3", ""])
WORDS = st.sampled_from(["", "a", "b"])
TEXTS = st.builds(text, WORDS)
TEXTS_WITH_WORDS = st.builds(text, st.sampled_from(["a", "b"]))
NESTED = st.lists(
    TEXTS | st.just({"type": "tool_reference", "tool_name": "t"}) | st.just({"type": "future"}), max_size=2
)
CALLS = st.builds(call, IDS, st.sampled_from(["f", "g.h", LONG]))
RESULTS = st.builds(result, IDS, WORDS | NESTED | st.none())
PICTURES = st.just({"type": "image", "source": {"type": "url", "url": "u"}})
OTHERS = st.sampled_from(
    [
        {"type": "future", "n": 1},
        {"type": "thinking", "thinking": "t"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "compaction", "content": "summary"},
        {"type": "fallback"},
        {"type": "document", "source": {"type": "text", "data": ""}},
    ]
)
CONTENTS = WORDS | st.lists(TEXTS | CALLS | RESULTS | PICTURES | OTHERS, max_size=5)
ROLES = st.sampled_from(["user", "assistant", "system"])
HISTORIES = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, ROLES, CONTENTS), min_size=1, max_size=8
)
PLAIN_HISTORIES = st.lists(
    st.builds(user, TEXTS_WITH_WORDS, TEXTS_WITH_WORDS | PICTURES) | st.builds(assistant, TEXTS_WITH_WORDS),
    min_size=1,
    max_size=8,
)
HOLDS = {
    "user": TextBlock | ImageBlock | DocumentBlock | ToolResultBlock,
    "assistant": TextBlock | ThinkingBlock | ToolUseBlock,
    "system": TextBlock,
}


def check_pairs(messages: list[Message]) -> None:
    """Every call is answered directly after its message, in order, before anything else; no result stands elsewhere."""
    owed: list[str] = []
    seen: set[str] = set()
    for message in messages:
        results = [block.tool_use_id for block in message.blocks if isinstance(block, ToolResultBlock)]
        assert results == owed
        assert all(isinstance(block, ToolResultBlock) for block in message.blocks[: len(owed)])
        owed = [block.id for block in message.blocks if isinstance(block, ToolUseBlock)]
        assert not seen & set(owed)
        assert len(set(owed)) == len(owed)
        assert all(owed)
        seen.update(owed)
    assert not owed


@given(HISTORIES)
def test_any_history_is_paired_clean_and_alternating(history: list[dict[str, Any]]) -> None:
    request = request_of(*history)
    before = msgspec.json.encode([texts_of([message]) for message in request.messages])
    with contextlib.suppress(ClientError):
        messages = prepare(request, ANY).request.messages
        check_pairs(messages)
        assert all(one.role != other.role for one, other in pairwise(messages))
        for message in messages:
            assert message.content
            for block in message.blocks:
                assert isinstance(block, HOLDS[message.role])
                assert words_of(block) or not isinstance(block, TextBlock)
    assert msgspec.json.encode([texts_of([message]) for message in request.messages]) == before


def check_both_scans(request: MessagesRequest) -> None:
    """Check that messages read as plain give the same result as the steps for all other messages, to the last note."""
    assert isinstance(request.messages, CleanMessages)
    assert outcome(request) == outcome(structs.replace(request, messages=[*request.messages]))


def outcome(request: MessagesRequest) -> bytes | tuple[int, str]:
    try:
        return msgspec.json.encode(prepare(request, ANY))
    except ClientError as error:
        return error.status, error.message


@given(HISTORIES | PLAIN_HISTORIES)
def test_a_plain_history_needs_no_steps(history: list[dict[str, Any]]) -> None:
    try:
        request = request_of(*history)
    except ClientError:
        reject()
    assume(isinstance(request.messages, CleanMessages))
    check_both_scans(request)


@given(sessions(), encoding_styles)
def test_a_plain_conversation_needs_no_steps(talk: Session, style: EncodingStyle) -> None:
    requests = [decode_request(json.dumps(talk.request(end, style)).encode()) for end in talk.ends()]
    plain = [request for request in requests if isinstance(request.messages, CleanMessages)]
    assume(plain)
    for request in plain:
        check_both_scans(request)


PICTURE = {"type": "image", "source": {"type": "url", "url": "u"}}
DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}
AGENT = [
    {"role": "user", "content": "Look."},
    system(text("Today.")),
    assistant({"type": "thinking", "thinking": "Hm."}, text("I look."), call("1"), call("2")),
    user(result("1"), result("2", [text("There."), text("And there.")]), text("Go on.")),
    user(text("Please."), DOCUMENT),
    assistant(call("3", LONG)),
    user({"type": "tool_result", "tool_use_id": "3"}),
    assistant(call("4")),
    user(result("4", [text("There."), PICTURE])),
    {"role": "assistant", "content": "Done."},
]


def test_what_agents_send_is_plain() -> None:
    request = request_of(*AGENT)
    assert isinstance(request.messages, CleanMessages)
    assert {*request.messages.names.values()} == {"f", LONG}
    check_both_scans(request)


def test_errors_inside_a_result_are_refused_where_its_content_is_encoded() -> None:
    """A relay passes it on: the request is read all the same, only not as a plain one."""
    request = request_of(*AGENT[:3], user(result("1"), result("2", [{"type": "text", "text": 5}])))
    assert not isinstance(request.messages, CleanMessages)
    with pytest.raises(
        InvalidRequest, match=exactly("messages.3.content.1.content.0.text: Input should be a string, got 5")
    ):
        prepare(request, ANY)


@given(HISTORIES)
def test_no_result_is_lost(history: list[dict[str, Any]]) -> None:
    """Each tool result is kept, paired or as text, unless a summary replaces it."""
    for message in history:
        for index, block in enumerate(message["content"]):
            if isinstance(block, dict) and block["type"] == "tool_result":
                block["content"] = f"answer {index}"
    if any(isinstance(block, dict) and block["type"] == "compaction" for m in history for block in m["content"]):
        return
    answers = {
        block["content"]
        for message in history
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    }
    with contextlib.suppress(ClientError):
        messages = prepare(request_of(*history), ANY).request.messages
        spoken_words = json.dumps(texts_of(messages))
        assert all(answer in spoken_words for answer in answers)


@pytest.mark.merge
async def test_nothing_is_kept_of_a_list_of_tools_that_is_too_large_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkCache, "kept", SizedCache(1 << 20))
    proxy = ProxyHarness(lambda *_: FakeResponse(500, b"{}"), OPENAI_API_KEY="sk-a-0123456789", BIG_MODEL="gpt-4.1")
    kept = []
    tracemalloc.start()
    try:
        for number in range(3):
            tools = [{"name": f"{number} {i}", "input_schema": {"type": "object"}} for i in range(6_000)]
            await proxy.post(tools=tools)
            del tools
            gc.collect()
            kept.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert kept[2] - kept[1] < 1_000_000  # the first one fills the caches of single tools


def test_long_names_of_tools_and_types_are_not_kept() -> None:
    """Clients choose them, and the names of many requests would be kept."""

    def prepare_request(number: int) -> None:
        names = [f"{number}_{place}_" + "n" * 100_000 for place in range(5)]
        tools = [{"name": name[:MAX_ALIASED_NAME_LENGTH], "input_schema": {"type": "object"}} for name in names]
        messages = [{"role": "user", "content": [{"type": name, "text": "t"} for name in names]}]
        fields = {"model": "m", "max_tokens": 100, "messages": messages, "tools": tools}
        assert len(prepare(decode_request(json.dumps(fields).encode()), ANY).request.tools) == 5

    prepare_request(0)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1, 6):
            prepare_request(number)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
