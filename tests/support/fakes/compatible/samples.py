"""Requests to Groq, Moonshot and xAI: good ones, and for each rule of the stand-ins one that breaks it."""

from typing import Any

from tests.support.fakes.openai_chat.samples import ASKS, CALL, PNG_URL, READ, TOOL_RESULT, USER, image

LLAMA, OSS, QWEN = "llama-3.3-70b-versatile", "openai/gpt-oss-120b", "qwen/qwen3.8-27b"
SYSTEM = "groq/compound"
BROWSES = {"type": "browser_search"}
ENABLED = {"tools": {"enabled_tools": ["web_search", "visit_website", "code_interpreter"]}}
K2, K25, K26, K3 = "kimi-k2-instruct", "kimi-k2.5", "kimi-k2.6", "kimi-k3"
GROK3, GROK43, GROK46 = "grok-3", "grok-4.3", "grok-4.6"
QWEN3 = "qwen3-coder"
GIF_URL = "data:image/gif;base64,R0lGODlhAQABAA=="
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjc="}}
OBJECT = {"type": "json_object"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def ask(model: str, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": list(messages) or [USER]} | fields


def see(model: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return ask(model, {"role": "user", "content": list(parts)})


def schema_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}


def tool(name: str = "Read", strict: bool | None = None, **argument: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"a": argument or {"type": "string"}}}
    function = {"name": name, "parameters": parameters} | ({} if strict is None else {"strict": strict})
    return {"type": "function", "function": function}


def asked(identity: str = "call_a", **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    call = CALL | {"id": identity}
    return {"role": "assistant", "content": "a", "tool_calls": [call]} | fields, TOOL_RESULT | {
        "tool_call_id": identity
    }


ASKS_WITHOUT_CONTENT = {key: value for key, value in ASKS.items() if key != "content"}
BAD: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("groq", "unknown_field", "property 'store' is unsupported", ask(LLAMA, store=False)),
    ("groq", "unknown_field", "'logprobs'", ask(LLAMA, logprobs=True)),
    ("groq", "null", "must not be null", ask(LLAMA, temperature=None)),
    ("groq", "messages", "array of objects", {"model": LLAMA, "messages": "hello"}),
    ("groq", "message_field", "property 'name' is unsupported", ask(LLAMA, USER | {"name": "a"})),
    ("groq", "message_field", "'reasoning_content' is unsupported", ask(OSS, USER, *asked(reasoning_content="hm"))),
    ("groq", "message_field", "value must not be null", ask(LLAMA, USER, ASKS, TOOL_RESULT)),
    ("groq", "reasoning_model", "not supported with this model", ask(LLAMA, USER, *asked(reasoning="hm"))),
    ("groq", "content_string", "value must be a string", see(LLAMA, image(PNG_URL))),
    ("groq", "effort", "`low` or `medium` or `high`", ask(OSS, reasoning_effort="none")),
    ("groq", "effort", "`none` or `default`", ask("qwen/qwen3.6-27b", reasoning_effort="low")),
    ("groq", "reasoning_field", "reasoning_format is not", ask(OSS, reasoning_format="parsed")),
    ("groq", "reasoning_field", "include_reasoning is not", ask(LLAMA, include_reasoning=True)),
    ("groq", "reasoning_both", "cannot specify both", ask(QWEN, reasoning_format="parsed", include_reasoning=True)),
    ("groq", "reasoning_raw", "parsed or hidden", ask(QWEN, reasoning_format="raw", tools=[READ])),
    ("groq", "format_model", "`json_schema`", ask(LLAMA, response_format=schema_of(SCHEMA))),
    ("groq", "format_tools", "tool/function calling", ask(OSS, response_format=schema_of(SCHEMA), tools=[READ])),
    ("groq", "format_stream", "streaming", ask(OSS, response_format=schema_of(SCHEMA), stream=True)),
    ("groq", "own_tools", "'browser_search' is not", ask(LLAMA, tools=[BROWSES])),
    ("groq", "system_tools", "custom tools", ask(SYSTEM, tools=[READ])),
    ("groq", "system_settings", "'compound_custom'", ask(OSS, compound_custom=ENABLED)),
    ("groq", "system_tool", "'x'", ask(SYSTEM, compound_custom={"tools": {"enabled_tools": ["x"]}})),
    ("groq", "n", "at most 1", ask(LLAMA, n=2)),
    ("groq", "tier", "'service_tier'", ask(LLAMA, service_tier="default")),
    ("groq", "output_limit", "less than or equal to `32768`", ask(LLAMA, max_completion_tokens=40_000)),
    ("groq", "file", "'text', 'image_url'", see(QWEN, FILE)),
    ("groq", "tool_order", "did not have response", ask(LLAMA, USER, ASKS_WITHOUT_CONTENT)),
    ("moonshot", "unknown_field", "store", ask(K2, store=False)),
    ("moonshot", "thinking", "enabled or disabled", ask(K26, thinking={"type": "adaptive"})),
    ("moonshot", "thinking_model", "cannot be set so", ask(K3, thinking={"type": "disabled"})),
    ("moonshot", "thinking_model", "cannot be set so", ask(K2, thinking={"type": "enabled"})),
    ("moonshot", "thinking_keep", "thinking.keep", ask(K25, thinking={"type": "enabled", "keep": "all"})),
    ("moonshot", "effort", "invalid reasoning_effort: medium", ask(K3, reasoning_effort="medium")),
    ("moonshot", "choice", "'required' is incompatible", ask(K26, tools=[READ], tool_choice="required")),
    (
        "moonshot",
        "choice",
        "'specified' is incompatible",
        ask(K26, tools=[READ], tool_choice={"type": "function", "function": {"name": "Read"}}),
    ),
    ("moonshot", "reasoning_missing", "message at index 1", ask(K26, USER, *asked())),
    ("moonshot", "tool_name", "must start with a letter", ask(K2, tools=[tool("1st")])),
    ("moonshot", "schema", "anyOf items", ask(K2, tools=[tool(type="string", anyOf=[{"type": "string"}])])),
    ("moonshot", "schema", "$ref is not", ask(K2, tools=[tool(**{"$ref": "#/$defs/a"})])),
    ("moonshot", "call_id", "functions.Read:0", ask(K2, USER, *asked())),
    ("moonshot", "fixed", "invalid temperature: only 1 is allowed", ask(K26, temperature=0.5)),
    ("moonshot", "temperature", "between 0 and 1", ask(K2, temperature=1.5)),
    ("moonshot", "format_model", "json_schema is not supported", ask(K2, response_format=schema_of(SCHEMA))),
    ("moonshot", "format_schema", "$schema", ask(K26, response_format=schema_of({**SCHEMA, "$schema": "x"}))),
    ("moonshot", "image_url", "unsupported image url", see(K26, image("https://example.com/a.png"))),
    ("moonshot", "file", "unsupported content type", see(K26, FILE)),
    (
        "moonshot",
        "partial",
        "only allowed on the last",
        ask(K2, {"role": "assistant", "content": "a", "partial": True}, USER),
    ),
    ("moonshot", "role", "developer", ask(K2, {"role": "developer", "content": "a"}, USER)),
    ("moonshot", "image_model", "certain models", see(K2, image(PNG_URL))),
    ("xai", "unknown_field", "unknown field `store`", ask(GROK3, store=False)),
    ("xai", "effort_model", "reasoningEffort", ask(GROK3, reasoning_effort="low")),
    ("xai", "effort", "unknown variant `minimal`", ask(GROK46, reasoning_effort="minimal")),
    ("xai", "reasoning_parameter", "presencePenalty", ask(GROK46, presence_penalty=0)),
    ("xai", "reasoning_parameter", "parameter stop", ask(GROK43, stop=["a"])),
    ("xai", "strict", "unknown field `strict`", ask(GROK3, tools=[tool(strict=False)])),
    ("xai", "role", "unknown variant `developer`", ask(GROK3, {"role": "developer", "content": "a"}, USER)),
    ("xai", "content", "at least one content element", ask(GROK3, {"role": "user", "content": ""})),
    ("xai", "image_type", "image/gif", see(GROK46, image(GIF_URL))),
    ("xai", "image_model", "certain models", see(GROK3, image(PNG_URL))),
    ("xai", "file", "unknown variant `file`", see(GROK46, FILE)),
    ("local", "unknown_field", "store: Extra inputs", ask(QWEN3, store=False)),
    ("local", "unknown_field", "max_completion_tokens: Extra", ask(QWEN3, max_completion_tokens=5)),
    ("local", "mid_conversation_system", "at the beginning", ask(QWEN3, USER, {"role": "system", "content": "a"})),
    ("local", "role", "Unexpected message role", ask(QWEN3, {"role": "developer", "content": "a"}, USER)),
    ("local", "turns", "must alternate", ask(QWEN3, USER, USER)),
    ("local", "tool_order", "did not have response", ask(QWEN3, USER, ASKS)),
    ("xai", "format_word", "the word 'json'", ask(GROK3, response_format=OBJECT)),
)
