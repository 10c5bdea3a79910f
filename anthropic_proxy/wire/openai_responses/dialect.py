"""Deviations of Responses servers and models from OpenAI's own. The defaults describe its gpt-5."""

from typing import Literal

from anthropic_proxy.messages.preparation import ServerToolKind
from anthropic_proxy.wire.json_schema import UNRESTRICTED_RULES, SchemaRules
from anthropic_proxy.wire.openai_shared_fields import OpenAIDialect


class Dialect(OpenAIDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one server, or by model rules of one model, from Responses.

    Each field names the servers, the source and the golden case that fails without it. Unnamed sources are the vendors'
    own API references, read 2026-11.
    """

    signature_tag: str = "oai"
    """Tag of signatures, `px1.<tag>.…`. Only signatures with this tag are read back.

    Each provider has its own tag: no provider can decrypt another's reasoning.
    Proven by: golden/openai_responses/thinking/thinking_of_another_backend.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Pattern for tool names; other names get an alias.

    Proven by: golden/openai_responses/text/server_with_other_names.
    """
    max_tool_name_length: int = 64
    """Characters that a tool name may have. Proven by: golden/openai_responses/text/server_with_other_names."""
    always_stream: bool = False
    """True if every upstream request streams. Proven by: golden/openai_responses/text/always_streaming_server."""
    can_reason: bool = True
    """True if the model can reason. gpt-4.1, gpt-5-chat and others cannot, and reject `reasoning`, reasoning items and
    their encrypted content.

    Proven by: golden/openai_responses/thinking/model_without_reasoning.
    """
    replays_thinking: bool = True
    """True if reasoning of earlier replies is sent back. False: it was rejected.

    Proven by: tests/unit/wire/test_openai_responses.py.
    """
    effort_names: tuple[tuple[str, str], ...] = ()
    """Requested effort → effort to send, from adaptations. Proven by: tests/unit/wire/test_openai_responses.py."""
    requests_summaries: bool = True
    """True if reasoning summaries must be requested.

    xAI sends them without a request (recorded: responses_reasoning_store_false_stream) and rejects `reasoning` for some
    models.
    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """
    sampling_support: Literal["always", "not_thinking", "never"] = "not_thinking"
    """Condition for `temperature` and `top_p`.

    gpt-5.1 and later accept them only at the effort `none`; the o-series and the first gpt-5 never; gpt-4.1 always.
    Proven by: golden/openai_responses/thinking/effort_none, model_without_reasoning, o_series.
    """
    sends_parallel_tool_calls: bool = True
    """True if `parallel_tool_calls` is accepted; the o-series rejects it.

    Proven by: golden/openai_responses/thinking/o_series.
    """
    sends_phase: bool = False
    """True if assistant messages are marked as `commentary` before calls or as `final_answer`.

    gpt-5.3-codex and later require the mark in the history (reference of input messages); others do not know the field.
    Proven by: golden/openai_responses/text/two_turns.
    """
    sends_strict: bool = True
    """True if `strict` is accepted in tools and reply schemas; xAI rejects it.

    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """
    schema: SchemaRules = UNRESTRICTED_RULES
    """Limits of the schema language of tools, from adaptations.

    Proven by: tests/unit/wire/test_openai_adaptation.py.
    """
    sends_store: bool = True
    """True if `store: false` is accepted. False: it was rejected.

    Proven by: tests/unit/wire/test_openai_responses.py.
    """
    sends_truncation: bool = True
    """True if `truncation: "disabled"` is accepted; xAI lists it as unsupported.

    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """
    sends_service_tier: bool = True
    """True if `standard_only` is sent as `service_tier: "default"`; xAI lists it as unsupported.

    Proven by: golden/openai_responses/text/sampling_and_tier.
    """
    sends_user_id: bool = True
    """True if hashes of user and session are sent as `safety_identifier` and `prompt_cache_key`.

    Proven by: golden/openai_responses/text/text, xai_reasoning.
    """
    min_output_tokens: int = 16
    """The smallest output limit that is taken; a client that asks for less is cut here (pull requests of several
    gateways quote the refusal). Proven by: golden/openai_responses/text/server_without_least."""
    server_tools: tuple[ServerToolKind, ...] = ("web_search", "code_execution", "mcp_toolset")
    """Kinds of server tools that it runs itself: `web_search`, `code_interpreter` and `mcp`.

    o1, o3-mini and codex models have none, gpt-4.1-nano has no web search (the models' pages).
    Proven by: golden/openai_responses/server_tools/search_left_out.
    """
    requests_search_sources: bool = True
    """True if the URLs found by a search are requested; xAI's `include` accepts only encrypted reasoning.

    Proven by: golden/openai_responses/server_tools/xai_search.
    """
    accepts_excluded_domains: bool = False
    """True if a search accepts excluded domains (`filters.excluded_domains`, xAI), though not beside allowed ones.
    False: pages of these domains are removed from the results.

    Proven by: golden/openai_responses/server_tools/xai_search_exclusions.
    """
    sends_user_location: bool = True
    """True if a search accepts the user's location; xAI's page on web search has no such parameter.

    Proven by: golden/openai_responses/server_tools/xai_search_exclusions.
    """
    sends_max_tool_calls: bool = True
    """True if `max_tool_calls` is accepted; xAI has no such field.

    Proven by: golden/openai_responses/server_tools/xai_search.
    """
    sends_container: bool = True
    """True if code execution requires a `container` and a request for its output; xAI's `code_interpreter` has neither.

    Proven by: golden/openai_responses/server_tools/xai_code_execution.
    """
    sends_require_approval: bool = True
    """True if `require_approval` of MCP servers is accepted; xAI calls them without approval.

    Proven by: golden/openai_responses/server_tools/xai_connector.
    """
    accepts_forced_server_tool: bool = True
    """True if one of several server tools can be forced; xAI's `tool_choice` names functions only.

    Proven by: golden/openai_responses/server_tools/xai_search_forced.
    """
    image_types: tuple[str, ...] = ("image/jpeg", "image/png", "image/gif", "image/webp")
    """Media types of pictures; xAI takes only JPEG and PNG. Proven by: golden/openai_responses/media/xai_picture."""
    accepts_media_in_results: bool = True
    """True if function results may contain images and files (reference of `function_call_output`). False: they were
    rejected, and follow in a user message.

    Proven by: golden/openai_responses/media/pictures_behind_results.
    """
    session_header: str = ""
    """Header that keeps a session on one machine, for its cache: xAI's `x-grok-conv-id`.

    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """

    def is_thinking(self, effort: str) -> bool:
        """Return True if the model reasons at this effort (`default`, `none` or a level)."""
        return self.can_reason and effort != "none"
