"""`OPENAI_RESPONSES`: the configuration of the Responses API for calls to OpenAI, with the rules for its models.

`OPENAI_WIRE_RULES` chooses the default API for each model of OpenAI.
"""

from anthropic_proxy.engine.providers.registry import WireConfig, build_model_rules
from anthropic_proxy.engine.wires import openai_responses

_WITHOUT_REASONING = {"can_reason": False, "sampling_support": "always"}
_O_SERIES = {"sampling_support": "never", "sends_parallel_tool_calls": False}

MODEL_RULES = build_model_rules(
    "developers.openai.com/api/docs/models; developers.openai.com/api/docs/guides/reasoning",
    "2026-11",
    ("gpt-[34]*", _WITHOUT_REASONING),
    ("chatgpt-*", _WITHOUT_REASONING),
    ("gpt-5*-chat*", _WITHOUT_REASONING),
    ("o[1-9]*", _O_SERIES),
    ("gpt-5.3-codex*", {"sends_phase": True}),
    ("gpt-5.[4-9]*", {"sends_phase": True, "sends_additional_tools": True}),
    ("gpt-5.[6-9]*", {"sends_cache_breakpoint": True}),
    ("gpt-[!a-z345]*", {"sends_phase": True, "sends_additional_tools": True, "sends_cache_breakpoint": True}),
    ("gpt-[!a-z345]*", {"sends_configuration_updates": True}),
    ("gpt-*-pro*", {"sends_configuration_updates": False}),
    ("gpt-3*", {"server_tools": ()}),
    ("gpt-4.1-nano*", {"server_tools": ("code_execution", "mcp_toolset")}),
    ("o1*", {"server_tools": ()}),
    ("o3-mini*", {"server_tools": ()}),
)
"""Rules for models of OpenAI, at any server of this API."""
OPENAI_RESPONSES = WireConfig(
    wire=openai_responses.WIRE,
    dialect=openai_responses.Dialect(
        count_paths=("/responses/input_tokens",), prompt_settings=("reasoning.effort", "text.format")
    ),
    model_rules=(
        *MODEL_RULES,
        *build_model_rules(
            "openai-python 3.51, types/decision_create_params.py",
            "2026-11-27",
            ("gpt-6-luna", {"offers_decisions": True}),
        ),
    ),
)
"""Configuration of the Responses API for calls to OpenAI and compatible servers.

`prompt_settings`: developers.openai.com/api/docs/guides/prompt-caching (the schema stands before the system text; the
effort can change the instructions of the model), read 2026-11-26."""

OPENAI_WIRE_RULES = (("o[1-9]*", "responses"), ("gpt-[!a-z34]*", "responses"), ("codex-*", "responses"))
"""Pairs of OpenAI model pattern and default wire: reasoning models use the Responses API. Some support no other."""
