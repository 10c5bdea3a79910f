"""`Dialect` of the Responses API: settings for the differences between servers and models.

The defaults describe OpenAI's server with gpt-5. The prefix of a field indicates its purpose. A field `accepts_…`
describes the server, a field `sends_…` or `requests_…` the request. A field `replays_…` concerns content of earlier
replies. An effort is the requested level of reasoning: `none`, `low`, `high`. An alias replaces a tool name that the
server rejects. An adaptation is a change of fields for the next request, after the server rejected one.
"""

from typing import Literal

from anthropic_proxy.engine.messages.loaded_tools import LoadedToolForm
from anthropic_proxy.engine.messages.models.structs import IMAGE_TYPES
from anthropic_proxy.engine.messages.server_tools import ServerToolKind
from anthropic_proxy.engine.wires.json_schema import UNRESTRICTED_RULES, SchemaRules
from anthropic_proxy.engine.wires.openai_shared import OpenAIDialect


class Dialect(OpenAIDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one server from OpenAI's Responses API. Model rules may replace fields for one model."""

    # Each field names the servers, the source and the golden case that fails without the field. Unnamed sources are the
    # vendors' own API references, read 2026-11.
    signature_tag: str = "oai"
    """Tag in the signatures of thinking blocks (`px1.<tag>.…`). Signatures with other tags are not sent back.

    Each provider has its own tag, because no provider can decrypt the reasoning of another provider.
    Proven by: golden/openai_responses/thinking/thinking_of_another_backend.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Regular expression for a complete tool name. Other names get an alias.

    Proven by: golden/openai_responses/text/server_with_other_names.
    """
    max_tool_name_length: int = 64
    """Maximum number of characters of a tool name; longer names get an alias.

    Proven by: golden/openai_responses/text/server_with_other_names.
    """
    offers_decisions: bool = False
    """True if the model answers questions with fixed choices at `/decisions`. Source: `DecisionCreateParams` of the
    official SDK `openai` 3.51. Proven by: tests/unit/exchange/test_decisions.py."""
    sends_additional_tools: bool = False
    """True if tools that the client's tool search has loaded are sent as items `additional_tools`, behind the result of
    the search, so that the list of tools stays as it is. Source: `AdditionalTools` of the official SDK `openai` 3.54;
    only gpt-5.4 and later have tool search (developers.openai.com/api/docs/guides/tools, read 2026-11-25). It is
    inferred that they are the models for this item; it is left out once a server has rejected it.

    Proven by: golden/openai_responses/tools/loaded_tool.
    """
    sends_configuration_updates: bool = False
    """True if a changed effort is sent as an item `configuration_update` before the user message from which it applies.
    `reasoning.effort` then stays as the conversation began, because it is part of the cached prompt. GPT-6 and later,
    without their pro models (openrouter.ai/docs, GPT-6 Migration Guide; developers.openai.com/api/docs/guides/
    latest-model; `ResponseConfigurationUpdateItemParam` of the official SDK `openai` 3.51; read 2026-11-25). For
    GPT-6.2 this is inferred from the guide keep-prefix-unchanged; a server that rejects the item gets it no more.

    Proven by: tests/unit/exchange/test_effort_changes.py, tests/golden_texts/routes/rules.txt.
    """
    sends_cache_breakpoint: bool = False
    """True if the system text is sent as the first message, with `prompt_cache_breakpoint` at its end, if the client
    has marked its prompt for caching (`cache_control`). gpt-5.6 and later cache a prompt only up to the latest message,
    so without it each session, subagent and cleared conversation writes tools and system text again, at 1.25 of the
    price (guide to prompt caching; `ResponseInputTextParam` of the official SDK `openai` 3.54).

    Proven by: golden/openai_responses/text/cache_breakpoint.
    """
    always_stream: bool = False
    """True if every upstream request streams. Proven by: golden/openai_responses/text/always_streaming_server."""
    can_reason: bool = True
    """True if the model can reason. False for gpt-4.1, gpt-5-chat and others.

    These models reject `reasoning`, reasoning items and encrypted reasoning, so the proxy omits all of them.

    Proven by: golden/openai_responses/thinking/model_without_reasoning.
    """
    replays_thinking: bool = True
    """True if reasoning of earlier replies is sent back. False: the server rejected the reasoning.

    Proven by: tests/golden_texts/replies/openai_responses.txt.
    """
    effort_names: tuple[tuple[str, str], ...] = ()
    """Pairs of a requested effort level and the level to send. Adaptations add pairs after a rejection.

    Proven by: tests/golden_texts/replies/openai_responses.txt.
    """
    requests_summaries: bool = True
    """True if reasoning summaries are requested with `reasoning.summary`.

    xAI sends summaries without a request (recorded: responses_reasoning_store_false_stream) and rejects `reasoning` for
    some models.
    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """
    sampling_support: Literal["always", "not_thinking", "never"] = "not_thinking"
    """Condition on which `temperature` and `top_p` are sent. `not_thinking`: only with the effort `none`.

    gpt-5.1 and later accept both only at the effort `none`; the o-series and the first gpt-5 never; gpt-4.1 always.
    Proven by: golden/openai_responses/thinking/effort_none, model_without_reasoning, o_series.
    """
    sends_parallel_tool_calls: bool = True
    """True if `parallel_tool_calls` is sent; the o-series rejects the field.

    Proven by: golden/openai_responses/thinking/o_series.
    """
    sends_phase: bool = False
    """True if `phase` is sent in assistant messages: `commentary` before tool calls, else `final_answer`.

    gpt-5.3-codex and later require the field in the history (reference of input messages); other models lack it.
    Proven by: golden/openai_responses/text/two_turns.
    """
    sends_strict: bool = True
    """True if `strict` is sent in tools and reply schemas; xAI rejects the field.

    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """
    schema_rules: SchemaRules = UNRESTRICTED_RULES
    """Rules for the JSON Schemas of tools. Adaptations restrict the rules after a rejection.

    Proven by: tests/golden_texts/exchanges/openai_rejections.txt.
    """
    sends_store: bool = True
    """True if `store: false` is sent. A setting turns it off for a server that lacks the field.

    Proven by: golden/openai_responses/text/server_without_store.
    """
    sends_truncation: bool = True
    """True if `truncation: "disabled"` is sent; xAI lists the field as unsupported.

    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """
    sends_service_tier: bool = True
    """True if the client's `service_tier: "standard_only"` is sent as `"default"`; xAI lists the field as unsupported.

    Proven by: golden/openai_responses/text/sampling_and_tier.
    """
    sends_user_id: bool = True
    """True if a hash of the client's user is sent as `safety_identifier`.

    Proven by: golden/openai_responses/text/text.
    """
    session_field: Literal["", "session_id", "prompt_cache_key"] = "prompt_cache_key"
    """Request field with a hash of the session, which finds the cached prompt. "": none, for unknown servers. xAI's
    Responses API reads `prompt_cache_key` (docs.x.ai, "Maximizing cache hits", 2026-11).

    Proven by: golden/openai_responses/text/text.
    """
    min_output_tokens: int = 16
    """Minimum of `max_output_tokens` that the server accepts (error text quoted in pull requests of several gateways).

    If the client's limit is lower, this minimum is sent, and the proxy cuts the reply at the client's limit. Proven by:
    golden/openai_responses/text/server_without_least.
    """
    server_tools: tuple[ServerToolKind, ...] = ("web_search", "code_execution", "mcp_toolset")
    """Kinds of server tools that the provider runs, sent as `web_search`, `code_interpreter` and `mcp`.

    o1, o3-mini and codex models have none, gpt-4.1-nano has no web search (the models' pages). Proven by:
    golden/openai_responses/server_tools/search_left_out.
    """
    requests_reasoning_state: bool = True
    """True if the request asks for the encrypted reasoning, which the next request sends back. Proven by:
    tests/unit/exchange/test_plain_form.py.
    """
    requests_search_sources: bool = True
    """True if the request asks for the URLs found by a web search. xAI's `include` accepts only encrypted reasoning.

    Proven by: golden/openai_responses/server_tools/xai_search.
    """
    accepts_excluded_domains: bool = False
    """True if `blocked_domains` of the client's search tool are sent as `filters.excluded_domains` (xAI).

    xAI rejects them together with allowed domains. False: the proxy removes pages of blocked domains from the results.

    Proven by: golden/openai_responses/server_tools/xai_search_exclusions.
    """
    sends_user_location: bool = True
    """True if `user_location` of the client's search tool is sent; xAI's page on web search has no such parameter.

    Proven by: golden/openai_responses/server_tools/xai_search_exclusions.
    """
    sends_max_tool_calls: bool = True
    """True if `max_tool_calls` is sent as the limit of searches; xAI lacks the field.

    Proven by: golden/openai_responses/server_tools/xai_search.
    """
    sends_container: bool = True
    """True if `container` is sent with code execution, and the output of programs is requested. xAI supports neither.

    Proven by: golden/openai_responses/server_tools/xai_code_execution.
    """
    sends_require_approval: bool = True
    """True if `require_approval: "never"` is sent for MCP servers; xAI never asks for approval.

    Proven by: golden/openai_responses/server_tools/xai_connector.
    """
    accepts_forced_server_tool: bool = True
    """True if `tool_choice` may force a server tool although the request has other tools. xAI accepts only functions.

    Proven by: golden/openai_responses/server_tools/xai_search_forced.
    """
    image_types: tuple[str, ...] = IMAGE_TYPES
    """Media types of images that the server accepts; xAI accepts only JPEG and PNG.

    Proven by: golden/openai_responses/media/xai_picture.
    """
    accepts_media_in_results: bool = True
    """True if tool results may contain images and files (reference of `function_call_output`).

    False: the server rejected images or files there. They are sent in a user message after the results. Proven by:
    golden/openai_responses/media/pictures_behind_results.
    """
    session_header: str = ""
    """Name of the request header with a hash of the session, which selects a machine with a warm cache: xAI's
    `x-grok-conv-id`. "": none.

    Proven by: golden/openai_responses/thinking/xai_reasoning.
    """

    @property
    def loaded_tool_form(self) -> LoadedToolForm:
        return "items" if self.sends_additional_tools and self.loaded_tools != "listed" else self.loaded_tools

    def is_thinking_at_effort(self, effort: str) -> bool:
        """Return True if the model reasons at this effort: `default`, `none` or a level such as `high`."""
        return self.can_reason and effort != "none"

    @property
    def sends_effort_changes(self) -> bool:
        return self.sends_configuration_updates
