"""How servers of Responses, and their models, deviate from OpenAI's own; the defaults are those of its gpt-5."""

from typing import Literal

from msgspec import Struct

from anthropic_proxy.messages.prepare import Kind
from anthropic_proxy.wire.schema import STANDARD, SchemaRules


class Dialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One server's, and by model rules one model's, way of speaking Responses.

    Each field says who differs, how we know, and which golden scenario fails without it. Sources that are not named
    are the vendors' own API references, read 2026-11.
    """

    carry_tag: str = "oai"
    """First word of the reasoning carry, `px1.<tag>.…`: only a carry with this very tag is read back.

    Every provider has its own: nobody can decrypt another's reasoning.
    Proven by: golden/openai_responses/thinking_of_another_backend.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """What a tool name must match; others get an alias.

    Proven by: golden/openai_responses/server_with_other_names.
    """
    tool_name_length: int = 64
    """Characters that a tool name may have. Proven by: golden/openai_responses/server_with_other_names."""
    streams_always: bool = False
    """Whether the upstream is asked to stream even where the client is not answered so.

    Proven by: golden/openai_responses/always_streaming_server.
    """
    reasons: bool = True
    """Whether the model can reason. gpt-4.1, gpt-5-chat and others cannot, and refuse `reasoning`, reasoning items and
    their encrypted content.

    Proven by: golden/openai_responses/model_without_reasoning.
    """
    replays_thinking: bool = True
    """Whether reasoning of earlier replies is given back; False only where it was refused.

    Proven by: tests/test_openai_responses.py.
    """
    effort_names: tuple[tuple[str, str], ...] = ()
    """Our level → the server's word, where a refusal said so. Proven by: tests/test_openai_responses.py."""
    summaries: bool = True
    """Whether summaries of the reasoning must be asked for.

    xAI gives them without (recorded: responses_reasoning_store_false_stream) and refuses `reasoning` for some models.
    Proven by: golden/openai_responses/xai_reasoning.
    """
    sampling: Literal["always", "not_thinking", "never"] = "not_thinking"
    """When temperature and top_p are said.

    gpt-5.1 and later take them only at the effort `none`; the o-series and the first gpt-5 never; gpt-4.1 always.
    Proven by: golden/openai_responses/effort_none, model_without_reasoning, o_series.
    """
    says_parallel: bool = True
    """Whether `parallel_tool_calls` is known; the o-series refuses it. Proven by: golden/openai_responses/o_series."""
    says_phase: bool = False
    """Whether messages of the model say if they are its `commentary` before calls or its `final_answer`.

    gpt-5.3-codex and later want theirs back (reference of input messages); others do not know the field.
    Proven by: golden/openai_responses/two_turns.
    """
    says_strict: bool = True
    """Whether tools and replies may be `strict`; xAI refuses it. Proven by: golden/openai_responses/xai_reasoning."""
    schema: SchemaRules = STANDARD
    """What the schema language of tools lacks, where a refusal said so. Proven by: tests/test_healing.py."""
    says_store: bool = True
    """Whether `store: false` is known; False only where it was refused. Proven by: tests/test_openai_responses.py."""
    says_truncation: bool = True
    """Whether `truncation: "disabled"` is known; xAI lists it as unsupported.

    Proven by: golden/openai_responses/xai_reasoning.
    """
    says_service_tier: bool = True
    """Whether `standard_only` may be said as `service_tier: "default"`; xAI lists it as unsupported.

    Proven by: golden/openai_responses/sampling_and_tier.
    """
    names_user: bool = True
    """Whether hashes of user and session may be said as `safety_identifier` and `prompt_cache_key`.

    Proven by: golden/openai_responses/text, xai_reasoning.
    """
    least_output: int = 16
    """The smallest output limit that is taken; a client that asks for less is cut here (pull requests of several
    gateways quote the refusal). Proven by: golden/openai_responses/server_without_least."""
    output_limit: int | None = None
    """Tokens that one reply may have, where a refusal said so; None: what the request says.

    Proven by: tests/test_openai_responses.py.
    """
    server_tools: tuple[Kind, ...] = ("web_search", "code_execution", "mcp_toolset")
    """Kinds of server tools that it runs itself: `web_search`, `code_interpreter` and `mcp`.

    o1, o3-mini and codex models have none, gpt-4.1-nano has no web search (the models' pages).
    Proven by: golden/openai_responses/search_left_out.
    """
    search_sources: bool = True
    """Whether the addresses that a search found may be asked for; xAI's `include` knows only encrypted reasoning.

    Proven by: golden/openai_responses/xai_search.
    """
    search_exclusions: bool = False
    """Whether a search can be told domains to leave out (`filters.excluded_domains`), as xAI's, though not beside those
    that it is confined to. Where it cannot, their pages are left out of what it found.

    Proven by: golden/openai_responses/xai_search_exclusions.
    """
    search_place: bool = True
    """Whether a search can be told where the user is; xAI's page on web search knows no such parameter.

    Proven by: golden/openai_responses/xai_search_exclusions.
    """
    search_limit: bool = True
    """Whether `max_tool_calls` is known; xAI has no such field. Proven by: golden/openai_responses/xai_search."""
    says_container: bool = True
    """Whether a program's `container` must be said, and its output asked for; xAI's `code_interpreter` has neither.

    Proven by: golden/openai_responses/xai_code_execution.
    """
    says_approval: bool = True
    """Whether `require_approval` of servers of the client's is known; xAI calls them without asking.

    Proven by: golden/openai_responses/xai_connector.
    """
    forces_server_tools: bool = True
    """Whether one of several tools can be forced that is no function; xAI's `tool_choice` names functions only.

    Proven by: golden/openai_responses/xai_search_forced.
    """
    image_types: tuple[str, ...] = ("image/jpeg", "image/png", "image/gif", "image/webp")
    """Media types of pictures; xAI takes only JPEG and PNG. Proven by: golden/openai_responses/xai_picture."""

    takes_pictures: bool = True
    """Whether pictures and files are taken at all; False only where a refusal said so.

    Proven by: tests/test_openai_responses.py.
    """
    session_header: str = ""
    """Header that keeps a session on one machine, for its cache: xAI's `x-grok-conv-id`.

    Proven by: golden/openai_responses/xai_reasoning.
    """

    def is_thinking(self, effort: str) -> bool:
        """Whether the model reasons at this effort (`default`, `none` or a level)."""
        return self.reasons and effort != "none"
