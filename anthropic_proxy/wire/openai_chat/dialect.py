"""`Dialect`: differences of Chat Completions servers and models from OpenAI's API with gpt-4.1, one field each.

Fields state what a server accepts, what is sent, how reasoning and thinking are exchanged, and which repairs apply.
"""

from typing import Literal

from anthropic_proxy.messages.preparation import PreparedRequest, ServerToolKind
from anthropic_proxy.wire.json_schema import UNRESTRICTED_RULES, SchemaRules
from anthropic_proxy.wire.openai_shared_fields import OpenAIDialect
from anthropic_proxy.wire.tool_call_repair import ThinkingTags, ToolCallFormat


class Dialect(OpenAIDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one server, or by model rules of one model, from Chat Completions.

    Each field names the servers, the source and the golden case that fails without it. Unnamed sources are the vendors'
    own API references, read 2026-11.
    """

    signature_tag: str = "oai"
    """Tag in signatures of the proxy, `px1.<tag>.…`. Thinking with another tag is not sent back to the provider.

    Every provider has its own, because one provider's reasoning means nothing to another.
    Proven by: golden/openai_chat/thinking/thinking_of_another_backend.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Pattern for tool names; other names get an alias. Moonshot requires a letter first.

    Proven by: golden/openai_chat/tools/moonshot_tool_names.
    """
    max_tool_name_length: int = 64
    """Maximum number of characters of a tool name.

    Proven by: golden/openai_chat/tools/long_tool_names, short_tool_names.
    """
    always_stream: bool = False
    """True if every upstream request streams, because the server supports nothing else.

    Proven by: golden/openai_chat/text/always_streaming_server.
    """
    system_role: Literal["system", "developer"] = "system"
    """Role of the system prompt.

    OpenAI's o-series, gpt-5 and later take `developer`; compatible servers know only `system`.
    Proven by: golden/openai_chat/thinking/reasoning_model.
    """
    mid_conversation_system: Literal["keep", "remind"] = "keep"
    """Form of a system message between other messages. `keep`: a system message. `remind`: text in a user message.

    Chat templates of local models reject a late system message and require alternating user and assistant messages
    (llama.cpp, vLLM with `--chat-template`). Consecutive user messages are then merged.
    Proven by: golden/openai_chat/text/late_system_reminder.
    """
    output_limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """Request field with the maximum number of output tokens.

    OpenAI deprecates `max_tokens` and refuses it for reasoning models (recorded: err_max_tokens_unsupported). DeepSeek,
    Mistral, Z.ai and most local servers know only `max_tokens`. Proven by: golden/openai_chat/thinking/local_server.
    """
    sampling_support: Literal["always", "not_thinking", "never"] = "always"
    """Condition for `temperature` and `top_p`.

    OpenAI's reasoning models reject them unless the effort is `none`, the o-series always; Kimi fixes them from k2.5.
    Proven by: golden/openai_chat/thinking/reasoning_model, golden/openai_chat/thinking/moonshot_thinking.
    """
    sends_parallel_tool_calls: bool = True
    """True if `parallel_tool_calls` is accepted; the o-series rejects it.

    Proven by: golden/openai_chat/thinking/o_series.
    """
    effort_form: Literal["omit", "reasoning_effort", "thinking", "thinking_and_effort", "reasoning"] = "omit"
    """Field for the effort: none; `reasoning_effort`; `thinking: {type}` (Kimi k2.5 and k2.6, Z.ai); both (DeepSeek
    v4); `reasoning: {effort}` (OpenRouter).

    Proven by: golden/openai_chat/thinking/reasoning_model, moonshot_thinking, deepseek_thinking, openrouter_reasoning.
    """
    effort_names: tuple[tuple[str, str], ...] = ()
    """Pairs of a requested effort level and the server's name for that level, where the two differ.

    Groq's qwen3.6 knows only `none` and `default`; Kimi k3 and glm-5.3 have low, high and max.
    Proven by: golden/openai_chat/thinking/groq_qwen_on_or_off, moonshot_k3.
    """
    forced_effort_with_tools: str = ""
    """Effort that is sent whenever there are tools. "": the requested effort.

    gpt-5.4 and later reject tools here at any effort but `none`, which gpt-5.6 requires explicitly.
    Proven by: golden/openai_chat/thinking/reasoning_model_with_tools.
    """
    requires_message_after_results: bool = False
    """True if an assistant message must stand between tool results and a user message.

    Without it Mistral answers 400, `Unexpected role 'user' after role 'tool'` (mistral-common, `validator.py`), on its
    own server and wherever its tokenizer runs.
    Proven by: golden/openai_chat/text/mistral_text_after_result.
    """
    reasoning_mode: Literal["if_asked", "unless_off", "always", "never"] = "if_asked"
    """Condition for reasoning. `accepts_forced_tool` and `thinking_replay_scope` depend on it.

    Kimi from k2.5 on and DeepSeek v4 reason unless it is switched off; Kimi k2.7-code and k3 always.
    Proven by: golden/openai_chat/tools/moonshot_forced_tool, golden/openai_chat/thinking/deepseek_thinking_off.
    """
    thinking_request_field: Literal["", "include_reasoning", "reasoning_format"] = ""
    """Field that requests reasoning apart from the text: `include_reasoning: true` (Groq's gpt-oss) or
    `reasoning_format: "parsed"` (Groq's qwen3, which otherwise writes `<think>`).

    Proven by: golden/openai_chat/thinking/groq_thinking, golden/openai_chat/thinking/groq_qwen.
    """
    thinking_retention_field: Literal["", "keep", "clear_thinking"] = ""
    """Field that makes the server keep the reasoning of earlier turns: `thinking.keep: "all"` (Kimi k2.6 and later;
    k2.5 rejects it) or `thinking.clear_thinking: false` (Z.ai, recorded).

    Proven by: golden/openai_chat/thinking/moonshot_thinking, golden/openai_chat/thinking/zai_thinking.
    """
    replayed_thinking_field: Literal["", "reasoning_content", "reasoning", "content"] = ""
    """Field of an assistant message in which its past reasoning is sent back. "": past reasoning is dropped.

    Kimi, DeepSeek and Z.ai require or want `reasoning_content` (recorded: deepseek/thinking_tools), Groq takes
    `reasoning`; Mistral takes `thinking` chunks before the text of `content` (docs.mistral.ai, "Reasoning", 2026-11-20;
    vercel/ai packages/mistral). Proven by: golden/openai_chat/thinking/moonshot_thinking, groq_thinking,
    mistral_thinking.
    """
    thinking_replay_scope: Literal["kept", "calls", "every"] = "kept"
    """Assistant messages that must contain reasoning while the model reasons: those with reasoning in the history;
    those with tool calls (else Kimi answers 400); all (DeepSeek v4). Lost reasoning becomes one space.

    Proven by: golden/openai_chat/thinking/moonshot_thinking, golden/openai_chat/thinking/deepseek_thinking.
    """
    replays_reasoning_details: bool = False
    """True if `reasoning_details` are stored and sent back unchanged (OpenRouter, for signed reasoning).

    Proven by: golden/openai_chat/thinking/openrouter_reasoning, openrouter_reasoning_replayed.
    """
    thinking_tags: tuple[ThinkingTags, ...] = ()
    """Tags that may enclose reasoning at the start of the text: `<think>`, `[THINK]` …
    (`wire/tool_call_repair/thinking_tags.py`).

    Servers without a parser for their model leave it there (older vLLM, LM Studio and llama.cpp). `unopened` is only
    for models with the first tag in their chat template.
    Proven by: golden/openai_chat/thinking/think_tags, think_tags_unopened, think_tags_of_other_models.
    """
    text_call_formats: tuple[ToolCallFormat, ...] = ()
    """Formats of tool calls in the text (`wire/tool_call_repair/formats.py`).

    Servers without a parser for their model, or without the setting for it (vLLM's `--tool-call-parser`), leave them
    there. Text is buffered only while it may become a call of an offered tool; other text is unchanged.
    Proven by: golden/openai_chat/tools/text_call_hermes, text_call_functions, text_call_function_json, text_call_keys,
    text_call_python_tag, text_call_listed, text_call_section, text_call_barred, text_call_tool_code, text_call_channel,
    text_call_invoke, text_call_bare_json, text_call_bare_python.
    """
    repairs_tool_names: bool = False
    """True if an unknown tool name is replaced by the only offered tool that it can mean. A call without a name becomes
    a call of the only tool that accepts its arguments (`wire/tool_call_repair/offered_tools.py`).

    Small models call `functions.Read` or `read`. An ambiguous name is unchanged: the client reports an unknown tool,
    and the model calls again.
    Proven by: golden/openai_chat/tools/odd_tool_names, nameless_calls.
    """
    buffers_tool_arguments: bool = False
    """True if the arguments of a call are buffered until its end, and repaired if they are not JSON
    (`wire/tool_call_repair/arguments.py`).

    Servers of small models send the model's text unchanged. Sent fragments cannot be recalled, so fragments of other
    servers pass at once.
    Proven by: golden/openai_chat/tools/mended_arguments, unmended_arguments.
    """
    accepts_tools: bool = True
    """True if tools are accepted; gpt-6-astra and gpt-6.1-sol accept them only on Responses.

    Proven by: golden/openai_chat/tools/tools_elsewhere.
    """
    sends_tool_stream: bool = False
    """True if `tool_stream: true` is sent with tools in a stream. Without it Z.ai sends arguments only at the end of a
    call (docs.z.ai, "Tool streaming"; opencrabs glm_reasoning.rs, 2026-11-20).

    Proven by: golden/openai_chat/tools/zai_tool_stream.
    """
    accepts_forced_tool: Literal["always", "any", "not_thinking", "never"] = "always"
    """Condition under which `tool_choice` may force a call. Otherwise it is `auto`, and a user text asks for the call.

    Kimi k2 and DeepSeek reject it while they reason. Where the client did not ask for reasoning and it can be off, it
    is. "any": `required` is accepted, a named tool is not known to be (Kimi k3: platform.kimi.ai/docs/api/chat,
    2026-11-20), so a user text names it.
    Proven by: golden/openai_chat/tools/moonshot_forced_tool, moonshot_forced_tool_thinking, moonshot_k3_forced_tool,
    moonshot_k3_any_tool.
    """
    sends_strict: bool = True
    """True if `strict` is accepted in tools; xAI and Z.ai reject it.

    Proven by: golden/openai_chat/tools/xai_strict_tool.
    """
    schema_rules: SchemaRules = UNRESTRICTED_RULES
    """Limits of the schema language: Moonshot's has no `$ref` and no `type` beside `anyOf`.

    Proven by: golden/openai_chat/structured_output/moonshot_schema.
    """
    prefill_form: Literal["ask", "prefix", "partial"] = "ask"
    """Continuation of a last assistant message: a user text requests it, or the message is marked `prefix: true`
    (DeepSeek, Mistral) or `partial: true` (Moonshot).

    Proven by: golden/openai_chat/text/prefill, golden/openai_chat/text/moonshot_prefill.
    """
    accepts_image_urls: bool = True
    """True if images may be sent as URLs; Moonshot accepts only their data. Proven by: moonshot_image_url."""
    image_types: tuple[str, ...] = ("image/jpeg", "image/png", "image/gif", "image/webp")
    """Media types of pictures; xAI takes only JPEG and PNG. Proven by: golden/openai_chat/media/xai_picture."""
    pdf_form: Literal["file", "document_url"] = "file"
    """Part that holds a PDF: `file`, or `document_url` with an address or data (Mistral: docs.mistral.ai, "Document
    QnA"; vercel/ai packages/mistral, 2026-11-20). Proven by: golden/openai_chat/media/mistral_pdf.
    """
    accepts_pdf_urls: bool = False
    """True if a PDF may be sent as a URL (Mistral; OpenRouter, "PDF inputs", 2026-11-20).

    Proven by: golden/openai_chat/media/mistral_pdf, openrouter_pdf.
    """
    sends_top_k: bool = False
    """True if `top_k` is accepted: OpenRouter (its SDK, chatrequest.ts), vLLM, SGLang, llama.cpp, LM Studio (their API
    references, 2026-11-20).

    Proven by: golden/openai_chat/text/openrouter_top_k, local_server_top_k.
    """
    sends_cache_marks: bool = False
    """True if the `cache_control` marks of a request are sent: at its top level, on the system prompt and on the last
    message. OpenRouter caches Claude and Qwen only on request: Claude by either, Qwen by marks of messages ("Prompt
    caching"; its SDK, chatrequest.ts, 2026-11-20).

    Proven by: golden/openai_chat/text/openrouter_cache_marks, openrouter_cache_marks_in_a_loop.
    """
    session_field: Literal["", "session_id"] = ""
    """Field that keeps a session at one provider, for its cache: OpenRouter's `session_id` ("Prompt caching",
    2026-11-20). Proven by: golden/openai_chat/text/openrouter_cache_marks.
    """
    reply_schema_form: Literal["json_schema", "json_object", "ask"] = "json_schema"
    """Form of a reply schema: `response_format` with the schema; `json_object` and the schema in the system prompt
    (DeepSeek, older Kimi, Z.ai); the system prompt alone.

    Proven by: golden/openai_chat/structured_output/structured_output,
    golden/openai_chat/structured_output/deepseek_json.
    """
    reply_schema_exclusive: bool = False
    """True if `response_format` excludes tools and streaming, so that the system prompt is used instead (Groq).

    Proven by: golden/openai_chat/structured_output/groq_json.
    """
    sends_user_id: bool = False
    """True if hashes of user and session are sent as `safety_identifier` and `prompt_cache_key` (OpenAI).

    Proven by: golden/openai_chat/text/text.
    """
    sends_store: bool = False
    """True if `store: false` is accepted (OpenAI). Proven by: golden/openai_chat/text/text."""
    sends_service_tier: bool = False
    """True if `standard_only` is sent as `service_tier: "default"` (OpenAI).

    Proven by: golden/openai_chat/text/sampling.
    """
    sends_include_usage: bool = True
    """True if `stream_options: {include_usage}` is accepted; a few old servers reject it. Proven by: local_server."""
    session_header: str = ""
    """Header that keeps a session on one machine, for its cache: xAI's `x-grok-conv-id`. Proven by: xai_thinking."""
    omits_null_content: bool = False
    """True if `content: null` is omitted in an assistant message with calls (Groq). Proven by: groq_thinking."""
    server_tools: tuple[ServerToolKind, ...] = ()
    """Kinds of server tools that the server runs itself: those of `server_tool_names`.

    Proven by: golden/openai_chat/server_tools/groq_search, groq_compound, openrouter_search.
    """
    server_tools_exclusive: bool = False
    """True if the server rejects a request with both server tools and client tools.

    Groq's systems accept no functions; its models are documented with one kind only.

    Proven by: golden/openai_chat/server_tools/groq_search_beside_functions.
    """
    server_tool_names: tuple[tuple[ServerToolKind, str], ...] = ()
    """Pairs of a kind of server tool and the server's name for the tool.

    Proven by: golden/openai_chat/server_tools/groq_search, groq_compound, openrouter_search.
    """
    server_tool_form: Literal["type", "enabled"] = "type"
    """Form of server tools: the `type` of a tool, or (Groq's systems) `enabled_tools` of `compound_custom`, with the
    settings of a search beside it.

    Proven by: golden/openai_chat/server_tools/groq_compound.
    """
    server_tool_setting_names: tuple[tuple[str, str], ...] = ()
    """Pairs of a web search limit of the client and the server's setting for it.

    Proven by: golden/openai_chat/server_tools/groq_compound, openrouter_search.
    """
    call_id_form: Literal["short", "nine", "counted"] = "short"
    """Form of call ids: up to 40 characters (OpenAI); exactly nine letters or digits (Mistral); `functions.<name>:<n>`,
    counted through the conversation, as in Kimi k2's training template.

    Proven by: golden/openai_chat/tools/long_call_ids, mistral_call_ids, moonshot_k2_ids.
    """

    def must_disable_thinking(self, request: PreparedRequest) -> bool:
        """Return True if reasoning that was not requested must be switched off because it excludes a forced call."""
        choice = request.tool_choice
        return (
            choice is not None
            and choice.type in ("any", "tool")
            and request.effort == "default"
            and self.accepts_forced_tool == "not_thinking"
            and self.reasoning_mode == "unless_off"
            and self.effort_form in ("thinking", "thinking_and_effort")
        )

    def is_thinking(self, effort: str) -> bool:
        """Return True if the model reasons when the client requests this effort (`default`, `none` or a level)."""
        if self.reasoning_mode == "if_asked":
            return effort not in ("default", "none")
        return self.reasoning_mode == "always" or (self.reasoning_mode == "unless_off" and effort != "none")
