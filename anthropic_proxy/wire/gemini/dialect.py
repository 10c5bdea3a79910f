"""Deviations of Gemini models. The defaults describe Google's newest models (3 and later).

A provider row must set `signature_tag`, and `search_with_functions` if its API lacks a field. Model rules must set,
oldest models last: `thinking` with its budgets, `sends_sampling`, `requires_signatures`, `sends_call_ids`,
`accepts_media_in_results`, `accepts_schema_with_functions`, `server_tools_exclusive`,
`accepts_file_urls` and, before 2.0, `schema_form`.
"""

from typing import Literal

from anthropic_proxy.messages.preparation import ServerToolKind
from anthropic_proxy.wire.contract import BaseDialect


class Dialect(BaseDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one provider, or by model rules of one model, from `generateContent`."""

    signature_tag: str = "gem"
    """First word of the reasoning carry: `px1.<tag>.…`; only a carry with this very tag is read back.

    AI Studio and Vertex AI need two: neither takes the other's signatures.
    Proven by: golden/gemini/thinking/foreign_signature.
    """
    always_stream: bool = False
    """True if every upstream request streams.

    4 and later end a reply that is not streamed at 32,768 tokens, a streamed one at 65,536 (developer guide of Gemini 4
    Argon, "Long decode", 2026-11).
    Proven by: golden/gemini/text/continuation.
    """
    accepts_continuation: bool = False
    """True if a reply at the output limit continues in another request with its token.

    4 and later (developer guide of Gemini 4 Argon, "Long decode", 2026-11).
    Proven by: tests/unit/exchange/test_tool_loop.py.
    """
    continuation_version: str = ""
    """Version of the API that takes the token, where the usual one does not; Vertex AI: `/v1beta1`.

    Proven by: tests/unit/exchange/test_tool_loop.py.
    """
    tool_name_pattern: str = r"[a-zA-Z_][a-zA-Z0-9_.:-]*"
    """Pattern for function names (reference of FunctionDeclaration). Proven by: golden/gemini/tools/long_names."""
    max_tool_name_length: int = 128
    """Characters that a function's name may have. Proven by: golden/gemini/tools/long_names."""
    thinking: Literal["none", "budget", "level"] = "level"
    """Field for the effort: `thinkingLevel` (3 and later), `thinkingBudget` (2.5) or none (2.0 and before).

    Both in one request are rejected, and either is rejected by models without thinking.
    Proven by: golden/gemini/thinking/thinking_budget, golden/gemini/thinking/no_thinking.
    """
    min_budget_tokens: int = 128
    """Tokens of the smallest budget that is not 0 (2.5-flash-lite: 512).

    Proven by: golden/gemini/thinking/client_budget.
    """
    max_budget_tokens: int = 24_576
    """Tokens of the largest budget (2.5-pro: 32,768). Proven by: golden/gemini/thinking/thinking_budget."""
    effort_names: tuple[tuple[str, str], ...] = ()
    """Requested effort → effort to send, from adaptations. Proven by: tests/unit/wire/gemini/test_adaptation.py."""
    sends_sampling: bool = False
    """True if `temperature`, `topP` and `topK` are sent. 3 and later loop below 1.0, ignore or reject them.

    Proven by: golden/gemini/thinking/thinking_budget (sent), golden/gemini/text/text (not sent).
    """
    requires_signatures: bool = True
    """True if the first call of each step must have a thought signature.

    3 and later answer 400 without one in the current turn. If the history has no valid one, the documented placeholder
    is sent. It stays in later turns, so that the provider's cache matches. 2.5 accepts signatures but needs no
    placeholder.
    Proven by: golden/gemini/thinking/foreign_signature.
    """
    replays_signatures: bool = True
    """True if signatures of the history are sent back. False: they were rejected.

    Proven by: tests/unit/wire/gemini/test_adaptation.py.
    """
    placeholder_encoding: Literal["text", "base64"] = "text"
    """Encoding of the placeholder signature. The field contains bytes, and clients send either form.

    Proven by: tests/unit/wire/gemini/test_adaptation.py.
    """
    sends_call_ids: bool = True
    """True if calls and results have ids. False: their order, which is always kept, links them.

    All servers of 3 and later accept ids (discovery document of Vertex AI, 2026-09-21). Other clients omit them for
    older models, because Vertex AI rejected the field until then.
    Proven by: golden/gemini/media/tool_result_image (sent), golden/gemini/media/tool_result_image_beside (not sent).
    """
    accepts_media_in_results: bool = True
    """True if images and PDFs stand inside `functionResponse.parts` (3 and later). False: beside the response.

    Proven by: golden/gemini/media/tool_result_image, golden/gemini/media/tool_result_image_beside.
    """
    accepts_schema_with_functions: bool = True
    """True if `responseJsonSchema` is accepted beside tools. False: the schema is requested as text (before 3).

    Proven by: golden/gemini/structured_output/json_output_in_words.
    """
    server_tools: tuple[ServerToolKind, ...] = ("web_search", "web_fetch", "code_execution")
    """Kinds of server tools that it runs itself: `googleSearch`, `urlContext` and `codeExecution`.

    Proven by: golden/gemini/server_tools/search_beside_functions, golden/gemini/server_tools/without_search.
    """
    server_tools_exclusive: bool = False
    """True if server tools exclude functions (before 3). Proven by: golden/gemini/server_tools/search_left_out."""
    search_with_functions: Literal["plain", "announced"] = "announced"
    """Form of search and URL context together with functions, and whether a search is announced before its text.

    AI Studio requires `includeServerSideToolInvocations` ("announced"); Vertex AI has no such field ("plain").
    Proven by: golden/gemini/server_tools/search_beside_functions, golden/gemini/server_tools/vertex.
    """
    accepts_excluded_domains: bool = False
    """True if a search accepts excluded domains; only Vertex AI has `excludeDomains` (`GoogleSearch` of the official
    SDK google-genai 3.3). False: pages of these domains are removed from the results.

    Proven by: golden/gemini/server_tools/vertex_search.
    """
    schema_form: Literal["json_schema", "lowered"] = "json_schema"
    """`parametersJsonSchema`, or the OpenAPI subset in `parameters` for models before 2.0.

    Proven by: golden/gemini/structured_output/schema, golden/gemini/structured_output/schema_lowered.
    """
    accepts_file_urls: bool = True
    """True if a file may be any public URL ("File input methods", 2026-01; not 2.0 and before).

    False: only the provider's own storage is referenced; other URLs become text.
    Proven by: golden/gemini/media/image_and_pdf, golden/gemini/media/image_url_named.
    """

    @property
    def accepts_thinking_budget(self) -> bool:
        """True for `thinkingBudget`."""
        return self.thinking == "budget"
