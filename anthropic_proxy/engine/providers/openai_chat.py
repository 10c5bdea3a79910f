"""`OPENAI_CHAT`: the configuration of Chat Completions for calls to OpenAI, and the registry entry of the demo."""

from anthropic_proxy.engine.providers.registry import Provider, WireConfig, build_model_rules
from anthropic_proxy.engine.wires import openai_chat

_O_SERIES = {
    "system_role": "developer",
    "sampling_support": "never",
    "effort_form": "reasoning_effort",
    "reasoning_mode": "always",
    "sends_parallel_tool_calls": False,
}
_GPT_5 = {
    "system_role": "developer",
    "sampling_support": "not_thinking",
    "effort_form": "reasoning_effort",
    "effort_names": (("max", "xhigh"),),
    "reasoning_mode": "unless_off",
}
_GPT_5_CHAT = {
    "system_role": "system",
    "sampling_support": "always",
    "effort_form": "omit",
    "forced_effort_with_tools": "",
    "reasoning_mode": "never",
}
_GPT_6_WITHOUT_REASONING = {"accepts_tools": True, "forced_effort_with_tools": "none"}

OPENAI_CHAT = WireConfig(
    wire=openai_chat.WIRE,
    dialect=openai_chat.Dialect(
        sends_user_id=True,
        sends_store=True,
        sends_service_tier=True,
        session_field="prompt_cache_key",
        prompt_settings=("reasoning_effort", "response_format"),
    ),
    model_rules=build_model_rules(
        "developers.openai.com/api/docs/guides/reasoning",
        "2026-11",
        ("o[1-9]*", _O_SERIES),
        ("gpt-[!a-z34]*", _GPT_5),
        ("gpt-5.[4-9]*", {"forced_effort_with_tools": "none"}),
        ("gpt-5*-chat*", _GPT_5_CHAT),
        ("gpt-[!a-z345]*", {"accepts_tools": False}),
        ("gpt-6-sol*", _GPT_6_WITHOUT_REASONING),
        ("gpt-6-luna*", _GPT_6_WITHOUT_REASONING),
    ),
)
"""Configuration of the API Chat Completions, for calls to OpenAI and to servers with the same API."""

DEMO = Provider(
    docs_url="",
    name="demo",
    prefix="demo",
    title="the built-in demo",
    wires={"chat": WireConfig(wire=openai_chat.WIRE, dialect=openai_chat.Dialect(signature_tag="demo"))},
    base_url="demo:",
    key_required="never",
    offered_to_users=False,
    default_big_model="demo",
    default_small_model="demo",
    known_models=("demo",),
    transport="demo",
)
"""Registry entry of the built-in demo, which replies by fixed rules."""
