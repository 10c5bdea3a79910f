"""Structs of Gemini responses: the fields of `GenerateContentResponse` that the proxy decodes, under Google's names.

Every field may be missing or null. A streamed response is a sequence of these objects.
Source: API reference (2026-11) and recorded traffic.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from anthropic_proxy.wire.json_repair import parse_token_count

ABSENT = Raw(b"")
"""Value of a `Raw` field that the provider did not send."""


class FunctionCall(Struct, rename="camel", gc=False):
    """Call of a client tool, with its complete arguments."""

    name: str | None = None
    args: Raw = ABSENT
    """JSON object of the arguments, complete."""
    id: str | None = None
    partial_args: list[Raw] | None = None
    """Fragments of the arguments, never requested by the proxy. Without complete `args` they are a protocol error."""
    will_continue: bool | None = None
    """True if further fragments of this call follow."""


class InlineData(Struct, rename="camel", gc=False):
    """File that the model generated. `data`: base64."""

    mime_type: str | None = None
    data: str | None = None


class ExecutableCode(Struct, rename="camel", gc=False):
    """Program that the model wrote and the provider ran. `id`: links its result."""

    code: str | None = None
    id: str | None = None


class CodeExecutionResult(Struct, rename="camel", gc=False):
    """Result of a program. `outcome`: `OUTCOME_OK` or an error code; `id`: the id of the program."""

    outcome: str | None = None
    output: str | None = None
    id: str | None = None


class ToolUseArguments(Struct, gc=False):
    """Arguments of the provider's web search: the search queries."""

    queries: list[str] | None = None


class ServerToolCall(Struct, gc=False):
    """Call of a tool that the provider runs itself, sent before the text that depends on the call."""

    args: ToolUseArguments | None = None


class Part(Struct, rename="camel", gc=False):
    """Part of a reply. One content field is set, and a signature may be added."""

    text: str | None = None
    thought: bool | None = None
    """True if `text` is thinking."""
    thought_signature: str | None = None
    """Opaque state of the reasoning before this part, base64."""
    function_call: FunctionCall | None = None
    inline_data: InlineData | None = None
    """File that the model generated."""
    executable_code: ExecutableCode | None = None
    code_execution_result: CodeExecutionResult | None = None
    tool_call: ServerToolCall | None = None
    """Call of a server tool. Calls of client tools are in `function_call`."""


class Content(Struct, gc=False):
    """Content of one candidate: its parts in order."""

    parts: list[Part] | None = None


class WebSource(Struct, gc=False):
    """Web page that a search found. `uri` is a redirect URL of Google, `title` usually the domain."""

    uri: str | None = None
    title: str | None = None
    domain: str | None = None


class GroundingChunk(Struct, gc=False):
    """Source of grounded text. `web`: None for sources of other types."""

    web: WebSource | None = None


class Segment(Struct, gc=False):
    """Passage of the reply text that cites sources."""

    text: str | None = None


class GroundingSupport(Struct, rename="camel", gc=False):
    """Citation: a passage of the reply and the indices of its sources in `grounding_chunks`."""

    segment: Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class GroundingMetadata(Struct, rename="camel", gc=False):
    """Results of the provider's web search: queries, sources and citations."""

    web_search_queries: list[str] | None = None
    grounding_chunks: list[GroundingChunk] | None = None
    grounding_supports: list[GroundingSupport] | None = None


class UrlMetadata(Struct, rename="camel", gc=False):
    """URL that the provider fetched, and the status of the fetch (`URL_RETRIEVAL_STATUS_…`)."""

    retrieved_url: str | None = None
    url_retrieval_status: str | None = None


class UrlContextMetadata(Struct, rename="camel", gc=False):
    """URLs that the provider fetched for `urlContext`."""

    url_metadata: list[UrlMetadata] | None = None


class Candidate(Struct, rename="camel", gc=False):
    """One reply of the model. The proxy requests one candidate; candidates with an `index` above 0 are ignored."""

    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    """Explanation of the finish reason. May contain the complete reply."""
    continuation_token: str | None = None
    """Token for a request that continues this reply. Only with the finish reason `CONTINUATION`."""
    index: int | None = None
    grounding_metadata: GroundingMetadata | None = None
    url_context_metadata: UrlContextMetadata | None = None


class PromptFeedback(Struct, rename="camel", gc=False):
    """Reason why the provider blocked the prompt. The response then has no candidates."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class UsageMetadata(Struct, rename="camel", gc=False):
    """Token counts of the reply so far. A later frame replaces the counts of earlier frames."""

    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    """Input from results of server tools, not included in `prompt_token_count`."""
    cached_content_token_count: int | None = None
    """Input read from the cache, included in `prompt_token_count`."""
    candidates_token_count: int | None = None
    """Output without thinking."""
    thoughts_token_count: int | None = None
    """Thinking, not included in `candidates_token_count`."""


class GenerateContentResponse(Struct, rename="camel", gc=False):
    """A complete response, or one frame of a streamed response."""

    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: UsageMetadata | None = None
    error: Any = field(default=None)
    """Error object in a stream that began with status 200."""


decode_strict_reply = msgspec.json.Decoder(GenerateContentResponse).decode
"""Decode a response or frame. Raises `msgspec.ValidationError` for unexpected types; `decode_reply` accepts some."""


def decode_reply(data: bytes) -> GenerateContentResponse:
    """Decode a response or frame. Token counts may have other types, such as strings. Raises `msgspec.DecodeError`."""
    try:
        return decode_strict_reply(data)
    except msgspec.ValidationError:
        content = msgspec.json.decode(data)
        counts = content.get("usageMetadata") if isinstance(content, dict) else None
        if not isinstance(counts, dict):
            raise
        content["usageMetadata"] = {name: parse_token_count(count) for name, count in counts.items()}
        return decode_strict_reply(msgspec.json.encode(content))
