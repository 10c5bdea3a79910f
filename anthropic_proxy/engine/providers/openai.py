"""`OPENAI`: the registry entry of OpenAI, with its models and APIs.

The setting `OPENAI_BASE_URL` can select a host of another vendor with the same API (`vendors.toml`).
"""

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers import openai_chat as chat
from anthropic_proxy.engine.providers import openai_responses as responses
from anthropic_proxy.engine.providers.registry import Hosts, Provider
from anthropic_proxy.engine.providers.vendors import build_vendor, list_vendor_entries

OPENAI = Provider(
    name="openai",
    prefix="openai",
    title="OpenAI",
    keys_url="https://platform.openai.com/api-keys",
    env_prefix="OPENAI",
    wires={"chat": chat.OPENAI_CHAT, "responses": responses.OPENAI_RESPONSES, "messages": messages.GATEWAYS},
    hosts=Hosts(list_vendor_entries),
    wire_rules=responses.OPENAI_WIRE_RULES,
    base_url="https://api.openai.com/v1",
    other_hosts=("*.api.openai.com",),  # developers.openai.com/api/docs/guides/data-residency, read 2026-11
    base_url_variable="OPENAI_BASE_URL",
    key_variable="OPENAI_API_KEY",
    key_required="own_address",
    default_big_model="gpt-4.1",
    default_small_model="gpt-4.1-mini",
    known_models=(
        *(
            "o3-mini",
            "o1",
            "o1-mini",
            "o1-pro",
            "gpt-4.5-preview",
            "gpt-4o",
            "gpt-4o-audio-preview",
            "chatgpt-4o-latest",
        ),
        *("gpt-4o-mini", "gpt-4o-mini-audio-preview", "gpt-4.1", "gpt-4.1-mini"),
        *("gpt-4.1-nano", "o3", "o3-pro", "o4-mini", "gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-5-pro"),
        *("gpt-5.1", "gpt-5.2", "gpt-5.3-codex", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "gpt-5.5-pro"),
        *("gpt-5-codex", "gpt-5.1-codex", "gpt-5.2-codex", "gpt-5.6", "gpt-5.6-sol", "gpt-5.6-terra", "gpt-5.6-luna"),
        *("gpt-6-astra", "gpt-6-sol", "gpt-6-luna", "gpt-6.1-sol", "gpt-6.1-terra", "gpt-6.2-sol", "gpt-6.2-astra"),
    ),
    retired_models=build_vendor("openai").retired_models,
    docs_url="https://platform.openai.com/docs/api-reference/chat",
)
"""Registry entry of OpenAI, with the wires `chat` and `responses`."""
