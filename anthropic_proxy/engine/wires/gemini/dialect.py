"""`Dialect` of Gemini: settings for the differences between models and servers.

The defaults describe models 3 and later. Rules for older models replace fields such as `thinking`. A thought signature
is opaque text in a reply, which later requests send back. A continuation is another request for the rest of a reply
that reached the output limit.
"""

from typing import Literal

from anthropic_proxy.engine.messages.server_tools import ServerToolKind
from anthropic_proxy.engine.wires.dialect import BaseDialect

_BUDGETS = (("low", 2_048), ("medium", 8_192), ("high", 24_576))


class Dialect(BaseDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one provider from Google's `generateContent`. Model rules may replace fields for one model."""

    signature_tag: str = "gem"
    """Tag in the signatures of thinking blocks (`px1.<tag>.…`). Signatures with other tags are not sent back.

    AI Studio and Vertex AI have different tags, because each rejects the signatures of the other server.
    Proven by: golden/gemini/thinking/foreign_signature.
    """
    always_stream: bool = False
    """True if every upstream request streams.

    Models 4 and later end a reply at 32,768 tokens, and a streamed reply at 65,536 (developer guide of Gemini 4 Argon,
    "Long decode", 2026-11).
    Proven by: golden/gemini/text/continuation.
    """
    accepts_continuation: bool = False
    """True if another request can continue a reply that reached the output limit of one request. Models 4 and later
    accept a token for this (developer guide of Gemini 4 Argon, "Long decode", 2026-11). Proven by:
    tests/golden_texts/exchanges/tools_of_the_proxy.txt."""
    continuation_version: str = ""
    """API version for requests with a continuation token: `/v1beta1` at Vertex AI. "": the version of the base URL.

    Proven by: tests/unit/exchange/test_tool_loop.py.
    """
    tool_name_pattern: str = r"[a-zA-Z_][a-zA-Z0-9_.:-]*"
    """Regular expression for a complete tool name (reference of FunctionDeclaration); other names get an alias.

    Proven by: golden/gemini/tools/long_names.
    """
    max_tool_name_length: int = 128
    """Maximum characters of a tool name; longer names get an alias. Proven by: golden/gemini/tools/long_names."""
    thinking: Literal["none", "budget", "level"] = "level"
    """Request field for the reasoning effort: `thinkingLevel` (3 and later), `thinkingBudget` (2.5), none (before 2.5).

    A request with both fields is rejected. Models without thinking reject each of the fields.
    Proven by: golden/gemini/thinking/thinking_budget, golden/gemini/thinking/no_thinking.
    """
    min_budget_tokens: int = 128
    """Minimum of `thinkingBudget` in tokens, apart from 0 (2.5-flash-lite: 512). Lower budgets are raised.

    Proven by: golden/gemini/thinking/client_budget.
    """
    max_budget_tokens: int = 24_576
    """Maximum of `thinkingBudget` in tokens (2.5-pro: 32,768). Higher budgets are lowered.

    Proven by: golden/gemini/thinking/thinking_budget.
    """
    effort_names: tuple[tuple[str, str], ...] = ()
    """Pairs of a requested effort and the effort to send instead, set by adaptations after a rejection.

    Proven by: tests/golden_texts/exchanges/gemini_rejections.txt.
    """
    sends_sampling: bool = False
    """True if `temperature`, `topP` and `topK` are sent.

    Models 3 and later repeat themselves at temperatures below 1.0, and ignore or reject the other fields.

    Proven by: golden/gemini/thinking/thinking_budget (sent), golden/gemini/text/text (not sent).
    """
    requires_signatures: bool = True
    """True if the first tool call of each step must have a thought signature, Gemini's opaque state of the reasoning.
    Models 3 and later reject a call without one in the current turn with status 400. If the history has no valid
    signature, the documented placeholder is sent, also in later requests. 2.5 accepts signatures but needs no
    placeholder. Proven by: golden/gemini/thinking/foreign_signature."""
    replays_signatures: bool = True
    """True if thought signatures of earlier replies are sent back. False: the server rejected the signatures.

    Proven by: tests/golden_texts/exchanges/gemini_rejections.txt.
    """
    placeholder_encoding: Literal["text", "base64"] = "text"
    """Encoding of the placeholder signature: plain text or base64. Servers differ, because the field contains bytes.

    Proven by: tests/golden_texts/exchanges/gemini_rejections.txt.
    """
    sends_call_ids: bool = True
    """True if `id` is sent in tool calls and tool results. False: calls and results are linked by their order.

    All servers of models 3 and later accept ids (discovery document of Vertex AI, 2026-09-21). Before that date Vertex
    AI rejected the field, and other clients omit it for older models.
    Proven by: golden/gemini/media/tool_result_image (sent), golden/gemini/media/tool_result_image_beside (not sent).
    """
    accepts_media_in_results: bool = True
    """True if images and PDFs of tool results are sent inside `functionResponse.parts` (3 and later).

    False: they are sent as parts after the results, in the same content.

    Proven by: golden/gemini/media/tool_result_image, golden/gemini/media/tool_result_image_beside.
    """
    accepts_schema_with_functions: bool = True
    """True if `responseJsonSchema` is sent together with tools. False (before 3): the system text has the schema.

    Proven by: golden/gemini/structured_output/json_output_in_words.
    """
    server_tools: tuple[ServerToolKind, ...] = ("web_search", "web_fetch", "code_execution")
    """Kinds of server tools that the provider runs: as `googleSearch`, `urlContext` and `codeExecution`.

    Proven by: golden/gemini/server_tools/search_beside_functions, golden/gemini/server_tools/without_search.
    """
    server_tools_exclusive: bool = False
    """True if the model rejects server tools together with client tools (before 3). The server tools are then omitted.

    Proven by: golden/gemini/server_tools/search_left_out.
    """
    search_with_functions: Literal["plain", "announced"] = "announced"
    """Handling of requests with both server tools and client tools. "announced": `includeServerSideToolInvocations` is
    sent, which AI Studio requires; each search then arrives as a part before its text. "plain": the field is not sent,
    because Vertex AI does not have it. Proven by: golden/gemini/server_tools/search_beside_functions,
    golden/gemini/server_tools/vertex."""
    accepts_excluded_domains: bool = False
    """True if `blocked_domains` of the client's search tool are sent as `excludeDomains`.

    Only Vertex AI has this field (`GoogleSearch` of the official SDK google-genai 3.3). False: the proxy removes pages
    of blocked domains from the search results.

    Proven by: golden/gemini/server_tools/vertex_search.
    """
    searches_billed_per_reply: bool = False
    """True if the provider bills a reply with web searches once (before 3). False: it bills each search query.

    Source: "Grounding with Google Search" of the Gemini API documentation, 2026-09.
    Proven by: tests/unit/exchange/test_attempt_records.py.
    """
    schema_form: Literal["json_schema", "lowered"] = "json_schema"
    """Field and language of tool schemas. "json_schema": JSON Schema in `parametersJsonSchema`. "lowered": Google's
    OpenAPI subset in `parameters`, which models before 2.0 require. Proven by: golden/gemini/structured_output/schema,
    golden/gemini/structured_output/schema_lowered."""
    accepts_file_urls: bool = True
    """True if the model reads images and documents from any public URL ("File input methods", 2026-01; 2.5 and later).

    False: only URLs of the provider's own storage are sent as files; other URLs become text.
    Proven by: golden/gemini/media/image_and_pdf, golden/gemini/media/image_url_named.
    """

    counts_whole_request: bool = True
    """True if a token count contains the complete request as `generateContentRequest` (AI Studio). False: its fields
    (Vertex AI). Proven by: tests/unit/exchange/test_engine_counts.py."""

    @property
    def always_reasons(self) -> bool:
        """Also true if the model has rejected the effort `none`."""
        return self.thinks_always or dict(self.effort_names).get("none", "none") != "none"

    @property
    def thinking_budgets(self) -> tuple[tuple[str, int], ...]:
        if self.thinking != "budget":
            return ()
        largest = self.max_budget_tokens
        return (("minimal", self.min_budget_tokens), *_BUDGETS, ("xhigh", largest), ("max", largest))

    @property
    def accepts_thinking_budget(self) -> bool:
        """True if the model accepts a thinking budget in tokens (`thinkingBudget`)."""
        return self.thinking == "budget"
