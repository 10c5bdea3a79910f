"""Response fields of Gemini that are decoded. Every field may be null.

Source: reference of `GenerateContentResponse` (2026-11) and recorded traffic.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from anthropic_proxy.wire.json_repair import parse_token_count

ABSENT = Raw(b"")


class FunctionCall(Struct, rename="camel", gc=False):
    """Call of a client tool, with its complete arguments."""

    name: str | None = None
    args: Raw = ABSENT
    """JSON object of the arguments, complete."""
    id: str | None = None
    partial_args: list[Raw] | None = None
    """Fragments of the arguments. The proxy does not request them; a call with nothing else is rejected."""
    will_continue: bool | None = None
    """True if further fragments of this call follow."""


class InlineData(Struct, rename="camel", gc=False):
    """A generated file, in base64."""

    mime_type: str | None = None
    data: str | None = None


class ExecutableCode(Struct, rename="camel", gc=False):
    """A program that the provider ran."""

    code: str | None = None
    id: str | None = None


class CodeExecutionResult(Struct, rename="camel", gc=False):
    """Output and outcome of a program."""

    outcome: str | None = None
    output: str | None = None
    id: str | None = None


class ToolUseArguments(Struct, gc=False):
    """Arguments of a search."""

    queries: list[str] | None = None


class ServerToolCall(Struct, gc=False):
    """Announced call of a server tool."""

    args: ToolUseArguments | None = None


class Part(Struct, rename="camel", gc=False):
    """A piece of the answer; one of the fields is set, a signature may stand beside it."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: InlineData | None = None
    executable_code: ExecutableCode | None = None
    code_execution_result: CodeExecutionResult | None = None
    tool_call: ServerToolCall | None = None


class Content(Struct, gc=False):
    """Content of a reply."""

    parts: list[Part] | None = None


class WebSource(Struct, gc=False):
    """A page that the search found."""

    uri: str | None = None
    title: str | None = None
    domain: str | None = None


class GroundingChunk(Struct, gc=False):
    """A source."""

    web: WebSource | None = None


class Segment(Struct, gc=False):
    """A passage of the answer."""

    text: str | None = None


class GroundingSupport(Struct, rename="camel", gc=False):
    """Which sources a passage rests on."""

    segment: Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class GroundingMetadata(Struct, rename="camel", gc=False):
    """Results of a search."""

    web_search_queries: list[str] | None = None
    grounding_chunks: list[GroundingChunk] | None = None
    grounding_supports: list[GroundingSupport] | None = None


class UrlMetadata(Struct, rename="camel", gc=False):
    """A page that was fetched, or could not be."""

    retrieved_url: str | None = None
    url_retrieval_status: str | None = None


class UrlContextMetadata(Struct, rename="camel", gc=False):
    """Fetched pages."""

    url_metadata: list[UrlMetadata] | None = None


class Candidate(Struct, rename="camel", gc=False):
    """An answer; we never ask for more than one."""

    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    continuation_token: str | None = None
    index: int | None = None
    grounding_metadata: GroundingMetadata | None = None
    url_context_metadata: UrlContextMetadata | None = None


class PromptFeedback(Struct, rename="camel", gc=False):
    """Why there is no answer at all."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class UsageMetadata(Struct, rename="camel", gc=False):
    """Running totals, in tokens."""

    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None


class GenerateContentResponse(Struct, rename="camel", gc=False):
    """A whole answer, or a piece of a streamed one."""

    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: UsageMetadata | None = None
    error: Any = field(default=None)
    """An error inside a stream that began well."""


decode_strict_reply = msgspec.json.Decoder(GenerateContentResponse).decode
"""Reads an answer, or a piece of one, as Google writes it; `decode_reply` reads what this refuses, where it can."""


def decode_reply(data: bytes) -> GenerateContentResponse:
    """Read an answer, or a piece of one; a count in an unusual form is read too. Raises `msgspec.DecodeError`."""
    try:
        return decode_strict_reply(data)
    except msgspec.ValidationError:
        content = msgspec.json.decode(data)
        counts = content.get("usageMetadata") if isinstance(content, dict) else None
        if not isinstance(counts, dict):
            raise
        content["usageMetadata"] = {name: parse_token_count(count) for name, count in counts.items()}
        return decode_strict_reply(msgspec.json.encode(content))
