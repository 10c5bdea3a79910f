"""Decoding of client requests: valid ones pass, invalid ones are rejected with a message, none crashes."""

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.models import (
    Block,
    CompactionBlock,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    Raw,
    SearchResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    decode_nested_content,
    decode_request,
    scan_request,
)
from anthropic_proxy.engine.messages.models.raw_json import MIN_COUNTED_BYTES
from anthropic_proxy.engine.messages.models.structs import MAX_STRAY_PERCENT_SIGNS
from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature
from tests.support.recorded_texts import Compare

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


@pytest.mark.parametrize(
    "fields",
    [
        {"system": None},
        {"system": ""},
        {"system": "one"},
        {"system": []},
        {"tools": None},
        {"tools": []},
        {"stop_sequences": None},
        {"metadata": None},
        {"metadata": {}},
        {"metadata": {"user_id": None}},
        {"metadata": {"user_id": 5}},
        {"tool_choice": None},
        {"thinking": None},
        {"thinking": {"type": "of the future", "display": "as a poem", "block_binding": 1}},
        {"thinking": {"type": "adaptive", "display": None}},
        {"output_config": {"effort": None, "format": None, "task_budget": {"tokens": 5}}},
        {"service_tier": ["auto"]},
        {"temperature": None, "top_p": None, "top_k": None},
        {"temperature": 1},
        {"max_tokens": 0},
        {"max_tokens": 10**30},
        {"max_tokens": 64.0},
        {"stream": None},
        {"thread": None, "compaction": None},
        {"cache_control": None, "speed": "fast", "fallbacks": [{}], "anything": {"x": [1]}},
        {"tools": [{"name": "a", "description": None, "input_schema": None, "type": None}]},
        {"tools": [{"name": "a", "strict": "yes", "defer_loading": 1, "cache_control": None, "input_examples": [{}]}]},
        {"tools": [{"type": "web_search_20990101", "name": "web_search", "max_uses": "many", "user_location": {}}]},
        {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}, {"type": "mcp_toolset", "mcp_server_name": "y"}]},
        {"messages": [{"role": "system", "content": "s", "clear_at": "x", "output_config": {"effort": "low"}}]},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a", "citations": None}]}]},
    ],
)
def test_what_real_clients_send_is_accepted(fields: dict[str, Any]) -> None:
    assert read(**fields).model == "claude-sonnet-5-5"


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"type": "text", "text": "a", "cache_control": None}, TextBlock),
        ({"type": "image", "source": {"type": "url", "url": "https://x", "media_type": None}}, ImageBlock),
        ({"type": "thinking", "thinking": "a", "signature": None}, ThinkingBlock),
        ({"type": "thinking", "thinking": ""}, ThinkingBlock),
        ({"type": "tool_use", "id": "a", "name": "b", "input": {}, "caller": {}}, ToolUseBlock),
        ({"type": "tool_use", "id": "a", "name": "b", "input": None}, ToolUseBlock),
        ({"type": "tool_use", "id": "a", "name": "b"}, ToolUseBlock),
        ({"type": "tool_result", "tool_use_id": "a"}, ToolResultBlock),
        ({"type": "tool_result", "tool_use_id": "a", "content": None, "is_error": None}, ToolResultBlock),
        ({"type": "tool_reference", "tool_name": "a"}, ToolReferenceBlock),
        ({"type": "search_result", "source": "s", "title": "t", "content": []}, SearchResultBlock),
        ({"type": "compaction", "content": None, "encrypted_content": "x"}, CompactionBlock),
        ({"type": "of_the_future", "x": 1}, UnknownBlock),
        ({"type": "px.unknown", "kind": "k", "raw": 1}, UnknownBlock),
    ],
)
def test_a_block_is_read_as_its_kind(block: dict[str, Any], kind: type) -> None:
    assert type(read_block(block)) is kind


SourceFields = tuple[str, str, str, str]
"""Type, media type, data and URL of a source. A `Source` as expected value would be converted like the tested one."""


def read_source(block: Block) -> SourceFields:
    assert isinstance(block, ImageBlock | DocumentBlock)
    source = block.source
    return source.type, source.media_type, source.data, source.url


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"type": "url", "url": "data:image/png;base64,QUJD"}, ("base64", "image/png", "QUJD", "")),
        ({"type": "url", "url": "DATA:Image/PNG;name=a.png;BASE64,QUJD"}, ("base64", "image/png", "QUJD", "")),
        ({"type": "url", "url": "data:image/jpg;base64,QUJD"}, ("base64", "image/jpeg", "QUJD", "")),
        ({"type": "url", "url": "data:text/html;charset=utf-8,a%20b"}, ("base64", "text/html", "YSBi", "")),
        ({"type": "url", "url": "data:,%ff"}, ("base64", "text/plain", "/w==", "")),
        ({"type": "url", "url": "data:a/b,%%4%41%"}, ("base64", "a/b", "JSU0QSU=", "")),
        ({"type": "url", "url": "data:a/b,\\x41%5Cn\u00e9"}, ("base64", "a/b", "XHg0MVxuw6k=", "")),
        ({"type": "url", "url": "data:image/png;base64,QU%2BD%3d"}, ("base64", "image/png", "QU+D=", "")),
        ({"type": "url", "url": "data:;base64,/w=="}, ("base64", "text/plain", "/w==", "")),
        ({"type": "url", "url": "data:;base64"}, ("url", "", "", "data:;base64")),
        ({"type": "url", "url": "https://a/?data:,"}, ("url", "", "", "https://a/?data:,")),
        ({"type": "base64", "media_type": "image/jpg", "data": "QUJD"}, ("base64", "image/jpeg", "QUJD", "")),
        ({"type": "base64", "media_type": "IMAGE/PNG", "data": "QUJD"}, ("base64", "image/png", "QUJD", "")),
        ({"type": "base64", "data": "QUJD"}, ("base64", "", "QUJD", "")),
    ],
)
def test_a_source_is_read_in_its_usual_form(source: dict[str, Any], expected: SourceFields) -> None:
    image, document = {"type": "image", "source": source}, {"type": "document", "source": source}
    nested = decode_nested_content(Raw(json.dumps([image, document]).encode()))
    blocks = [read_block(image), read_block(document), *nested]
    assert [type(block) for block in blocks] == [ImageBlock, DocumentBlock] * 2
    assert [read_source(block) for block in blocks] == [expected] * 4


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
    assert read_source(block) == ("url", "", "", url)


@pytest.mark.parametrize(
    ("media_type", "data", "expected"),
    [
        ("text/plain", "YcOk", ("text", "text/plain", "aä", "")),
        ("Text/Plain;charset=utf-8", "YcOk", ("text", "text/plain", "aä", "")),
        ("text/plain;charset=iso-8859-1", "YeQ=", ("base64", "text/plain", "YeQ=", "")),
        ("text/plain", "YcO", ("base64", "text/plain", "YcO", "")),
        ("application/pdf", "YcOk", ("base64", "application/pdf", "YcOk", "")),
    ],
)
def test_a_text_document_in_base64_is_read_as_text(media_type: str, data: str, expected: SourceFields) -> None:
    source = {"type": "url", "url": f"data:{media_type};base64,{data}"}
    assert read_source(read_block({"type": "document", "source": source})) == expected
    assert read_source(read_block({"type": "image", "source": source})) == ("base64", expected[1], data, "")


def test_numbers_of_a_call_survive_the_slow_decoder() -> None:
    data = body(
        messages=[{"role": "user", "content": [{"type": "future"}, {"type": "tool_use", "id": "a", "name": "b"}]}]
    )
    data = data.replace(b'"name": "b"', b'"name": "b", "input": {"n": 1.10, "big": 123456789012345678901234567890}')
    block = decode_request(data).messages[0].blocks[1]
    assert isinstance(block, ToolUseBlock)
    assert bytes(block.input) == b'{"n": 1.10, "big": 123456789012345678901234567890}'


WRONG_FIELDS: list[dict[str, Any]] = [
    {"messages": [{"role": "tool", "content": "x"}]},
    *({"stop_sequences": sequences} for sequences in (["a"] * 4_097, ["a" * 65_537])),
    {"max_tokens": ...},
    {"model": ...},
    {"messages": ...},
    {"messages": None},
    {"messages": []},
    {"messages": "x"},
    {"messages": ["x"]},
    {"messages": [HELLO, {"role": "user"}]},
    {"messages": [{"content": "x"}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"model": 5},
    {"max_tokens": -1},
    {"max_tokens": "9"},
    {"temperature": "hot"},
    {"stream": "yes"},
    {"stop_sequences": [1]},
    {"thinking": {}},
    {"system": 5},
    {"system": [{"type": "text", "text": 5}]},
    {"tools": [5]},
    {"tools": [{"name": "a"}, {}]},
    {"tools": [{"name": "a", "input_schema": []}]},
    {"tools": [{"name": "a", "description": 5}]},
    {"tools": [{"name": "a"}, {"name": "a"}]},
    {"tools": [{"name": "a", "input_schema": nested(300)}]},
    {"output_config": {"format": {"type": "json_schema", "schema": nested(300)}}},
]


def shorten(value: Any) -> str:
    """Return the title of a value, at most a line of the recorded texts."""
    return repr(value) if len(repr(value)) < 160 else f"{repr(value)[:120]}… ({len(repr(value))} characters)"


def test_a_refusal_names_field_value_and_rule(recorded: Compare) -> None:
    recorded({shorten(fields): refusal(body(**fields)) for fields in WRONG_FIELDS})


HUGE_NUMBERS = [
    '"max_tokens":1e400',
    '"top_k":-1e400',
    '"temperature":1e400',
    '"thinking":{"type":"enabled","budget_tokens":1e400}',
    '"model":1e400',
    '"messages":[{"role":1e400,"content":"x"}]',
    '"messages":[{"role":"user","content":[{"type":1e400}]}]',
    '"messages":[{"role":"user","content":[{"type":"image","source":1e400}]}]',
    '"tools":[{"name":"a","type":1e400}]',
    '"tools":[{"name":"a","input_schema":{"properties":{"x":{"maximum":1e400}}}}]',
    '"output_config":{"format":{"type":"json_schema","schema":{"maximum":1e400}}}',
    '"temperature":"hot","top_p":1e400',
]


def test_a_number_that_no_machine_holds_is_refused_by_its_path(recorded: Compare) -> None:
    recorded({field: refusal(body()[:-1] + f",{field}}}".encode()) for field in HUGE_NUMBERS})


WRONG_BLOCKS: list[Any] = [
    "x",
    {"text": "x"},
    {"type": 5},
    {"type": "text"},
    {"type": "text", "text": 5},
    {"type": "text", "text": None},
    {"type": "tool_use", "id": "a", "name": "b", "input": "{}"},
    {"type": "tool_use", "id": 1, "name": "b"},
    {"type": "tool_use", "id": "a", "name": "b", "input": nested(300)},
    {"type": "tool_result"},
    {"type": "tool_result", "tool_use_id": "a", "content": 5},
    {"type": "image", "source": {"type": "base64", "data": 5}},
    {"type": "image", "source": {"type": ["x" * 100]}},
]


def test_a_wrong_block_is_refused_by_its_path(recorded: Compare) -> None:
    texts = {}
    for block in WRONG_BLOCKS:
        content = [{"type": "text", "text": "a"}, block]
        texts[shorten(block)] = refusal(body(messages=[HELLO, {"role": "assistant", "content": content}]))
    recorded(texts)


NO_REQUESTS = [
    b"",
    b" \n ",
    b"{",
    b'{"model":"m",}',
    b'{"temperature":NaN}',
    body() + b"x",
    b"[1]",
    b"null",
    b'"text"',
    body().replace(b"hi", b"h\xff"),
    b'{"x":"\xed\xa0\x80"}',
    b'{"a":' * 100_000,
    b'{"messages":' + b"[" * 100_000,
]


def test_a_body_that_is_no_request_is_refused_in_words(recorded: Compare) -> None:
    recorded({shorten(data): refusal(data) for data in NO_REQUESTS})


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


def test_compaction_is_refused() -> None:
    with pytest.raises(UnsupportedFeature):
        read(compaction={"trigger": 1})


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


@given(NEAR_REQUESTS | JSON)
def test_no_json_gives_anything_but_a_request_or_a_refusal(value: Any) -> None:
    with contextlib.suppress(ClientError):
        request = decode_request(json.dumps(value).encode())
        for message in request.messages:
            for block in message.blocks:
                if isinstance(block, ToolResultBlock):
                    decode_nested_content(block.content)


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_no_bytes_give_anything_but_a_request_or_a_refusal(noise: bytes, start: int, stop: int) -> None:
    data = body(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}])
    with contextlib.suppress(ClientError):
        decode_request(data[:start] + noise + data[stop:])


TOO_MANY_PARTS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "x" * 10}] * 100_001},
    {"messages": [{"role": "user", "content": [{"type": "odd", "x": 1}] * 100_001}]},
    {"tools": [{"name": "a", "input_schema": {"type": "object"}}] * 100_001},
]


def test_a_body_of_too_many_parts_is_refused_before_it_is_read(recorded: Compare) -> None:
    recorded({shorten(fields): refusal(body(**fields)) for fields in TOO_MANY_PARTS})


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
