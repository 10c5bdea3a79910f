"""How servers of Chat Completions deviate from OpenAI's own; the defaults are what OpenAI does for gpt-4.1."""

from typing import Literal

from msgspec import Struct


class Dialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One server's, and by model rules one model's, way of speaking Chat Completions."""

    carry_tag: str = "oai"
    """First word of the reasoning carry: `px1.<tag>.…`; only a carry with this very tag is read back."""
    system_role: Literal["system", "developer"] = "system"
    late_system: Literal["keep", "remind"] = "keep"
    limit_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    sampling: Literal["always", "without_effort", "never"] = "always"
    says_parallel: bool = True
    effort: Literal["omit", "reasoning_effort", "thinking", "thinking_and_effort", "reasoning"] = "omit"
    effort_names: tuple[tuple[str, str], ...] = ()
    effort_with_tools: str = ""
    thinking_keeps: Literal["", "keep", "clear_thinking"] = ""
    thinking_request: Literal["", "include_reasoning", "reasoning_format"] = ""
    thinking_field: Literal["", "reasoning_content", "reasoning"] = ""
    thinking_replay: Literal["kept", "calls", "every"] = "kept"
    carries_details: bool = False
    carries_call_signatures: bool = False
    lifts_think_tags: bool = False
    offers_tools: bool = True
    forces_tools: Literal["always", "without_thinking", "never"] = "always"
    thinks: Literal["if_asked", "unless_off", "always"] = "if_asked"
    says_strict: bool = True
    schema_style: Literal["standard", "moonshot"] = "standard"
    prefill: Literal["ask", "prefix", "partial"] = "ask"
    image_urls: bool = True
    image_types: tuple[str, ...] = ("image/jpeg", "image/png", "image/gif", "image/webp")
    json_output: Literal["json_schema", "json_object", "ask"] = "json_schema"
    json_output_alone: bool = False
    names_user: bool = False
    says_store: bool = False
    says_service_tier: bool = False
    says_usage: bool = True
    session_header: str = ""
    omits_null: bool = False
    call_ids: Literal["short", "nine", "counted"] = "short"
