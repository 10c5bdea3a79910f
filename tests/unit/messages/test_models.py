"""Decoding of client requests: valid ones pass, invalid ones are rejected with a message, none crashes."""

import ast
import contextlib
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    Raw,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
    decode_request,
    scan_request,
)
from anthropic_proxy.engine.messages.models.raw_json import MIN_COUNTED_BYTES
from anthropic_proxy.engine.messages.models.structs import MAX_STRAY_PERCENT_SIGNS
from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature
from tests.support.golden_texts import Check

HELLO = {"role": "user", "content": "hi"}


def body(**fields: Any) -> bytes:
    """A small request with some fields changed; `...` leaves one out."""
    whole = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [HELLO], **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def read(**fields: Any) -> MessagesRequest:
    return decode_request(body(**fields))


def read_block(block: Any, role: str = "user") -> Block:
    (message,) = read(messages=[{"role": role, "content": [block]}]).messages
    (found,) = message.content
    assert not isinstance(found, str)
    return found


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(data)
    return caught.value.message


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def expand(value: Any) -> Any:
    """Return a value with what stands for large ones: `a×3` is `aaa`, in a list `list×3` repeats its first item."""
    if isinstance(value, dict):
        return {name: expand(inner) for name, inner in value.items() if inner != "‹absent›"}
    if isinstance(value, list):
        repeated = re.fullmatch(r"list×(\d+)", value[-1]) if value and isinstance(value[-1], str) else None
        return [expand(value[0])] * int(repeated[1]) if repeated else [expand(item) for item in value]
    if isinstance(value, str) and (match := re.fullmatch(r"(.|nested)×(\d+)", value)):
        return nested(int(match[2])) if match[1] == "nested" else match[1] * int(match[2])
    return value


def request_of(given: str) -> bytes:
    word, _, rest = given.partition(" ")
    if word == "raw":
        first, last, times = re.fullmatch(r"(b'.*?' )?(b'.*?')(?: × (\d+))?", rest).groups()
        return bytes(ast.literal_eval((first or "b''").strip()) + ast.literal_eval(last) * int(times or 1))
    if word == "behind":
        return body()[:-1] + f",{rest}}}".encode()
    value = expand(json.loads(rest))
    if word == "fields":
        return body(
            **{"model": "claude-sonnet-5-5"} | {name: ... for name in json.loads(rest) if name not in value} | value
        )
    content = [{"type": "text", "text": "a"}, value] if word == "assistant" else [value]
    return body(messages=[HELLO, {"role": word, "content": content}])


def show_request(given: str) -> str:
    """Return what a request becomes: a refusal, or the block of a message."""
    try:
        request = decode_request(request_of(given))
    except InvalidRequest as error:
        return f"refused: {error.message}"
    block = request.messages[-1].content[-1] if given.startswith("user ") else None
    if not isinstance(block, ImageBlock | DocumentBlock):
        return type(block).__name__ if block else "accepted"
    assert [block] == decode_nested_content(Raw(f"[{given.removeprefix('user ')}]".encode()))
    source = block.source
    return f"{type(block).__name__}: {source.type} {source.media_type!r} {source.data!r} {source.url!r}"


def test_golden_requests(golden: Check) -> None:
    """`golden_texts/requests`: fields of a request, a block of a message, text behind all fields, or raw bytes."""
    golden("requests", show_request)


@pytest.mark.parametrize("head", ["data:a/b,", "data:a/b;base64,"])
@pytest.mark.parametrize("repeated", ["%41", "%", "%4", "\\"])
def test_the_memory_for_a_data_url_of_escapes_is_a_small_multiple_of_its_length(head: str, repeated: str) -> None:
    url = head + repeated * 100_000
    tracemalloc.start()
    try:
        read_block({"type": "image", "source": {"type": "url", "url": url}})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(url)


def test_a_data_url_with_too_many_invalid_escapes_is_kept() -> None:
    url = "data:a/b," + "%" * (MAX_STRAY_PERCENT_SIGNS + 1)
    block = read_block({"type": "image", "source": {"type": "url", "url": url}})
    assert isinstance(block, ImageBlock)
    assert (block.source.type, block.source.url) == ("url", url)


def test_numbers_of_a_call_survive_the_slow_decoder() -> None:
    data = body(
        messages=[{"role": "user", "content": [{"type": "future"}, {"type": "tool_use", "id": "a", "name": "b"}]}]
    )
    data = data.replace(b'"name": "b"', b'"name": "b", "input": {"n": 1.10, "big": 123456789012345678901234567890}')
    block = decode_request(data).messages[0].blocks[1]
    assert isinstance(block, ToolUseBlock)
    assert bytes(block.input) == b'{"n": 1.10, "big": 123456789012345678901234567890}'


@pytest.mark.parametrize("place", [0, 65_400, 65_536, 131_072])
def test_bad_utf_8_is_found_in_text_that_is_not_decoded(place: int) -> None:
    """Also where the check cuts a large body into pieces, and a good character lies across a cut."""
    text = "é😀" * 30_000
    data = json.dumps(
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
        ensure_ascii=False,
    ).encode()
    assert decode_request(data).body_bytes == len(data)
    spoiled = data.index("é".encode(), place)
    assert "not valid UTF-8" in refusal(data[:spoiled] + b"\xff" + data[spoiled + 1 :])


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (r"\ud800", "�"),
        (r"\udc00 end", "� end"),
        (r"a \uD83D b", "a � b"),
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d\ud83d\ude00", "�😀"),
        (r"\\ud800", "\\ud800"),
    ],
)
@pytest.mark.parametrize("as_list", [True, False])
def test_lone_surrogates_are_mended(text: str, mended: str, as_list: bool) -> None:
    content = f'[{{"type":"text","text":"{text}"}}]' if as_list else f'"{text}"'
    data = f'{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":{content}}}]}}'
    request = decode_request(data.encode())
    (block,) = request.messages[0].blocks
    assert isinstance(block, TextBlock)
    assert json.loads(bytes(block.text)) == mended
    assert bool(request.repairs) == ("�" in mended)


def test_a_byte_order_mark_is_skipped() -> None:
    assert decode_request(b"\xef\xbb\xbf" + body()).model == "claude-sonnet-5-5"


def test_of_a_repeated_key_the_last_one_counts() -> None:
    data = body(messages=[{"role": "user", "content": [{"type": "future"}]}])
    assert decode_request(data[:-1] + b',"model":"other"}').model == "other"


@pytest.mark.parametrize("thread", [{"type": "new"}, "x", 0, False])
def test_a_thread_is_refused_so_that_the_client_sends_everything(thread: Any) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        read(thread=thread)
    assert caught.value.details == {"error_code": "thread_unsupported_request"}


def test_equal_tools_of_different_requests_share_one_source() -> None:
    tools = [{"name": "a", "input_schema": {"type": "object", "properties": {}}}, {"name": "b"}]
    first, second = read(tools=tools), read(tools=tools, stream=True)
    assert [tool.source for tool in first.tools] == [json.dumps(tool).encode() for tool in tools]
    assert all(one.source is other.source for one, other in zip(first.tools, second.tools, strict=True))


def test_a_tool_cannot_bring_a_source_of_its_own() -> None:
    (tool,) = read(tools=[{"name": "a", "source": "eA==", "px.source": "eA=="}]).tools
    assert tool.name == "a"
    assert json.loads(tool.source)["name"] == "a"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BLOCK_TYPES = st.sampled_from(
    [
        *("text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"),
        *("tool_reference", "server_tool_use", "web_search_tool_result", "tool_addition", "tool_removal"),
        *("compaction", "fallback", "px.unknown", "future"),
    ]
)
FIELDS = st.sampled_from(
    [
        *("text", "source", "title", "content", "context", "thinking", "signature", "data", "id", "name", "input"),
        *("tool_use_id", "is_error", "tool_name", "tool"),
    ]
)
BLOCKS = st.builds(
    lambda kind, fields: {**fields, "type": kind}, BLOCK_TYPES, st.dictionaries(FIELDS, JSON, max_size=6)
)
CONTENT = st.text() | st.lists(BLOCKS | JSON, max_size=4)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": CONTENT}), max_size=4
)
TOP = st.sampled_from(
    [
        *("system", "stream", "tools", "tool_choice", "thinking", "output_config", "output_format"),
        *("stop_sequences", "temperature", "top_p", "top_k", "metadata", "service_tier", "mcp_servers", "container"),
        *("thread", "compaction", "model", "max_tokens", "messages"),
    ]
)
NEAR_REQUESTS = st.builds(
    lambda messages, fields: {"model": "m", "max_tokens": 5, "messages": messages, **fields},
    MESSAGES,
    st.dictionaries(TOP, JSON, max_size=3),
)


@contextlib.contextmanager
def refused_as_invalid() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        assert (error.status, error.error_type) == (400, "invalid_request_error")  # noqa: PT017  # or it is accepted


@given(NEAR_REQUESTS | JSON)
def test_no_json_gives_anything_but_a_request_or_a_refusal(value: Any) -> None:
    with refused_as_invalid():
        request = decode_request(json.dumps(value).encode())
        assert request.model == value["model"]
        assert len(request.messages) == len(value["messages"])
        for message in request.messages:
            for block in message.blocks:
                if isinstance(block, ToolResultBlock):
                    decode_nested_content(block.content)


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_no_bytes_give_anything_but_a_request_or_a_refusal(noise: bytes, start: int, stop: int) -> None:
    data = body(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}])
    with refused_as_invalid():
        decode_request(data[:start] + noise + data[stop:])


TOO_MANY_MEMBERS = "The request body contains more than 250,000 list elements and object members."
KEYS = b",".join(b'"k%d":1' % number for number in range(260_000))


@pytest.mark.parametrize(
    "new_data",
    [
        pytest.param(lambda: b"{%b}" % KEYS, id="keys"),
        pytest.param(lambda: b'{"model":1,%b}' % KEYS, id="wrong model", marks=pytest.mark.slow),
        pytest.param(lambda: body(tools=[1] * 260_000), id="tools"),
        pytest.param(lambda: body(mcp_servers=[1] * 1_050_000), id="servers", marks=pytest.mark.slow),
        pytest.param(lambda: body(stop_sequences=["a"] * 500_000), id="sequences", marks=pytest.mark.slow),
        pytest.param(
            lambda: body(messages=[HELLO] * 130_000).replace(b'"role"', b'"r\\u006fle"'),
            id="escaped keys",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: body(messages=[{"role": "user", "content": [{"type": "tool_result", "content": [[]] * 600_000}]}]),
            id="result",
        ),
        pytest.param(lambda: body(messages=[1] * 260_000), id="messages"),
        pytest.param(lambda: body(system=[1] * 260_000), id="system"),
    ],
)
def test_a_body_of_too_many_members_is_refused_before_it_is_decoded(new_data: Callable[[], bytes]) -> None:
    data = new_data()
    tracemalloc.start()
    try:
        assert refusal(data) == TOO_MANY_MEMBERS
        if len(data) >= MIN_COUNTED_BYTES:
            assert scan_request(data) is None
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    finally:
        tracemalloc.stop()


def test_commas_in_a_text_are_no_members() -> None:
    text = ',"\\' * 300_000
    assert read(messages=[{"role": "user", "content": text}]).messages[0].content == text


def test_text_that_quotes_many_messages_is_no_crowd() -> None:
    text = json.dumps([{"role": "user", "type": "text"}] * 120_000)
    whole = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": text}]}
    assert decode_request(json.dumps(whole).encode()).messages


def test_a_system_message_may_consist_of_its_output_config() -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "system", "output_config": {"effort": "low"}}]
    decoded = decode_request(json.dumps({"model": "m", "max_tokens": 1, "messages": messages}).encode())
    assert [(message.role, message.content) for message in decoded.messages] == [("user", "Hello"), ("system", "")]
