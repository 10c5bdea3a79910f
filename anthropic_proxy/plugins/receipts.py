"""Record of one client request (`Receipt`), with an `UpstreamAttempt` for each call to a provider.

It has names, numbers of tokens, times and the result, but no message content. A fidelity note records that one field of
the request or reply was changed, emulated, kept or dropped.
"""

from msgspec import Struct, field

from anthropic_proxy.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.plugins.admission import Client
from anthropic_proxy.plugins.reply_block import BlockMark
from anthropic_proxy.trace_context import TraceContext


class UpstreamAttempt(Struct, kw_only=True, omit_defaults=True):
    """Facts about one call to a provider, which is part of a `Receipt`. It has no message content."""

    provider: str
    """Name of the provider."""
    model: str
    """Model id at the provider, without a prefix."""
    host: str = ""
    """Host name or address of the provider. "": the provider has no URL."""
    port: int = 0
    """Port of the provider. 0: the provider has no URL."""
    offset_seconds: float
    """Seconds from the start of the client request to the start of this attempt."""
    duration_seconds: float = 0.0
    """Seconds from the start of the attempt to its failure, or to the last byte of its part of the reply."""
    status: int = 0
    """HTTP status of the provider's response. 0: no response."""
    error_type: str = ""
    """Type of the failure in Anthropic's format: `rate_limit_error`. "": the attempt did not fail."""
    error: str = ""
    """Error message of the failure, with API keys masked. "": the attempt did not fail."""
    input_tokens: int = 0
    """Input tokens without cached ones. All token counts of a failed attempt are 0."""
    cache_read_tokens: int = 0
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache."""
    cache_write_1h_tokens: int = 0
    """Part of `cache_write_tokens` that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    """Output tokens, thinking included."""
    thinking_tokens: int = 0
    """Output tokens of thinking; 0 if the provider does not count them."""
    billed_searches: int = 0
    """Web searches that the provider ran and bills. Searches of the proxy itself do not count."""
    service_tier: str = ""
    """Service tier that the provider reported, in its own words: `default`, `flex`, `fast`. "": none."""
    span_id: str = ""
    """Span id sent to the provider in `traceparent`. "": traces are off."""


class Receipt(Struct, kw_only=True):
    """Record of one client request: ids, names, counts and times, without message content.

    The record is complete when the request has finished.
    """

    request_id: str
    """Id of the request in the response header `request-id`: `req_…`."""
    client: Client
    """Client that sent the request."""
    started_at: float
    """Time of the start of the request, in seconds since the epoch."""
    method: str = "POST"
    """HTTP method of the client request."""
    path: str = "/v1/messages"
    """URL path without the query."""
    user_agent: str = ""
    """Request header `user-agent`: the program of the client. "": not sent."""
    session: str = ""
    """Session id of the client: header `x-claude-code-session-id`, else the one in `metadata.user_id`."""
    agent: str = ""
    """Header `x-claude-code-agent-id`: id of a subagent of Claude Code. "": the main agent."""
    project: str = ""
    """Header `x-project`, which a user sets to group requests."""
    requested_model: str = ""
    """Model id in the client request. "": the request has no model."""
    provider: str = ""
    """Name of the provider that replied or failed last. "": no provider was called."""
    prefix: str = ""
    """Prefix by which a client requests a model of the provider: `gemini`."""
    model: str = ""
    """Model id at the provider, without a prefix."""
    base_url: str = ""
    """URL of the provider, by which a price is found. "": no provider was called."""
    route: str = ""
    """Name of the matching route of the configuration file. "": none matches."""
    route_reason: str = ""
    """Text for the log: the rule or setting that chose the target (provider and model)."""
    tool_count: int = 0
    """Number of tool definitions in the client request."""
    message_count: int = 0
    """Number of messages in the client request."""
    tool_results: int = 0
    """Number of results of client tools that the client sent after the last assistant message."""
    tool_errors: int = 0
    """Number of these results that have `is_error`: the tool failed."""
    stream: bool = False
    """True if the client requested a streamed reply."""
    input_tokens: int = 0
    """Input tokens without cached ones, as the client received them."""
    cache_read_tokens: int = 0
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache."""
    cache_write_1h_tokens: int = 0
    """Part of `cache_write_tokens` that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    """Output tokens, thinking included."""
    thinking_tokens: int = 0
    """Output tokens of thinking; 0 if the provider does not count them."""
    billed_searches: int = 0
    """Web searches that providers ran and bill. Searches of the proxy itself do not count."""
    service_tier: str = ""
    """Service tier that the provider of the last call reported, in its own words: `default`, `flex`. "": none."""
    first_token_seconds: float | None = None
    """Seconds from the start of the request to the first content of the reply. None: the reply has no content."""
    duration_seconds: float = 0.0
    """Seconds from the start of the request to the last byte of the response."""
    status: int = 0
    """HTTP status of the response, or of the error that ended a stream. 0: the client disconnected before the response.
    """
    outcome: str = ""
    """Stop reason of the reply, `error`, or `cancelled` (the client disconnected)."""
    error_type: str = ""
    """Type of the error in Anthropic's format: `rate_limit_error`. "": no error."""
    error: str = ""
    """Error message that the client received, with API keys masked. "": no error."""
    upstream_excerpt: str = ""
    """Beginning of an upstream error body that is no error object, such as the page of a gateway; keys are redacted."""
    failed_attempts: list[str] = field(default_factory=list)
    """Failed upstream attempts before the last one: `groq 429`."""
    limit_headers: dict[str, str] = field(default_factory=dict)
    """Response headers with limits of the client and the remaining amounts:
    `anthropic-ratelimit-requests-remaining`."""
    adaptations: list[str] = field(default_factory=list)
    """Changes of the upstream request after the provider rejected a parameter: `drop top_k`."""
    fidelity: FidelityReport = field(default_factory=FidelityReport)
    """Fidelity mode, and notes about fields of request and reply that were changed, emulated, kept or dropped."""
    attempts: list[UpstreamAttempt] = field(default_factory=list)
    """All upstream attempts in order: failed attempts, and several successful ones if the proxy runs tools."""
    blocks: list[BlockMark] = []
    """Start of each content block, and end of the reply: kind, name of the called tool, seconds since the epoch,
    characters before it. Empty: there are none, or the reply was relayed."""
    trace: TraceContext | None = None
    """Trace of the request. None: traces are off, and the client sent no valid `traceparent`."""

    @property
    def notes(self) -> list[FidelityNote]:
        """Fidelity notes, which record that a field of the request or reply was changed, emulated, kept or dropped."""
        return self.fidelity.notes
