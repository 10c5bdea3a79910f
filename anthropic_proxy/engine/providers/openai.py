"""`OPENAI`: the registry entry of OpenAI, with its models and APIs.

The setting `OPENAI_BASE_URL` can select a host of another vendor with the same API (`vendors.toml`).
"""

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers import openai_chat as chat
from anthropic_proxy.engine.providers import openai_responses as responses
from anthropic_proxy.engine.providers.registry import Hosts, Provider, build_retired_models
from anthropic_proxy.engine.providers.vendors import list_vendor_entries

_DEPRECATIONS = "developers.openai.com/api/docs/deprecations; openai-python types/shared/chat_model.py"
_GPT_4_SNAPSHOTS = ("gpt-4-0613", "gpt-4-1106-preview", "gpt-4-turbo-2024-04-09", "gpt-4o-2024-05-13")
_SEARCH_PREVIEWS = tuple(f"gpt-4o-{size}search-preview{date}" for size in ("", "mini-") for date in ("", "-2025-03-11"))
_RETIRED = {
    # The successors that the page names are retired themselves, or models for audio, which the proxy does not send.
    **build_retired_models(
        _DEPRECATIONS,
        "2026-11",
        ("2025-07-14", "gpt-6-luna", ("gpt-4.5-preview",)),
        ("2025-07-28", "gpt-5.6-sol", ("o1-preview", "o1-preview-2024-09-12")),
        ("2025-10-27", "gpt-5.6-terra", ("o1-mini", "o1-mini-2024-09-12")),
        ("2026-02-12", "gpt-5.4-mini", ("codex-mini-latest",)),
        ("2026-02-17", "gpt-5.5", ("chatgpt-4o-latest",)),
        ("2026-05-07", "gpt-6-luna", ("gpt-4o-audio-preview", "gpt-4o-mini-audio-preview")),
        ("2026-09-28", "gpt-5.6-terra", ("gpt-3.5-turbo-1106",)),
        ("2027-01-20", "gpt-6-luna", ("gpt-audio-mini",)),
        ("2026-03-26", "gpt-5.6-sol", ("gpt-4-0125-preview", "gpt-4-turbo-preview")),
    ),
    **build_retired_models(
        _DEPRECATIONS,
        "2026-11",
        ("2026-08-10", "gpt-5.5", ("gpt-5.2-chat-latest", "gpt-5.3-chat-latest")),
        announced_on="2026-05-08",
    ),
    **build_retired_models(
        _DEPRECATIONS,
        "2026-11",
        ("2026-07-23", "gpt-5.5", ("gpt-5-chat-latest", "gpt-5.1-chat-latest")),
        (
            "2026-07-23",
            "gpt-5.4",
            ("gpt-5.1-mini", "gpt-5.2-pro", "gpt-5-codex", "gpt-5.1-codex", "gpt-5.1-codex-max", "gpt-5.2-codex"),
        ),
        ("2026-07-23", "gpt-5.4-mini", ("gpt-5.1-codex-mini",)),
        ("2026-07-23", "gpt-6-luna", _SEARCH_PREVIEWS),
        ("2026-10-23", "gpt-5.6-sol", ("gpt-4", "gpt-4-turbo", "o1", "o1-pro", "o3-mini", *_GPT_4_SNAPSHOTS)),
        ("2026-10-23", "gpt-5.6-sol", ("o1-2024-12-17", "o1-pro-2025-03-19", "o3-mini-2025-01-31")),
        ("2026-10-23", "gpt-5.6-terra", ("gpt-3.5-turbo", "gpt-3.5-turbo-0125", "o4-mini", "o4-mini-2025-04-16")),
        ("2026-10-23", "gpt-5.6-luna", ("gpt-4.1-nano", "gpt-4.1-nano-2025-04-14")),
        announced_on="2026-04-22",
    ),
    **build_retired_models(
        _DEPRECATIONS,
        "2026-11-20",
        ("2026-12-11", "gpt-6.1-sol", ("gpt-5", "gpt-5-2025-08-07", "gpt-5-pro", "gpt-5-pro-2025-10-06")),
        ("2026-12-11", "gpt-6.1-sol", ("o3", "o3-2025-04-16", "o3-pro", "o3-pro-2025-06-10")),
        ("2026-12-11", "gpt-6.1-terra", ("gpt-5-mini", "gpt-5-mini-2025-08-07")),
        ("2026-12-11", "gpt-6-luna", ("gpt-5-nano", "gpt-5-nano-2025-08-07")),
        announced_on="2026-06-11",
    ),
    **build_retired_models(
        _DEPRECATIONS,
        "2026-11",
        ("2027-01-14", "gpt-6-luna", ("gpt-4.1", "gpt-4.1-2025-04-14", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14")),
        ("2027-01-14", "gpt-6-luna", ("gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20")),
        ("2027-01-14", "gpt-6-luna", ("gpt-4o-mini", "gpt-4o-mini-2024-07-18")),
        announced_on="2026-10-14",
    ),
    **build_retired_models(
        "openai-python 3.54 types/shared/chat_model.py",
        "2026-11-20",
        ("2027-04-01", "gpt-6.1-sol", ("gpt-5.1", "gpt-5.1-2025-11-13")),
        ("2027-04-01", "gpt-6-luna", ("gpt-5.4-nano", "gpt-5.4-nano-2026-03-17")),
    ),
}
"""Models that OpenAI has retired, or will retire. The successors of the last group are our choice: its source names
none."""

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
    retired_models=_RETIRED,
    docs_url="https://platform.openai.com/docs/api-reference/chat",
)
"""Registry entry of OpenAI, with the wires `chat` and `responses`."""
