"""`Dialect`: differences of Chat Completions servers and models from OpenAI's API with gpt-4.1, one field each.

The prefix or suffix of a field indicates its purpose. A field `accepts_…` describes the server, a field `sends_…` the
request. A field `replay…` concerns reasoning of earlier replies, and a field `repairs_…` invalid output of models. A
field `…_field` or `…_header` is a name in the request. A field `…_form` selects one of several ways to send content. An
effort is the requested level of reasoning: `none`, `low`, `high`. A prefill is a last assistant message that the model
continues. An alias replaces a tool name that the server rejects.
"""

from typing import Literal

from anthropic_proxy.engine.messages.models.structs import IMAGE_TYPES
from anthropic_proxy.engine.messages.preparation import PreparedRequest
from anthropic_proxy.engine.messages.server_tools import ServerToolKind
from anthropic_proxy.engine.wires.json_schema import UNRESTRICTED_RULES, SchemaRules
from anthropic_proxy.engine.wires.openai_chat.effort_forms import EFFORT_FORMS, EffortFormName
from anthropic_proxy.engine.wires.openai_shared import OpenAIDialect
from anthropic_proxy.engine.wires.tool_call_repair import ThinkingTags, ToolCallFormat

ThinkingRetention = Literal["keep", "clear_thinking", "preserve_thinking"]


class Dialect(OpenAIDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one server from OpenAI's Chat Completions API. Model rules may replace fields for one model."""

    # Each field names the servers, the source and the golden case that fails without the field. Unnamed sources are the
    # vendors' own API references, read 2026-11.
    signature_tag: str = "oai"
    """Tag in the signatures of thinking blocks (`px1.<tag>.…`). Signatures with other tags are not sent back.

    Each provider has its own tag, because no provider can use the reasoning of another provider. Proven by:
    golden/openai_chat/thinking/thinking_of_another_backend.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Regular expression for a complete tool name; other names get an alias. Moonshot requires a letter first.

    Proven by: golden/openai_chat/tools/moonshot_tool_names.
    """
    max_tool_name_length: int = 64
    """Maximum number of characters of a tool name; longer names get an alias.

    Proven by: golden/openai_chat/tools/long_tool_names, short_tool_names.
    """
    always_stream: bool = False
    """True if every upstream request streams, because the server supports nothing else.

    Proven by: golden/openai_chat/text/always_streaming_server.
    """
    system_role: Literal["system", "developer"] = "system"
    """Role of the message with the system prompt.

    OpenAI's o-series, gpt-5 and later accept `developer`; compatible servers know only `system`. Proven by:
    golden/openai_chat/thinking/reasoning_model.
    """
    mid_conversation_system: Literal["keep", "prefer_remind", "remind"] = "keep"
    """Handling of a system message between other messages. `keep`: it is sent as a system message. `remind`: it is sent
    as text of a user message. `prefer_remind`: likewise, as long as the cached tokens do not fall. Local models
    (llama.cpp, vLLM with `--chat-template`) need `remind`, because their chat templates reject a late system message,
    or move it to the front, which changes the cached beginning of the prompt. Consecutive user messages are then
    merged. Proven by: golden/openai_chat/text/late_system_reminder, deepseek_late_system."""
    min_output_tokens: int = 1
    """Minimum of the output limit that the server accepts. If the client's limit is lower, this minimum is sent, and
    the proxy cuts the reply at the client's limit. OpenRouter has that of OpenAI's models, which is 16, and states it
    in an error (2026-11).

    Proven by: golden/openai_chat/text/least_output."""
    output_limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """Name of the request field with the maximum number of output tokens.

    OpenAI deprecates `max_tokens` and rejects it for reasoning models (recorded: err_max_tokens_unsupported). DeepSeek,
    Mistral, Z.ai and most local servers know only `max_tokens`. Proven by: golden/openai_chat/thinking/local_server.
    """
    sampling_support: Literal["always", "not_thinking", "never"] = "always"
    """Condition on which `temperature` and `top_p` are sent. `not_thinking`: only with the effort `none`.

    OpenAI's reasoning models reject both unless the effort is `none`, the o-series always; Kimi fixes both from k2.5.
    Proven by: golden/openai_chat/thinking/reasoning_model, moonshot_thinking.
    """
    sends_parallel_tool_calls: bool = True
    """True if `parallel_tool_calls` is sent; the o-series rejects the field.

    Proven by: golden/openai_chat/thinking/o_series.
    """
    effort_form: EffortFormName = "omit"
    """Request field for the effort level. `omit`: none. `reasoning_effort`: the field of this name.

    `EFFORT_FORMS` has the fields of each form, and the vendors that use it. Proven by:
    golden/openai_chat/thinking/reasoning_model, moonshot_thinking, deepseek_thinking, openrouter_reasoning,
    openrouter_adaptive, together_hybrid_off, dashscope_thinking, nvidia_glm_off, baseten_glm, kimi_code_effort.
    """
    effort_names: tuple[tuple[str, str], ...] = ()
    """Pairs of a requested effort level and the level to send, where the two differ.

    Groq's qwen3.6 knows only `none` and `default`; Kimi k3 and glm-5.3 know `low`, `high` and `max`. Proven by:
    golden/openai_chat/thinking/groq_qwen_on_or_off, moonshot_k3.
    """
    forced_effort_with_tools: str = ""
    """Effort that replaces the requested effort in each request with tools. "": no replacement.

    On Chat Completions, gpt-5.4 and later reject tools at any effort except `none`; gpt-5.6 requires an explicit
    `none`. Proven by: golden/openai_chat/thinking/reasoning_model_with_tools.
    """
    requires_message_after_results: bool = False
    """True if an assistant message must stand between tool results and a user message.

    Otherwise servers with Mistral's tokenizer answer 400, `Unexpected role 'user' after role 'tool'` (mistral-common,
    `validator.py`). Proven by: golden/openai_chat/text/mistral_text_after_result.
    """
    reasoning_mode: Literal["if_asked", "unless_off", "always", "never"] = "if_asked"
    """Condition on which the model reasons. `accepts_forced_tool` and `thinking_replay_scope` depend on it.

    `if_asked`: the client requests thinking or an effort level. `unless_off`: always, except at the effort `none` (Kimi
    k2.5 and later, DeepSeek v4). `always`: Kimi k2.7-code and k3. Proven by:
    golden/openai_chat/tools/moonshot_forced_tool, golden/openai_chat/thinking/deepseek_thinking_off.
    """
    thinking_request_field: Literal["", "include_reasoning", "reasoning_format", "reasoning_split"] = ""
    """Request field that makes the server send reasoning separately from the text. "": none.

    `include_reasoning: true` (Groq's gpt-oss), `reasoning_format: "parsed"` (Groq's qwen3 and Cerebras, which otherwise
    write `<think>` into the text) or `reasoning_split: true` (MiniMax: platform.minimax.io, text-openai-api.md,
    2026-11-23). Proven by: golden/openai_chat/thinking/groq_thinking, groq_qwen, cerebras_gpt_oss, minimax_thinking.
    """
    thinking_retention_field: Literal["", ThinkingRetention] = ""
    """Request field that makes the server keep the reasoning of earlier turns. "": none.

    `thinking.keep: "all"` (Kimi k2.6 and later; k2.5 rejects it), `thinking.clear_thinking: false` (Z.ai, recorded) or
    `preserve_thinking: true` (DashScope: QwenLM/qwen-code dashscope.ts, 2026-11-23). Proven by:
    golden/openai_chat/thinking/moonshot_thinking, zai_thinking, dashscope_thinking.
    """
    replayed_thinking_field: Literal["", "reasoning_content", "reasoning", "both", "content"] = ""
    """Field of an assistant message in which reasoning of earlier replies is sent back. "": the reasoning is dropped.

    Kimi, DeepSeek and Z.ai require or expect `reasoning_content` (recorded: deepseek/thinking_tools). Groq accepts
    `reasoning`. Mistral accepts `thinking` parts before the text in `content` (docs.mistral.ai, "Reasoning",
    2026-11-20; vercel/ai packages/mistral). `both`: in `reasoning` and `reasoning_content`, because local servers read
    only one of them: llama.cpp `reasoning_content` (tools/server/README.md), vLLM from 0.23 `reasoning`
    (vllm-project/vllm issue 38488; docs/features/reasoning_outputs.md, 2026-11-23). Proven by:
    golden/openai_chat/thinking/moonshot_thinking, groq_thinking, mistral_thinking, local_server_replayed.
    """
    thinking_replay_scope: Literal["kept", "calls", "every"] = "kept"
    """Assistant messages of the history that must contain reasoning while the model reasons.

    `kept`: those with reasoning in the client request. `calls`: also those with tool calls, else Kimi answers 400.
    `every`: all (DeepSeek v4). One space replaces missing reasoning. Proven by:
    golden/openai_chat/thinking/moonshot_thinking, deepseek_thinking.
    """
    replays_reasoning_details: bool = False
    """True if the response field `reasoning_details` is sent back unchanged (OpenRouter, for signed reasoning).

    All entries of a reply are sent, in their order. OpenRouter finds the call of an entry by its id, so the id of a
    call that the proxy replaces is also replaced in the entry. Proven by:
    golden/openai_chat/thinking/openrouter_reasoning, openrouter_reasoning_replayed, openrouter_reasoning_in_parts,
    openrouter_reasoning_of_long_ids.
    """
    placeholder_signature: Literal["", "text", "base64"] = ""
    """Encoding of a placeholder for the thought signature of the first tool call of a reply, if the history has none.
    "": no placeholder. Set by an adaptation: Gemini 3 and later reject a call without a signature, for example of
    another model (google/gemini-3* at OpenRouter: RooCodeInc/Roo-Code pull 10640; Google's own endpoint). It is sent in
    `reasoning_details` if these are sent back, else in `extra_content`. Proven by:
    golden/openai_chat/thinking/openrouter_placeholder, gemini_placeholder."""
    thinking_tags: tuple[ThinkingTags, ...] = ()
    """Tags that may enclose reasoning at the start of the text: `<think>` …
    (`engine/wires/tool_call_repair/thinking_tags.py`).

    Servers without a parser for the tags leave the reasoning in the text (older vLLM, LM Studio and llama.cpp).
    `unopened` is only for models with the opening tag in their chat template. Proven by:
    golden/openai_chat/thinking/think_tags, think_tags_unopened, think_tags_of_other_models.
    """
    text_call_formats: tuple[ToolCallFormat, ...] = ()
    """Formats in which the model may write tool calls into the text (`engine/wires/tool_call_repair/formats.py`).

    Servers without a parser for the calls, or without the setting for it (vLLM's `--tool-call-parser`), leave them in
    the text. Text is buffered only while it may become a call of an offered tool; other text is unchanged. Proven by:
    golden/openai_chat/tools/text_call_hermes, text_call_functions, text_call_function_json, text_call_keys,
    text_call_python_tag, text_call_listed, text_call_section, text_call_barred, text_call_tool_code, text_call_channel,
    text_call_invoke, text_call_bare_json, text_call_bare_python.
    """
    repairs_tool_names: bool = False
    """True if unknown and missing names in tool calls are repaired (`engine/wires/tool_call_repair/calls.py`).

    An unknown name becomes the only offered tool that it can mean: small models call `functions.Read` or `read`. A call
    without a name becomes a call of the only tool that accepts its arguments. An ambiguous name is unchanged: the
    client reports an unknown tool, and the model calls again. Proven by: golden/openai_chat/tools/odd_tool_names,
    nameless_calls.
    """
    buffers_tool_arguments: bool = False
    """True if arguments of a tool call are buffered until the call ends, and repaired if invalid
    (`engine/wires/tool_call_repair/calls.py`). Servers of small models do not check the arguments, and a fragment
    cannot be repaired after it was sent. Fragments of other servers are sent at once. Proven by:
    golden/openai_chat/tools/mended_arguments, unmended_arguments."""
    accepts_tools: bool = True
    """True if tools are accepted; gpt-6-astra, gpt-6.1-sol and later models accept them only on Responses.

    Proven by: golden/openai_chat/tools/tools_elsewhere.
    """
    sends_tool_stream: bool = False
    """True if streaming requests with tools contain `tool_stream: true`. Otherwise Z.ai sends arguments only at the end
    of a call (docs.z.ai, "Tool streaming"; opencrabs glm_reasoning.rs, 2026-11-20).

    Proven by: golden/openai_chat/tools/zai_tool_stream.
    """
    sends_strict: bool = True
    """True if `strict` is sent in tools; xAI and Z.ai reject the field.

    Proven by: golden/openai_chat/tools/xai_strict_tool.
    """
    schema_rules: SchemaRules = UNRESTRICTED_RULES
    """Restrictions on JSON Schemas by the server. Those by the model are in `schema_language`.

    Proven by: golden/openai_chat/tools/local_server_limits.
    """
    prefill_form: Literal["ask", "prefix", "partial"] = "ask"
    """Method of requesting that the model continues a last assistant message. `ask`: by a user text. `prefix`,
    `partial`: by a mark in the message, `prefix: true` (DeepSeek, Mistral) or `partial: true` (Moonshot). Proven by:
    golden/openai_chat/text/prefill, moonshot_prefill."""
    accepts_image_urls: bool = True
    """True if images may be sent as URLs of web servers. Moonshot accepts only data URLs, which contain base64 data.

    Proven by: golden/openai_chat/media/moonshot_image_url.
    """
    image_types: tuple[str, ...] = IMAGE_TYPES
    """Media types of images that the server accepts; xAI accepts only JPEG and PNG. Proven by:
    golden/openai_chat/media/xai_picture."""
    pdf_form: Literal["file", "document_url"] = "file"
    """Type of the content part with a PDF: `file`, or `document_url` with an address or data (Mistral: docs.mistral.ai,
    "Document QnA"; vercel/ai packages/mistral, 2026-11-20). Proven by: golden/openai_chat/media/mistral_pdf."""
    accepts_pdf_urls: bool = False
    """True if a PDF may be sent as a URL (Mistral; OpenRouter, "PDF inputs", 2026-11-20). Proven by:
    golden/openai_chat/media/mistral_pdf, openrouter_pdf."""
    sends_top_k: bool = False
    """True if `top_k` is sent: OpenRouter (its SDK, chatrequest.ts), vLLM, SGLang, llama.cpp, LM Studio (their API
    references, 2026-11-20).

    Proven by: golden/openai_chat/text/openrouter_top_k, local_server_top_k.
    """
    sends_cache_marks: bool = False
    """True if `cache_control` is sent: as a request field, in the system prompt and in the last message.

    Only for client requests with cache marks. OpenRouter caches only on request: Claude accepts the field or the
    messages, Qwen the messages ("Prompt caching"; its SDK, chatrequest.ts, 2026-11-20). Proven by:
    golden/openai_chat/text/openrouter_cache_marks, openrouter_cache_marks_in_a_loop.
    """
    sends_cache_field: bool = True
    """False if the cache marks of `sends_cache_marks` are only in the messages, without the request field (DashScope:
    alibabacloud.com/help, "Context cache"; vercel/ai packages/alibaba, 2026-11-23).

    Proven by: golden/openai_chat/text/dashscope_cache_marks.
    """
    session_field: Literal["", "session_id", "prompt_cache_key"] = ""
    """Request field with a hash of the session, which keeps the session at a place with a warm cache. "": none.

    OpenRouter: `session_id` ("Prompt caching", 2026-11-20). `prompt_cache_key`: OpenAI, Azure (learn.microsoft.com,
    "Prompt caching"), Mistral (docs.mistral.ai, "Prompt caching"), Moonshot (vercel/ai packages/moonshotai; read
    2026-11-23). Proven by: golden/openai_chat/text/openrouter_cache_marks, text.
    """
    reply_schema_form: Literal["json_schema", "json_object", "ask"] = "json_schema"
    """Method of sending the client's JSON Schema for the reply. `json_schema`: in `response_format`. `json_object`: in
    the system prompt, while `response_format` requires any JSON object (DeepSeek, older Kimi, Z.ai). `ask`: as the
    input schema of a forced tool, or else in the system prompt. Proven by:
    golden/openai_chat/structured_output/structured_output, deepseek_json."""
    reply_schema_exclusive: bool = False
    """True if the server rejects `response_format` together with tools or streaming (Groq). Such a request states the
    schema as text in the system prompt.

    Proven by: golden/openai_chat/structured_output/groq_json.
    """
    sends_user_id: bool = False
    """True if a hash of the client's user is sent as `safety_identifier` (OpenAI).

    Proven by: golden/openai_chat/text/text.
    """
    sends_store: bool = False
    """True if `store: false` is sent (OpenAI). Proven by: golden/openai_chat/text/text."""
    sends_service_tier: bool = False
    """True if the client's `service_tier: "standard_only"` is sent as `"default"` (OpenAI).

    Proven by: golden/openai_chat/text/sampling.
    """
    sends_include_usage: bool = True
    """True if `stream_options: {include_usage}` is sent; a few old servers reject it.

    Proven by: golden/openai_chat/thinking/local_server.
    """
    session_header: str = ""
    """Name of the request header with a hash of the session, which selects a machine with a warm cache: xAI's
    `x-grok-conv-id`. "": none. Proven by: golden/openai_chat/thinking/xai_thinking."""
    omits_null_content: bool = False
    """True if an assistant message with only tool calls omits `content: null` (Groq).

    Proven by: golden/openai_chat/thinking/groq_thinking.
    """
    server_tools: tuple[ServerToolKind, ...] = ()
    """Kinds of server tools that the server runs itself. `server_tool_names` contains their names.

    Proven by: golden/openai_chat/server_tools/groq_search, groq_compound, openrouter_search.
    """
    server_tools_exclusive: bool = False
    """True if the server rejects a request with both server tools and client tools.

    Groq's compound systems accept no client tools; its models are documented with only one kind in a request. Proven
    by: golden/openai_chat/server_tools/groq_search_beside_functions.
    """
    server_tool_names: tuple[tuple[ServerToolKind, str], ...] = ()
    """Pairs of a kind of server tool and the server's name for the tool.

    Proven by: golden/openai_chat/server_tools/groq_search, groq_compound, openrouter_search.
    """
    server_tool_form: Literal["type", "enabled"] = "type"
    """Request field that enables server tools. `type`: an entry of `tools` with the name of the tool as its `type`.
    `enabled`: `enabled_tools` of `compound_custom`, with search settings in `search_settings` (Groq's compound
    systems). Proven by: golden/openai_chat/server_tools/groq_compound."""
    server_tool_setting_names: tuple[tuple[str, str], ...] = ()
    """Pairs of a setting of the client's web search tool (`allowed_domains` …) and the server's name for it.

    Proven by: golden/openai_chat/server_tools/groq_compound, openrouter_search.
    """
    call_id_form: Literal["short", "nine", "counted"] = "short"
    """Format of tool call ids. `short`: up to 40 characters (OpenAI). `nine`: nine letters or digits (Mistral).
    `counted`: `functions.<name>:<n>`, with a counter for the conversation, as in Kimi k2's training template. Proven
    by: golden/openai_chat/tools/long_call_ids, mistral_call_ids, moonshot_k2_ids."""

    @property
    def always_reasons(self) -> bool:
        return self.reasoning_mode == "always" or super().always_reasons

    def must_disable_thinking(self, request: PreparedRequest) -> bool:
        """Return True if reasoning must be disabled, because the client forces a tool call.

        The server does not accept a forced tool call while the model reasons.
        """
        choice = request.tool_choice
        return (
            choice is not None
            and choice.type in ("any", "tool")
            and request.effort == "default"
            and self.accepts_forced_tool == "not_thinking"
            and self.reasoning_mode == "unless_off"
            and "thinking" in EFFORT_FORMS[self.effort_form].switch
        )

    def is_thinking(self, request: PreparedRequest) -> bool:
        """Return True if the model reasons before its reply."""
        if (
            self.reasoning_mode == "if_asked"
            and request.effort == "default"
            and not (self.thinking_forms and self.thinks_always)
        ):
            return request.enables_thinking and bool(EFFORT_FORMS[self.effort_form].switch)
        return self.always_reasons or (self.reasoning_mode != "never" and request.effort != "none")
