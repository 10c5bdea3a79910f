"""How servers of Chat Completions deviate from OpenAI's own; the defaults are what OpenAI does for gpt-4.1."""

from typing import Literal

from msgspec import Struct

from anthropic_proxy.messages.prepare import Kind, PreparedRequest
from anthropic_proxy.wire.recover import TextConvention, ThinkingTags
from anthropic_proxy.wire.schema import STANDARD, SchemaRules


class Dialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One server's, and by model rules one model's, way of speaking Chat Completions.

    Each field says who differs, how we know, and which golden scenario fails without it. Sources that are not named
    are the vendors' own API references, read 2026-11.
    """

    carry_tag: str = "oai"
    """First word of the reasoning carry, `px1.<tag>.…`: only a carry with this very tag is read back.

    Every provider has its own, because one provider's reasoning means nothing to another.
    Proven by: golden/openai_chat/thinking_of_another_backend.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """What a tool name must match; others get an alias.

    Moonshot wants a letter first. Proven by: golden/openai_chat/moonshot_tool_names.
    """
    tool_name_length: int = 64
    """Characters that a tool name may have. Proven by: golden/openai_chat/long_tool_names, short_tool_names."""
    streams_always: bool = False
    """Whether the upstream is asked to stream even where the client is not answered so, because it does nothing else.

    Proven by: golden/openai_chat/always_streaming_server.
    """
    system_role: Literal["system", "developer"] = "system"
    """Role of the system prompt.

    OpenAI's o-series, gpt-5 and later take `developer`; compatible servers know only `system`.
    Proven by: golden/openai_chat/reasoning_model.
    """
    late_system: Literal["keep", "remind"] = "keep"
    """What becomes of a system message in the middle: its own message, or a reminder in a user message.

    Chat templates of local models refuse a late system message, and want user and assistant to take turns (llama.cpp,
    vLLM with `--chat-template`): what users say in a row is then one message.
    Proven by: golden/openai_chat/late_system_reminder.
    """
    limit_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """Name of the output limit.

    OpenAI deprecates `max_tokens` and refuses it for reasoning models (recorded: err_max_tokens_unsupported). DeepSeek,
    Mistral, Z.ai and most local servers know only `max_tokens`. Proven by: golden/openai_chat/local_server.
    """
    output_limit: int | None = None
    """Tokens that one reply may have, where a refusal said so; None: what the request says.

    Proven by: tests/test_healing.py.
    """
    takes_pictures: bool = True
    """Whether pictures and files are taken at all; False only where a refusal said so.

    Proven by: tests/test_healing.py.
    """
    sampling: Literal["always", "not_thinking", "never"] = "always"
    """When temperature and top_p are said.

    OpenAI's reasoning models refuse them unless the effort is `none`, the o-series always; Kimi fixes them from k2.5.
    Proven by: golden/openai_chat/reasoning_model, golden/openai_chat/moonshot_thinking.
    """
    says_parallel: bool = True
    """Whether `parallel_tool_calls` is known; the o-series refuses it. Proven by: golden/openai_chat/o_series."""
    effort: Literal["omit", "reasoning_effort", "thinking", "thinking_and_effort", "reasoning"] = "omit"
    """How much to reason is said as: nothing; `reasoning_effort`; `thinking: {type}` (Kimi k2.5 and k2.6, Z.ai); both
    (DeepSeek v4); `reasoning: {effort}` (OpenRouter).

    Proven by: golden/openai_chat/reasoning_model, moonshot_thinking, deepseek_thinking, openrouter_reasoning.
    """
    effort_names: tuple[tuple[str, str], ...] = ()
    """Our level → the server's word, where it differs.

    Groq's qwen3 knows only `none` and `default`; Kimi k3 has low, high and max.
    Proven by: golden/openai_chat/groq_qwen.
    """
    effort_with_tools: str = ""
    """The level that is said instead wherever there are tools; empty: the one that was asked for.

    gpt-5.4 and later refuse tools here at any effort but `none`, which gpt-5.6 wants to hear.
    Proven by: golden/openai_chat/reasoning_model_with_tools.
    """
    bridges_results: bool = False
    """Whether an assistant message must stand between results of tools and a user message.

    Mistral answers 400 else, `Unexpected role 'user' after role 'tool'` (mistral-common, `validator.py`), on its own
    server and wherever its tokenizer runs. Proven by: golden/openai_chat/mistral_text_after_result.
    """
    thinks: Literal["if_asked", "unless_off", "always", "never"] = "if_asked"
    """When the model reasons. `forces_tools` and `thinking_replay` depend on it.

    Kimi from k2.5 on and DeepSeek v4 reason unless told not to; Kimi k2.7-code and k3 always.
    Proven by: golden/openai_chat/moonshot_forced_tool, golden/openai_chat/deepseek_thinking_off.
    """
    thinking_request: Literal["", "include_reasoning", "reasoning_format"] = ""
    """How reasoning apart from the text is asked for: `include_reasoning: true` (Groq's gpt-oss) or
    `reasoning_format: "parsed"` (Groq's qwen3, which else writes `<think>`).

    Proven by: golden/openai_chat/groq_thinking, golden/openai_chat/groq_qwen.
    """
    thinking_keeps: Literal["", "keep", "clear_thinking"] = ""
    """How the server is told not to drop the reasoning of earlier turns: `thinking.keep: "all"` (Kimi k2.6 and later;
    k2.5 refuses it) or `thinking.clear_thinking: false` (Z.ai, recorded).

    Proven by: golden/openai_chat/moonshot_thinking, golden/openai_chat/zai_thinking.
    """
    thinking_field: Literal["", "reasoning_content", "reasoning"] = ""
    """Field of an assistant message that takes its reasoning back; empty: none does, reasoning is dropped.

    Kimi, DeepSeek and Z.ai require or want `reasoning_content` (recorded: deepseek/thinking_tools), Groq takes
    `reasoning`. Proven by: golden/openai_chat/moonshot_thinking, groq_thinking.
    """
    thinking_replay: Literal["kept", "calls", "every"] = "kept"
    """Which assistant messages must have it while the model reasons: those whose reasoning the client still has; every
    one with tool calls (Kimi answers 400 else); every one (DeepSeek v4). What is lost becomes one space.

    Proven by: golden/openai_chat/moonshot_thinking, golden/openai_chat/deepseek_thinking.
    """
    carries_details: bool = False
    """Whether `reasoning_details` are carried and given back as they came (OpenRouter needs them for signed reasoning).

    Proven by: golden/openai_chat/openrouter_reasoning, openrouter_reasoning_replayed.
    """
    carries_call_signatures: bool = False
    """Whether `extra_content.google.thought_signature` is carried and put back (Gemini's OpenAI-style endpoint).

    Proven by: golden/openai_chat/gemini_compatible, gemini_compatible_replayed.
    """
    thinking_tags: tuple[ThinkingTags, ...] = ()
    """In which tags reasoning may stand at the start of the text: `<think>`, `[THINK]` … (`wire/recover/thinking.py`).

    Servers without a parser for their model leave it there (older vLLM, LM Studio and llama.cpp); `unopened` only for
    models whose chat template has said the first tag already.
    Proven by: golden/openai_chat/think_tags, think_tags_unopened, think_tags_of_other_models.
    """
    text_calls: tuple[TextConvention, ...] = ()
    """In which forms calls may stand in the text (`wire/recover/conventions.py`).

    Servers that know no parser for their model, or are not told which (vLLM's `--tool-call-parser`), leave them there.
    Text is held back only while it may still become a call of an offered tool; what is none passes as it was.
    Proven by: golden/openai_chat/text_call_hermes, text_call_functions, text_call_function_json, text_call_keys,
    text_call_python_tag, text_call_listed, text_call_section, text_call_barred, text_call_tool_code, text_call_channel,
    text_call_invoke, text_call_bare_json, text_call_bare_python.
    """
    mends_tool_names: bool = False
    """Whether a name that nobody offered is taken for the one offered tool that it can mean, and a call without a name
    for the one tool that takes its arguments (`wire/recover/offered.py`).

    Small models call `functions.Read` or `read`. A name that could mean two passes as it is: the client says that there
    is no such tool, and the model calls again. Proven by: golden/openai_chat/odd_tool_names, nameless_calls.
    """
    buffers_tool_arguments: bool = False
    """Whether a call's arguments are held until its end, and mended where they are no JSON (`recover/arguments.py`).

    Servers of small models send what the model wrote. Fragments that have left cannot be recalled, so every other
    server's pass at once, whatever they are. Proven by: golden/openai_chat/mended_arguments, unmended_arguments.
    """
    offers_tools: bool = True
    """Whether tools are taken at all: gpt-6-astra and gpt-6.1-sol have them only on Responses.

    Proven by: golden/openai_chat/tools_elsewhere.
    """
    forces_tools: Literal["always", "not_thinking", "never"] = "always"
    """When `tool_choice` may force a call; else it is `auto` and a user text asks for the call.

    Kimi and DeepSeek refuse it while they reason. Where nobody asked for that, and they can be told, they do not.
    Proven by: golden/openai_chat/moonshot_forced_tool, moonshot_forced_tool_thinking, moonshot_k3_forced_tool.
    """
    says_strict: bool = True
    """Whether tools may say `strict`; xAI and Z.ai refuse it. Proven by: golden/openai_chat/xai_strict_tool."""
    schema: SchemaRules = STANDARD
    """What the schema language lacks: Moonshot's has no `$ref` and no `type` beside `anyOf`.

    Proven by: golden/openai_chat/moonshot_schema.
    """
    prefill: Literal["ask", "prefix", "partial"] = "ask"
    """How the answer is made to go on from a last assistant message: a user text asks for it, or the message is marked
    `prefix: true` (DeepSeek, Mistral) or `partial: true` (Moonshot).

    Proven by: golden/openai_chat/prefill, golden/openai_chat/moonshot_prefill.
    """
    image_urls: bool = True
    """Whether pictures may be named by address; Moonshot takes only their data. Proven by: moonshot_image_url."""
    image_types: tuple[str, ...] = ("image/jpeg", "image/png", "image/gif", "image/webp")
    """Media types of pictures; xAI takes only JPEG and PNG. Proven by: golden/openai_chat/xai_picture."""
    json_output: Literal["json_schema", "json_object", "ask"] = "json_schema"
    """How a reply's schema is said: `response_format` with the schema; `json_object` and the schema in the system
    prompt (DeepSeek, older Kimi, Z.ai); the system prompt alone.

    Proven by: golden/openai_chat/structured_output, golden/openai_chat/deepseek_json.
    """
    json_output_alone: bool = False
    """Whether `response_format` excludes tools and streaming, so that the system prompt must do (Groq).

    Proven by: golden/openai_chat/groq_json.
    """
    names_user: bool = False
    """Whether hashes of user and session may be said as `safety_identifier` and `prompt_cache_key` (OpenAI).

    Proven by: golden/openai_chat/text.
    """
    says_store: bool = False
    """Whether `store: false` is known (OpenAI). Proven by: golden/openai_chat/text."""
    says_service_tier: bool = False
    """Whether `standard_only` may be said as `service_tier: "default"` (OpenAI).

    Proven by: golden/openai_chat/sampling.
    """
    says_usage: bool = True
    """Whether `stream_options: {include_usage}` is known; a few old servers refuse it. Proven by: local_server."""
    session_header: str = ""
    """Header that keeps a session on one machine, for its cache: xAI's `x-grok-conv-id`. Proven by: xai_thinking."""
    omits_null: bool = False
    """Whether `content: null` is left out of an assistant message with calls (Groq). Proven by: groq_thinking."""
    server_tools: tuple[Kind, ...] = ()
    """Kinds of server tools that the server runs itself: those of `server_tool_names`.

    Proven by: golden/openai_chat/groq_search, groq_compound, openrouter_search.
    """
    server_tools_alone: bool = False
    """Whether they may not stand beside functions: Groq's systems take none, and its models are documented with either.

    Proven by: golden/openai_chat/groq_search_beside_functions.
    """
    server_tool_names: tuple[tuple[Kind, str], ...] = ()
    """Kind → the server's own word. Proven by: golden/openai_chat/groq_search, groq_compound, openrouter_search."""
    server_tool_form: Literal["type", "enabled"] = "type"
    """How they are offered: as the `type` of a tool, or (Groq's systems) as `enabled_tools` of `compound_custom`, with
    the settings of a search beside it.

    Proven by: golden/openai_chat/groq_compound.
    """
    server_tool_settings: tuple[tuple[str, str], ...] = ()
    """Limit of a web search → its name among the settings. Proven by: golden/openai_chat/groq_compound,
    openrouter_search.
    """
    call_ids: Literal["short", "nine", "counted"] = "short"
    """What ids of calls must look like: up to 40 characters (OpenAI); exactly nine letters or digits (Mistral);
    `functions.<name>:<n>`, counted through the conversation, which Kimi k2's template was trained on.

    Proven by: golden/openai_chat/long_call_ids, mistral_call_ids, moonshot_k2_ids.
    """

    def must_not_think(self, request: PreparedRequest) -> bool:
        """Whether reasoning, which nobody asked for, is switched off because it forbids to force a call."""
        choice = request.tool_choice
        return (
            choice is not None
            and choice.type in ("any", "tool")
            and request.effort == "default"
            and self.forces_tools == "not_thinking"
            and self.thinks == "unless_off"
            and self.effort in ("thinking", "thinking_and_effort")
        )

    def is_thinking(self, effort: str) -> bool:
        """Whether the model reasons at this effort (`default`, `none` or a level)."""
        if self.thinks == "if_asked":
            return effort not in ("default", "none")
        return self.thinks == "always" or (self.thinks == "unless_off" and effort != "none")
