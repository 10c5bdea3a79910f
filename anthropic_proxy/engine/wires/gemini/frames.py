"""Structs of Gemini responses (`GenerateContentResponse`), with the fields that the proxy decodes.

The names of structs and fields are Google's. A response has `Candidate`s, which are alternative replies. A candidate
has a `Content`, which is a list of `Part`s: texts, calls and files. Grounding is Google's term for a web search: a
`GroundingChunk` is a source, a `GroundingSupport` a citation of a `Segment` of the reply. Every field may be missing or
null. Source: API reference (2026-11) and recorded traffic.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from anthropic_proxy.engine.wires.json_repair import parse_token_count

ABSENT = Raw(b"")


class FunctionCall(Struct, rename="camel", gc=False):
    name: str | None = None
    args: Raw = ABSENT
    id: str | None = None
    """None: older models."""
    partial_args: list[Raw] | None = None
    """Fragments of the arguments. The proxy never requests them. A call with fragments but without complete `args` is a
    protocol error."""
    will_continue: bool | None = None


class InlineData(Struct, rename="camel", gc=False):
    mime_type: str | None = None
    data: str | None = None


class ExecutableCode(Struct, rename="camel", gc=False):
    code: str | None = None
    id: str | None = None
    """Id that the result of the program repeats. None: older models."""


class CodeExecutionResult(Struct, rename="camel", gc=False):
    outcome: str | None = None
    """`OUTCOME_OK` or an error code."""
    output: str | None = None
    id: str | None = None
    """Id of the program. None: older models."""


class ToolUseArguments(Struct, gc=False):
    queries: list[str] | None = None


class ServerToolCall(Struct, gc=False):
    args: ToolUseArguments | None = None
    """Only the arguments of the web search are decoded."""


class Part(Struct, rename="camel", gc=False):
    """Part of a reply. One content field is set; `thought_signature` may be set too."""

    text: str | None = None
    thought: bool | None = None
    """True if `text` is thinking and not reply text."""
    thought_signature: str | None = None
    """Opaque state of the model's reasoning before this part, in base64. Later requests send it back."""
    function_call: FunctionCall | None = None
    inline_data: InlineData | None = None
    executable_code: ExecutableCode | None = None
    code_execution_result: CodeExecutionResult | None = None
    tool_call: ServerToolCall | None = None


class Content(Struct, gc=False):
    parts: list[Part] | None = None


class WebSource(Struct, gc=False):
    uri: str | None = None
    """Redirect URL of Google to the page."""
    title: str | None = None
    domain: str | None = None
    """Domain of the page. Only Vertex AI sends the field."""


class GroundingChunk(Struct, gc=False):
    """Source of the provider's web search results."""

    web: WebSource | None = None
    """The web page. None: a source of another type."""


class Segment(Struct, gc=False):
    """Passage of the reply text that cites sources."""

    text: str | None = None


class GroundingSupport(Struct, rename="camel", gc=False):
    """Citation: a passage of the reply, and the sources that support it."""

    segment: Segment | None = None
    grounding_chunk_indices: list[int] | None = None
    """Indices of the sources in `GroundingMetadata.grounding_chunks`."""


class GroundingMetadata(Struct, rename="camel", gc=False):
    web_search_queries: list[str] | None = None
    grounding_chunks: list[GroundingChunk] | None = None
    grounding_supports: list[GroundingSupport] | None = None


class UrlMetadata(Struct, rename="camel", gc=False):
    """URL that the provider fetched."""

    retrieved_url: str | None = None
    url_retrieval_status: str | None = None
    """`URL_RETRIEVAL_STATUS_SUCCESS` or an error."""


class UrlContextMetadata(Struct, rename="camel", gc=False):
    url_metadata: list[UrlMetadata] | None = None


class Candidate(Struct, rename="camel", gc=False):
    """One reply of the model, or its next fragment. The proxy requests one, and ignores those with another index."""

    content: Content | None = None
    finish_reason: str | None = None
    """Reason for the end of the reply: `STOP`, `MAX_TOKENS`, `SAFETY`, … None: the reply goes on."""
    finish_message: str | None = None
    """Explanation of the finish reason. May contain the complete reply."""
    continuation_token: str | None = None
    """Token for a request that continues this reply. Only with the finish reason `CONTINUATION`."""
    index: int | None = None
    """Number of the candidate, from 0. None: 0."""
    grounding_metadata: GroundingMetadata | None = None
    url_context_metadata: UrlContextMetadata | None = None


class PromptFeedback(Struct, rename="camel", gc=False):
    block_reason: str | None = None
    block_reason_message: str | None = None


class UsageMetadata(Struct, rename="camel", gc=False):
    """Token counts of the reply so far. A later frame replaces the counts of earlier frames."""

    prompt_token_count: int | None = None
    """Input tokens, cached input included."""
    tool_use_prompt_token_count: int | None = None
    """Input from results of server tools, not included in `prompt_token_count`."""
    cached_content_token_count: int | None = None
    """Input tokens read from the cache, included in `prompt_token_count`."""
    candidates_token_count: int | None = None
    """Output tokens without thinking."""
    thoughts_token_count: int | None = None
    """Output tokens of thinking, not included in `candidates_token_count`."""
    service_tier: str | None = None
    """Service tier of AI Studio: `standard`, `flex`, `priority`."""
    traffic_type: str | None = None


class GenerateContentResponse(Struct, rename="camel", gc=False):
    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: UsageMetadata | None = None
    error: Any = field(default=None)
    """Error object of the provider, in a stream that began with status 200."""


decode_strict_reply = msgspec.json.Decoder(GenerateContentResponse).decode
"""Decode a response or frame. Raises `msgspec.ValidationError` for unexpected types."""

_TIER_FIELDS = ("serviceTier", "trafficType")


def decode_reply(data: bytes) -> GenerateContentResponse:
    """Decode one frame of a streamed Gemini response, or a complete response.

    Raises `msgspec.DecodeError` for invalid JSON, and for values of unexpected types. Token counts are an exception: a
    string of digits or a fraction becomes an integer, and a value of another type becomes None.
    """
    try:
        return decode_strict_reply(data)
    except msgspec.ValidationError:
        content = msgspec.json.decode(data)
        counts = content.get("usageMetadata") if isinstance(content, dict) else None
        if not isinstance(counts, dict):
            raise
        content["usageMetadata"] = {
            name: parse_token_count(value) if name not in _TIER_FIELDS else value if isinstance(value, str) else None
            for name, value in counts.items()
        }
        return decode_strict_reply(msgspec.json.encode(content))
