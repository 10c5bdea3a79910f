"""How the providers of Responses, and by pattern their models, deviate from it. The fields say why."""

from anthropic_proxy.routing.providers.rows import Speech
from anthropic_proxy.wire import openai_responses

_WITHOUT_REASONING = {"reasons": False, "sampling": "always"}
_O_SERIES = {"sampling": "never", "says_parallel": False}

OPENAI = Speech(
    wire=openai_responses,
    dialect=openai_responses.Dialect(),
    model_rules=(
        ("gpt-[34]*", _WITHOUT_REASONING),
        ("chatgpt-*", _WITHOUT_REASONING),
        ("gpt-5*-chat*", _WITHOUT_REASONING),
        ("o[1-9]*", _O_SERIES),
        ("gpt-5.3-codex*", {"says_phase": True}),
        ("gpt-5.[4-9]*", {"says_phase": True}),
        ("gpt-[6-9]*", {"says_phase": True}),
        ("gpt-3*", {"server_tools": ()}),
        ("gpt-4.1-nano*", {"server_tools": ("code_execution", "mcp_toolset")}),
        ("o1*", {"server_tools": ()}),
        ("o3-mini*", {"server_tools": ()}),
    ),
)

XAI = Speech(
    wire=openai_responses,
    dialect=openai_responses.Dialect(
        carry_tag="xai",
        summaries=False,
        sampling="always",
        says_strict=False,
        says_truncation=False,
        says_service_tier=False,
        names_user=False,
        search_sources=False,
        search_exclusions=True,
        search_place=False,
        search_limit=False,
        says_container=False,
        says_approval=False,
        forces_server_tools=False,
        image_types=("image/jpeg", "image/png"),
        session_header="x-grok-conv-id",
    ),
    model_rules=(
        ("grok-[123]*", {"reasons": False, "server_tools": ()}),
        ("grok-3-mini*", {"reasons": True, "server_tools": ()}),
        ("*-non-reasoning*", {"reasons": False}),
    ),
)

OPENAI_RULES = (("o[1-9]*", "responses"), ("gpt-[5-9]*", "responses"), ("codex-*", "responses"))
"""Models of OpenAI that speak it unless the user says otherwise: those that reason. Some speak nothing else."""
