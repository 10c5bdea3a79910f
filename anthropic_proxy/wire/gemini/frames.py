"""Structs of Gemini responses (`GenerateContentResponse`), with the fields that the proxy decodes.

The names of structs and fields are Google's. `decode_reply` decodes a complete response, or a frame of a streamed one.
A response has `Candidate`s, which are alternative replies. A candidate has a `Content`, which is a list of `Part`s:
texts, calls and files. Grounding is Google's term for a web search: a `GroundingChunk` is a source, a
`GroundingSupport` a citation of a `Segment` of the reply. Every field may be missing or null. Source: API reference
(2026-11) and recorded traffic.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from anthropic_proxy.wire.json_repair import parse_token_count

# Source of the structs: API reference (2026-11) and recorded traffic.
ABSENT = Raw(b"")
"""Value of a `Raw` field that the provider did not send."""


class FunctionCall(Struct, rename="camel", gc=False):
    """Call of a client tool, with its complete arguments."""

    name: str | None = None
    """Name of the called tool, as it was sent upstream."""
    args: Raw = ABSENT
    """The complete arguments as a JSON object."""
    id: str | None = None
    """Id of the call. None: older models."""
    partial_args: list[Raw] | None = None
    """Fragments of the arguments. The proxy never requests them. A call with fragments but without complete `args` is a
    protocol error."""
    will_continue: bool | None = None
    """True if further fragments of this call follow."""


class InlineData(Struct, rename="camel", gc=False):
    """File that the model generated, in base64."""

    mime_type: str | None = None
    """Media type of the file: `image/png`."""
    data: str | None = None
    """Content of the file in base64."""


class ExecutableCode(Struct, rename="camel", gc=False):
    """Program that the model wrote and the provider ran."""

    code: str | None = None
    """Source text of the program."""
    id: str | None = None
    """Id of the program, which its result repeats. None: older models."""


class CodeExecutionResult(Struct, rename="camel", gc=False):
    """Result of a program that the provider ran."""

    outcome: str | None = None
    """Outcome of the program: `OUTCOME_OK` or an error code."""
    output: str | None = None
    """Text that the program printed, or the error message."""
    id: str | None = None
    """Id of the program that was run. None: older models."""


class ToolUseArguments(Struct, gc=False):
    """Arguments of the provider's web search: the search queries."""

    queries: list[str] | None = None
    """Search queries of the provider's web search."""


class ServerToolCall(Struct, gc=False):
    """Call of a tool that the provider runs itself.

    The provider sends the call before the reply text that uses the result of the tool.
    """

    args: ToolUseArguments | None = None
    """Arguments of the call. Only those of the web search are decoded."""


class Part(Struct, rename="camel", gc=False):
    """Part of a reply. One content field is set; `thought_signature` (state of the reasoning) may be set too."""

    text: str | None = None
    """Reply text, or reasoning if `thought` is True."""
    thought: bool | None = None
    """True if `text` is thinking and not reply text."""
    thought_signature: str | None = None
    """Opaque state of the model's reasoning before this part, in base64. Later requests send it back."""
    function_call: FunctionCall | None = None
    """Call of a tool of the client."""
    inline_data: InlineData | None = None
    """File that the model generated."""
    executable_code: ExecutableCode | None = None
    """Program that the model wrote and the provider runs."""
    code_execution_result: CodeExecutionResult | None = None
    """Result of a program that the provider ran."""
    tool_call: ServerToolCall | None = None
    """Call of a server tool. Calls of client tools are in `function_call`."""


class Content(Struct, gc=False):
    """Content of one candidate (reply): its parts in order."""

    parts: list[Part] | None = None
    """Parts of the reply or of its fragment, in order."""


class WebSource(Struct, gc=False):
    """Web page that a search found. `uri` is a redirect URL of Google, `title` usually the domain."""

    uri: str | None = None
    """Redirect URL of Google to the page."""
    title: str | None = None
    """Title of the page, usually its domain."""
    domain: str | None = None
    """Domain of the page. Only Vertex AI sends the field."""


class GroundingChunk(Struct, gc=False):
    """Source of the provider's web search results."""

    web: WebSource | None = None
    """The web page. None: a source of another type."""


class Segment(Struct, gc=False):
    """Passage of the reply text that cites sources."""

    text: str | None = None
    """Text of the passage, as in the reply."""


class GroundingSupport(Struct, rename="camel", gc=False):
    """Citation: a passage of the reply, and the indices of the sources that support the passage."""

    segment: Segment | None = None
    """Passage of the reply that the sources support."""
    grounding_chunk_indices: list[int] | None = None
    """Indices of the sources in `GroundingMetadata.grounding_chunks`."""


class GroundingMetadata(Struct, rename="camel", gc=False):
    """Results of the provider's web search: queries, sources and citations."""

    web_search_queries: list[str] | None = None
    """Queries of the searches that the provider ran."""
    grounding_chunks: list[GroundingChunk] | None = None
    """Sources that the searches found."""
    grounding_supports: list[GroundingSupport] | None = None
    """Citations of the sources in the reply text."""


class UrlMetadata(Struct, rename="camel", gc=False):
    """URL that the provider fetched, and the status of the fetch (`URL_RETRIEVAL_STATUS_…`)."""

    retrieved_url: str | None = None
    """URL that the provider fetched."""
    url_retrieval_status: str | None = None
    """Status of the fetch: `URL_RETRIEVAL_STATUS_SUCCESS` or an error."""


class UrlContextMetadata(Struct, rename="camel", gc=False):
    """URLs that the provider fetched with its tool `urlContext`."""

    url_metadata: list[UrlMetadata] | None = None
    """The fetched URLs, each with its status."""


class Candidate(Struct, rename="camel", gc=False):
    """One reply of the model. The proxy requests one reply, and ignores candidates with an `index` above 0."""

    content: Content | None = None
    """Text, thinking, calls and files of the reply, or of its fragment."""
    finish_reason: str | None = None
    """Reason for the end of the reply: `STOP`, `MAX_TOKENS`, `SAFETY`, … None: the reply goes on."""
    finish_message: str | None = None
    """Explanation of the finish reason. May contain the complete reply."""
    continuation_token: str | None = None
    """Token for a request that continues this reply. Only with the finish reason `CONTINUATION`."""
    index: int | None = None
    """Number of the candidate, from 0. None: 0."""
    grounding_metadata: GroundingMetadata | None = None
    """Results of web searches by the provider."""
    url_context_metadata: UrlContextMetadata | None = None
    """URLs that the provider fetched."""


class PromptFeedback(Struct, rename="camel", gc=False):
    """Reason why the provider blocked the prompt. The response then has no candidates."""

    block_reason: str | None = None
    """Reason for a blocked prompt: `SAFETY`, … The response then has no candidate."""
    block_reason_message: str | None = None
    """Explanation of the blocked prompt, for people."""


class UsageMetadata(Struct, rename="camel", gc=False):
    """Token counts of the reply so far. A later frame replaces the counts of earlier frames."""

    prompt_token_count: int | None = None
    """Number of input tokens, cached input included."""
    tool_use_prompt_token_count: int | None = None
    """Input from results of server tools, not included in `prompt_token_count`."""
    cached_content_token_count: int | None = None
    """Input tokens read from the cache, included in `prompt_token_count`."""
    candidates_token_count: int | None = None
    """Number of output tokens without thinking tokens."""
    thoughts_token_count: int | None = None
    """Output tokens of thinking, not included in `candidates_token_count`."""
    service_tier: str | None = None
    """Service tier of AI Studio: `standard`, `flex`, `priority`."""
    traffic_type: str | None = None
    """Service tier of Vertex AI: `ON_DEMAND`, `ON_DEMAND_FLEX`."""


class GenerateContentResponse(Struct, rename="camel", gc=False):
    """A complete response of `generateContent`, or one frame (SSE event) of a streamed response."""

    candidates: list[Candidate] | None = None
    """Replies of the model; the proxy requests one."""
    prompt_feedback: PromptFeedback | None = None
    """Reason for a blocked prompt. None: not blocked."""
    usage_metadata: UsageMetadata | None = None
    """Token counts of the reply so far. None: not reported."""
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
