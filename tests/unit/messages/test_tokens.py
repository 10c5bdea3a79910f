"""The token estimate: its deviation from tokenizers and providers, and values that are not text."""

import base64
import contextlib
import json
import struct
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.models.structs import (
    SERVER_RESULTS,
    Block,
    CompactionBlock,
    DocumentBlock,
    FallbackBlock,
    ImageBlock,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolAdditionBlock,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
)
from anthropic_proxy.engine.messages.server_blocks import encode_passage
from anthropic_proxy.engine.messages.tokens import TokenFamily
from anthropic_proxy.errors import ClientError
from tests.support.golden_texts import GOLDEN
from tests.support.token_estimate import estimate_request_tokens

EXACT = json.loads((GOLDEN / "token_texts.json").read_text("utf-8"))
"""Kind of text → number of tokens in OpenAI's o200k vocabulary, and the text."""


def estimated(content: Any, *, ascii_only: bool = False, **fields: Any) -> int:
    whole = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    return estimate_request_tokens(
        decode_request(json.dumps(whole, ensure_ascii=ascii_only).encode(), for_token_count=True)
    )


EMPTY = estimated("")


def block_of(kind: str, source: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": kind, "source": source}]


def of_text(words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": words}]


@pytest.mark.parametrize("reply", ["string", "one block", "several blocks"])
def test_reasoning_that_a_reply_has_as_text_counts_only_if_the_chat_template_keeps_it(reply: str) -> None:
    (exact, thought), answer = EXACT["prose"], "It is 4."
    content = {
        "string": f"<think>{thought}</think>{answer}",
        "one block": of_text(f"<think>{thought}</think>{answer}"),
        "several blocks": [*of_text("<think>"), *of_text(thought), *of_text("</think>"), *of_text(answer)],
    }[reply]

    def count(content: Any, *, drops_reasoning: bool) -> int:
        messages = [("user", "2 + 2"), ("assistant", content), ("user", f"<think>{answer}</think>{answer}")]
        whole = {"model": "m", "messages": [{"role": role, "content": text} for role, text in messages]}
        request = decode_request(json.dumps(whole).encode(), for_token_count=True)
        return estimate_request_tokens(request, TokenFamily(drops_reasoning=drops_reasoning))

    plain = count(answer, drops_reasoning=True)
    assert count(answer, drops_reasoning=False) == plain
    assert count(content, drops_reasoning=True) == pytest.approx(plain, abs=1)
    assert count(content, drops_reasoning=False) - plain == pytest.approx(exact, rel=0.35)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("repeated", [1, 200])
def test_a_text_has_about_as_many_tokens_as_a_tokenizer_finds(name: str, ascii_only: bool, repeated: int) -> None:
    """Whole or by sample, escaped or not, as a string or as a block."""
    exact, text = EXACT[name][0] * repeated, EXACT[name][1] * repeated
    for content in (text, of_text(text)):
        assert estimated(content, ascii_only=ascii_only) - EMPTY == pytest.approx(exact, rel=0.25)


@pytest.mark.parametrize(
    "wrapped", ["system", "tool result", "nested result", "tool input", "search result", "document"]
)
def test_text_counts_wherever_it_stands(wrapped: str) -> None:
    exact, text = EXACT["prose"]
    exact, text = exact * 30, text * 30
    result = {"type": "tool_result", "tool_use_id": "a"}
    found = {
        "system": lambda: estimated("", system=of_text(text)),
        "tool result": lambda: estimated([{**result, "content": text}]),
        "nested result": lambda: estimated([{**result, "content": of_text(text)}]),
        "tool input": lambda: estimated([{"type": "tool_use", "id": "a", "name": "f", "input": {"x": text}}]),
        "search result": lambda: estimated(
            [{"type": "search_result", "title": "t", "source": "s", "content": of_text(text)}]
        ),
        "document": lambda: estimated(block_of("document", {"type": "text", "data": text})),
    }[wrapped]()
    assert found - EMPTY == pytest.approx(exact, rel=0.2)


def test_a_block_costs_no_more_than_its_text() -> None:
    """The quotes around a string are no part of the prompt: Gemini reports 7 tokens for this question."""
    blocks = of_text("What is the capital of France?")
    assert estimated(blocks) - EMPTY == estimated("What is the capital of France?") - EMPTY == 7


def test_reasoning_of_earlier_replies_is_not_counted() -> None:
    thought = {"type": "thinking", "thinking": "hm " * 1000, "signature": "x" * 1000}
    assert estimated([thought, *of_text("a")]) == estimated(of_text("a"))


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x06"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00"


def jpeg(width: int, height: int, before: int = 0) -> bytes:
    preview = b"\xff\xe1" + struct.pack(">H", before + 2) + b"\xff\xc0" * (before // 2)
    return b"\xff\xd8" + preview + b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03"


def webp(kind: bytes, chunk_body: bytes) -> bytes:
    return b"RIFF\x00\x00\x00\x00WEBP" + kind + b"\x00\x00\x00\x00" + chunk_body


PICTURES = {
    "png": png(600, 500),
    "gif": gif(600, 500),
    "jpeg": jpeg(600, 500),
    "jpeg with a preview": jpeg(600, 500, 20_000),
    "webp lossy": webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 600, 500)),
    "webp lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 599 | 499 << 14) + b"\x00" * 8),
    "webp extended": webp(b"VP8X", b"\x00" * 4 + (599).to_bytes(3, "little") + (499).to_bytes(3, "little")),
}


def picture(data: bytes) -> list[dict[str, Any]]:
    encoded = base64.b64encode(data + b"\x00" * 30_000).decode()
    return block_of("image", {"type": "base64", "media_type": "image/png", "data": encoded})


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_counts_by_its_size_and_not_as_text(name: str) -> None:
    assert estimated(picture(PICTURES[name])) - EMPTY == 600 * 500 // 750
    result = [{"type": "tool_result", "tool_use_id": "a", "content": picture(PICTURES[name])}]
    assert 400 <= estimated(result) - EMPTY <= 420


@pytest.mark.parametrize(
    "content",
    [
        picture(png(8000, 8000)),
        picture(b"no picture"),
        picture(jpeg(600, 500, 65_000)[:50_000]),
        picture(b"\xff\xd8" + b"\xff\xe0\x00\x00" * 10),
        block_of("image", {"type": "base64", "media_type": "image/png", "data": "%%% no base64 ü"}),
        block_of("image", {"type": "url", "url": "https://x/" + "y" * 5000}),
    ],
)
def test_a_picture_that_is_large_or_cannot_be_measured_has_the_maximum_count(content: list[Any]) -> None:
    assert estimated(content) - EMPTY == 1_600


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        (b"%PDF-1.7\n" + b"<< /Type /Page /Parent 1 0 R >>\n" * 3 + b"<< /Type /Pages /Count 3 >>", 6_000),
        (b"%PDF-1.7\n<</Type/Page>>" + b"\x00" * 100_000, 2_000),
        (b"%PDF-1.7\n" + b"\x00" * 100_000, 2_000),
        (b"%PDF-1.7\n" + (b"<</Type/Page>>" + b"\x00" * 99_986) * 63, 126_000),
    ],
)
def test_a_pdf_counts_by_its_pages(data: bytes, tokens: int) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(data).decode()}
    assert estimated(block_of("document", source)) - EMPTY == pytest.approx(tokens, rel=0.05)


TOOL = {
    "name": "read_file",
    "description": "Reads a file from the disk and returns it with numbered lines.",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Where the file is."},
            "mode": {"type": "string", "enum": ["text", "bytes"]},
            "range": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        },
        "required": ["path"],
        "additionalProperties": False,
        "$defs": {"line": {"type": "integer", "description": "A line of the file."}},
    },
}


def test_tools_count_by_their_texts() -> None:
    one = estimated("", tools=[TOOL])
    assert 60 < one - EMPTY < 200
    two = estimated("", tools=[TOOL, {**TOOL, "name": "other"}])
    assert one < two < 2 * one
    wordy = {**TOOL, "description": EXACT["prose"][1] * 10}
    assert estimated("", tools=[wordy]) - one == pytest.approx(660, rel=0.2)
    assert estimated("", tools=[{**TOOL, "cache_control": {"type": "ephemeral"}}]) == one


def _exact(name: str, times: int = 10) -> tuple[int, str]:
    tokens, text = EXACT[name]
    return tokens * times, text * times


def _messages(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


PROSE, CODE, SHELL, JSON_TEXT = _exact("prose"), _exact("code"), _exact("shell"), _exact("json")
READ = {"name": "read", "description": PROSE[1], "input_schema": {"type": "object", "properties": {"path": {}}}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": SHELL[1]}
COUNTED: dict[str, tuple[dict[str, Any], int, tuple[int, ...]]] = {
    "text": ({"messages": _messages(PROSE[1])}, PROSE[0], (3 + 3,)),
    "system": ({"system": PROSE[1], "messages": _messages(CODE[1])}, PROSE[0] + CODE[0], (2 * 3 + 3,)),
    "turns": ({"messages": _messages(PROSE[1], CODE[1], SHELL[1])}, PROSE[0] + CODE[0] + SHELL[0], (3 * 3 + 3,)),
    "a tool": ({"messages": _messages(CODE[1]), "tools": [READ]}, CODE[0] + PROSE[0], (3 + 3 + 7 + 3 + 3 + 12, 346)),
    "a tool loop": (
        {
            "messages": [
                *_messages(CODE[1]),
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "a", "name": "read", "input": {"path": JSON_TEXT[1]}}],
                },
                {"role": "user", "content": [RESULT]},
            ],
            "tools": [READ],
        },
        CODE[0] + PROSE[0] + JSON_TEXT[0] + SHELL[0],
        (3 * 3 + 3 + 7 + 3 + 3 + 12, 346),
    ),
}
"""Request → tokens of its texts, and tokens that providers add.

Sources: OpenAI's cookbook, how to count tokens with tiktoken (3 per message and 3 per request; 7 per function, 3 for
its properties, 3 per property and 12 for all); platform.claude.com, pricing: tool use (346 for a system prompt).
"""


@pytest.mark.parametrize("name", COUNTED)
def test_requests_are_estimated_like_their_providers_count(name: str) -> None:
    """Traffic observed 2026-11 stays in the same bounds: providers add up to 500 tokens for tools."""
    body, tokens, added = COUNTED[name]
    found = estimate_request_tokens(decode_request(json.dumps({"model": "m", **body}).encode(), for_token_count=True))
    for more in added:
        assert tokens + more - 500 < found < (tokens + more) * 1.6 + 60


@given(st.text(max_size=300), st.text(max_size=300))
def test_more_text_never_costs_less(text: str, more: str) -> None:
    assert estimated(text) <= estimated(text + more) + 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.dictionaries(
    st.sampled_from(["type", "properties", "$defs", "enum", "items", "anyOf", "description", "required", "const"]), JSON
)
CONTENTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["tool_result", "image", "document", "future"])},
        optional={
            "tool_use_id": st.just("a"),
            "content": JSON,
            "source": st.fixed_dictionaries(
                {"type": st.sampled_from(["base64", "text", "content"])}, optional={"data": st.text()}
            ),
        },
    ),
    max_size=3,
)


@given(CONTENTS, SCHEMAS)
def test_whatever_can_be_read_can_be_counted(content: list[Any], schema: dict[str, Any]) -> None:
    with contextlib.suppress(ClientError):
        assert estimated(content, tools=[{"name": "f", "input_schema": schema}]) > 0


SENTENCE, TOKENS = EXACT["prose"][1] * 30, EXACT["prose"][0] * 30
PDF = base64.b64encode(b"%PDF-1.7\n" + b"<</Type/Page>>" * 3 + b"\x00" * 400_000).decode()
SEAL = "x" * 100_000
PDF_BLOCK = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}


def fetched(content: dict[str, Any]) -> dict[str, Any]:
    page = {"type": "web_fetch_result", "url": "https://x.test", "content": content, "retrieved_at": "2026-11-20"}
    return {"type": "web_fetch_tool_result", "tool_use_id": "srvtoolu_1", "content": page}


def found(*results: dict[str, Any]) -> dict[str, Any]:
    listed = [{"type": "web_search_result", "title": "t", "url": "https://x.test", **result} for result in results]
    return {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": listed}


def ran(kind: str, content: Any) -> dict[str, Any]:
    return {"type": f"{kind}_tool_result", "tool_use_id": "srvtoolu_1", "content": content}


def server_call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "server_tool_use", "id": "srvtoolu_1", "name": name, "input": arguments}


OUTPUT = {"stdout": SENTENCE, "stderr": "", "return_code": 0, "content": []}
ERROR = {"type": "web_fetch_tool_result_error", "error_code": "unavailable"}
TEXT_PAGE = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": SENTENCE}}
SERVER_BLOCKS: dict[str, tuple[dict[str, Any], float]] = {
    "a call": (server_call("web_search", query=SENTENCE), TOKENS),
    "a call of code": (server_call("code_execution", code=SENTENCE), TOKENS),
    "pages found, sealed by another": (found({"encrypted_content": SEAL}, {"encrypted_content": SEAL}), 20),
    "a page found, sealed here": (found({"encrypted_content": encode_passage(SENTENCE)}), TOKENS),
    "a search that failed": (ran("web_search", {"type": "web_search_tool_result_error", "error_code": "x"}), 12),
    "a fetched PDF": (fetched(PDF_BLOCK), 6_000),
    "a fetched page": (fetched(TEXT_PAGE), TOKENS),
    "a fetched page of blocks": (
        fetched({"type": "document", "source": {"type": "content", "content": of_text(SENTENCE)}}),
        TOKENS,
    ),
    "a fetch that failed": (ran("web_fetch", ERROR), 12),
    "a fetch without content": ({"type": "web_fetch_tool_result", "tool_use_id": "srvtoolu_1"}, 6),
    "tools found": (ran("tool_search", {"tool_references": [{"type": "tool_reference", "tool_name": "f"}]}), 5),
    "a program's output": (ran("code_execution", {"type": "code_execution_result", **OUTPUT}), TOKENS),
    "a program's output, sealed": (
        ran("code_execution", {"type": "encrypted_code_execution_result", **OUTPUT, "encrypted_stdout": SEAL}),
        TOKENS,
    ),
    "a shell's output": (ran("bash_code_execution", {"type": "bash_code_execution_result", **OUTPUT}), TOKENS),
    "an edit": (ran("text_editor_code_execution", {"type": "x", "content": SENTENCE}), 10),
    "a connector's result": (ran("mcp", of_text(SENTENCE)), TOKENS),
    "a connector's picture": (
        ran("mcp", block_of("image", {"type": "base64", "media_type": "image/png", "data": PDF})),
        10,
    ),
    "a connector's call": (
        {"type": "mcp_tool_use", "id": "m", "name": "f", "server_name": "s", "input": {"q": SENTENCE, "n": 1}},
        TOKENS,
    ),
    "a summary of what was before": ({"type": "compaction", "content": SENTENCE}, TOKENS),
    "a summary sealed": ({"type": "compaction", "content": None, "encrypted_content": SEAL}, 0),
    "thinking in secret": ({"type": "redacted_thinking", "data": SEAL}, 0),
    "a mark": ({"type": "fallback"}, 0),
    "a file in a container": ({"type": "container_upload", "file_id": "file_1"}, 10),
    "something new": ({"type": "future", "data": PDF}, 10),
}
"""Blocks of Anthropic's API → their tokens."""


@pytest.mark.parametrize("name", SERVER_BLOCKS)
def test_what_a_provider_ran_weighs_what_a_model_reads_of_it(name: str) -> None:
    block, tokens = SERVER_BLOCKS[name]
    assert estimated([block]) - EMPTY == pytest.approx(tokens, rel=0.2, abs=16)


REFERENCES = [{"type": "tool_reference", "tool_name": name} for name in SENTENCE.split()]
CHANGE = {"tool": {"type": "tool_reference", "name": SENTENCE}}
READ_BLOCKS: dict[type, dict[str, Any]] = {
    TextBlock: {"type": "text", "text": SENTENCE},
    DocumentBlock: TEXT_PAGE,
    SearchResultBlock: {"type": "search_result", "title": "t", "source": "s", "content": of_text(SENTENCE)},
    ToolUseBlock: {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"q": SENTENCE}},
    ToolResultBlock: {"type": "tool_result", "tool_use_id": "toolu_1", "content": SENTENCE},
    ToolReferenceBlock: {"type": "tool_result", "tool_use_id": "toolu_1", "content": REFERENCES},
    ServerToolUseBlock: server_call("web_search", query=SENTENCE),
    **{struct: ran(kind, of_text(SENTENCE)) for kind, struct in SERVER_RESULTS.items()},
    SERVER_RESULTS["web_search"]: found({"encrypted_content": encode_passage(SENTENCE)}),
    SERVER_RESULTS["web_fetch"]: fetched(TEXT_PAGE),
    SERVER_RESULTS["tool_search"]: ran(
        "tool_search", {"type": "tool_search_tool_search_result", "tool_references": REFERENCES}
    ),
    CompactionBlock: {"type": "compaction", "content": SENTENCE},
    UnknownBlock: ran("mcp", of_text(SENTENCE)),
}
"""Kind of block → one in which a text of `TOKENS` tokens stands."""
UNREAD_BLOCKS: dict[type, dict[str, Any]] = {
    ThinkingBlock: {"type": "thinking", "thinking": SENTENCE, "signature": "s"},
    RedactedThinkingBlock: {"type": "redacted_thinking", "data": SENTENCE},
    ToolAdditionBlock: {"type": "tool_addition", **CHANGE},
    ToolRemovalBlock: {"type": "tool_removal", **CHANGE},
    FallbackBlock: {"type": "fallback"},
}
"""Kind of block → one whose text models do not read: reasoning of earlier replies, and marks of the client."""


def test_each_kind_of_block_counts_by_the_text_that_a_model_reads() -> None:
    """A picture counts by its size (`test_a_picture_counts_by_its_size_and_not_as_text`)."""
    assert READ_BLOCKS.keys() | UNREAD_BLOCKS.keys() | {ImageBlock} == {*get_args(Block)}
    counted = {kind.__name__: estimated([block]) - EMPTY for kind, block in READ_BLOCKS.items()}
    assert {kind: tokens for kind, tokens in counted.items() if tokens < 0.8 * TOKENS} == {}
    unread = {kind.__name__: estimated([block]) - EMPTY for kind, block in UNREAD_BLOCKS.items()}
    assert {kind: tokens for kind, tokens in unread.items() if tokens > 0} == {}


def deferring(*more: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    long = {"description": SENTENCE, "input_schema": {"type": "object", "properties": {}}, "defer_loading": True}
    return [*more, {"name": "first", **long, **fields}, {"name": "second", **long, **fields}]


REGEX = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}


def test_tools_that_wait_to_be_found_are_counted_once_they_are() -> None:
    alone = estimated("", tools=[REGEX])
    assert estimated("", tools=deferring(REGEX)) == alone
    result = {"tool_references": [{"type": "tool_reference", "tool_name": "second"}]}
    history = [server_call(str(REGEX["name"]), pattern="second"), ran("tool_search", result)]
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": history}]
    found = estimated("", tools=deferring(REGEX), messages=messages)
    assert found - estimated("", tools=[REGEX], messages=messages) == pytest.approx(TOKENS, rel=0.2)
    forced = estimated("", tools=deferring(REGEX), tool_choice={"type": "tool", "name": "first"})
    assert forced - alone == pytest.approx(TOKENS, rel=0.2)


def test_deferred_tools_are_counted_where_nothing_searches_for_them() -> None:
    """The client searches by itself: each tool in the request is offered. Its placeholder never is."""
    assert estimated("", tools=deferring()) - EMPTY == pytest.approx(2 * TOKENS, rel=0.2)
    placeholder = {"name": "DeferredToolPlaceholder", "description": SENTENCE, "defer_loading": True}
    assert estimated("", tools=[TOOL, placeholder]) == estimated("", tools=[TOOL])


@given(st.lists(st.sampled_from(["A.", "9,", "a1", "😀", "中", " ", "\\u4e00", "\n"]), max_size=400).map("".join))
def test_text_never_weighs_more_than_the_estimate_of_the_preparation(text: str) -> None:
    """Two tokens a byte, scaled by the most that is learned and raised by the caution of `prepare`."""
    tools = [{"name": "f", "input_schema": {"enum": [int(c) for c in text if c in "0123456789"] + [1] * 50}}]
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "tools": tools, "max_tokens": 1}
    encoded = json.dumps(body, separators=(",", ":")).encode()
    assert estimate_request_tokens(decode_request(encoded)) * 1.6 * 1.03 <= 2 * len(encoded) + 64
