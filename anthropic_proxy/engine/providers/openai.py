"""`OPENAI`: the registry entry of OpenAI, with its addresses, keys, models and APIs.

The setting `OPENAI_BASE_URL` can select a host of another vendor with the same API. `_list_hosts` and `vendors.toml`
describe how the known hosts of this kind deviate from OpenAI's own API. Values without a named source are from the API
reference of the host, read 2026-11. docs/guide/providers.md, "Servers with the Chat Completions API", has their
settings.
"""

from urllib.parse import urlsplit

from msgspec import structs

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers import openai_chat as chat
from anthropic_proxy.engine.providers import openai_responses as responses
from anthropic_proxy.engine.providers.open_models import (
    GPT_OSS_RULES,
    MISTRAL_RULES,
    OPEN_MODEL_RULES,
    REPLAY_RULES,
    UNKNOWN,
    UNKNOWN_RESPONSES,
    UNOPENED_RULES,
)
from anthropic_proxy.engine.providers.registry import (
    Host,
    HostEntry,
    Hosts,
    Provider,
    WireConfig,
    build_model_rules,
    build_retired_models,
)
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.json_schema import SchemaRules

_MISTRAL_REASONS = {
    "effort_form": "reasoning_effort",
    "replayed_thinking_field": "content",
}
_MISTRAL_REASONING_RULES = build_model_rules(
    "docs.mistral.ai/inference/conversations/reasoning; vercel/ai packages/mistral",
    "2026-11-20",
    ("mistral-small-*", _MISTRAL_REASONS),
    ("mistral-medium-*", _MISTRAL_REASONS),
    ("mistral-large-[4-9]*", _MISTRAL_REASONS),
)
"""Rules for the reasoning of Mistral models, later ones included. Models without efforts receive no effort."""
_GLM_WITH_LEVELS = {"effort_form": "thinking_and_effort"}
_GLM_ALWAYS_THINKING = {
    **_GLM_WITH_LEVELS,
    "reasoning_mode": "always",
    "effort_names": (("minimal", "low"), ("medium", "high"), ("xhigh", "max")),
}
_GLM_RULES = build_model_rules(
    "docs.z.ai/api-reference/llm/chat-completion; pydantic-ai profiles/zai.py",
    "2026-11-20",
    ("glm-5.2*", _GLM_WITH_LEVELS),
    ("glm-5.[3-9]*", _GLM_ALWAYS_THINKING),
    ("glm-[6-9]*", _GLM_ALWAYS_THINKING),
    ("glm-[1-9][0-9]*", _GLM_ALWAYS_THINKING),
)
"""Rules for Z.ai models. The minimum effort of glm-5.3 is `low`, because only the coding plan can disable thinking."""
_CACHED_ON_REQUEST = build_model_rules(
    "openrouter.ai/docs/guides/best-practices/prompt-caching",
    "2026-11-20",
    *(
        (name, {"sends_cache_marks": True})
        for name in ("anthropic/*", "~anthropic/*", "qwen/*", "~qwen/*", "alibaba/*")
    ),
)
_AZURE_VERSION = ("/openai", "/openai/v1")
"""The endpoint of a resource, as the portal shows it, with the API that needs no version."""
_AZURE_RESPONSES = structs.replace(
    UNKNOWN_RESPONSES,
    url_suffixes=(("/deployments/*?", "?"), _AZURE_VERSION),  # openai 3.51, lib/azure.py: `_prepare_url`
    dialect=structs.replace(
        UNKNOWN_RESPONSES.dialect,
        session_field="prompt_cache_key",
        prompt_settings=responses.OPENAI_RESPONSES.dialect.prompt_settings,
    ),
)

_DEEPSEEK = openai_chat.Dialect(
    signature_tag="ds",
    # cached input behind a gateway to DeepSeek: 0 % with late system messages, 97 % with user messages
    # (farion1231/cc-switch issues 7252 and 7166, read 2026-11-26)
    mid_conversation_system="prefer_remind",
    output_limit_field="max_tokens",
    effort_form="thinking_and_effort",
    reasoning_mode="unless_off",
    replayed_thinking_field="reasoning_content",
    thinking_replay_scope="every",
    accepts_forced_tool="not_thinking",
    reply_schema_form="json_object",
    sends_strict=False,
    sends_parallel_tool_calls=False,
)
_OPENROUTER_SEARCH = (
    ("max_uses", "max_uses"),
    ("allowed_domains", "allowed_domains"),
    ("blocked_domains", "excluded_domains"),
    ("user_location", "user_location"),
)
"""Pairs of client option and OpenRouter option for web search.

Source: `pydantic/pydantic-ai`, cassette test_openrouter_web_search_tool_full_params, 2026-08.
"""
_DEEPSEEK_RULES = build_model_rules(
    "api-docs.deepseek.com/guides/thinking_mode",
    "2026-11",
    ("deepseek-chat*", {"effort_form": "omit", "reasoning_mode": "never"}),
)

# The first two names are rejected. The successor serves the others.
_DEEPSEEK_RETIRED = build_retired_models(
    "api-docs.deepseek.com/quick_start/pricing",
    "2026-11-20",
    ("2026-07-24", "deepseek-flash", ("deepseek-chat", "deepseek-reasoner")),
    ("2026-09-10", "deepseek-flash", ("deepseek-v4-flash", "deepseek-v4-flash-vision-exp")),
)


_GRAMMAR_RULES = SchemaRules(suits_grammars=True)
"""Rules for servers on this machine: llama.cpp and LM Studio compile the schemas of tools to grammars. Claude Code's
own tools are rejected otherwise (lidge-jun/opencodex issue 2135, lmstudio-bug-tracker issue 2236; read 2026-11-26)."""

_LOCAL = Host(
    name="local",
    url_patterns=(
        *("localhost", "127.*", "::1", "host.docker.internal", "host.containers.internal"),
        *("10.*", "192.168.*", "172.1[6-9].*", "172.2?.*", "172.3[01].*", "*.local"),
    ),
    wires={
        "chat": WireConfig(
            wire=openai_chat.WIRE,
            dialect=structs.replace(
                UNKNOWN,
                signature_tag="local",
                replayed_thinking_field="both",
                buffers_tool_arguments=True,
                schema_rules=_GRAMMAR_RULES,
                sends_top_k=True,
                count_paths=("/chat/completions/input_tokens", "/../tokenize"),  # llama.cpp, vLLM
            ),
            model_rules=(*UNOPENED_RULES, *OPEN_MODEL_RULES),
        ),
        "responses": structs.replace(
            UNKNOWN_RESPONSES,
            dialect=structs.replace(
                UNKNOWN_RESPONSES.dialect, schema_rules=_GRAMMAR_RULES, count_paths=("/responses/input_tokens",)
            ),
        ),
        "messages": structs.replace(
            messages.GATEWAYS, dialect=structs.replace(messages.GATEWAYS.dialect, schema_rules=_GRAMMAR_RULES)
        ),
    },
    docs_url="https://docs.vllm.ai/en/latest/serving/openai_compatible_server",
)
_LLAMA_CPP = "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"
_LM_STUDIO = "https://lmstudio.ai/docs/developer/openai-compat"
_LOCAL_SERVERS = (
    ("vllm", "vLLM", "http://localhost:8000/v1", "VLLM_API_KEY", _LOCAL.docs_url),
    ("llama_cpp", "llama.cpp", "http://localhost:8080/v1", "LLAMA_API_KEY", _LLAMA_CPP),
    ("lm_studio", "LM Studio", "http://localhost:1234/v1", "LM_API_TOKEN", _LM_STUDIO),
)
"""Name, title, usual address, variable of the key and documentation of programs that serve models. Their address does
not tell them apart, so the entry `local` applies to all of them."""


def _as_host(provider: Provider) -> Host:
    """Return the host with which `OPENAI_BASE_URL` can select a provider of the registry, such as Groq."""
    return Host(
        name=provider.name,
        url_patterns=tuple(f"{host}/*" for host in (urlsplit(provider.base_url).hostname, *provider.other_hosts)),
        wires=provider.wires,
        models_table=provider.name,
        retired_models=provider.retired_models,
        title=provider.title,
    )


_AZURE = Host(
    name="azure",
    url_patterns=(
        *("*.openai.azure.com/*", "*.cognitiveservices.azure.com/*", "*.services.ai.azure.com/*"),
        "*.api.cognitive.microsoft.com/*",  # a resource without a name of its own in the address
    ),
    wires={
        "chat": WireConfig(
            wire=openai_chat.WIRE,
            dialect=openai_chat.Dialect(
                signature_tag="azure",
                session_field="prompt_cache_key",
                prompt_settings=chat.OPENAI_CHAT.dialect.prompt_settings,
            ),
            # openai 3.51, lib/azure.py: `_deployments_endpoints`
            url_suffixes=(("/openai?", "/openai/deployments/{model}?"), _AZURE_VERSION),
            # Foundry serves open models too
            model_rules=(*REPLAY_RULES, *GPT_OSS_RULES, *chat.OPENAI_CHAT.model_rules),
        ),
        "responses": _AZURE_RESPONSES,
    },
    default_url_path="/openai",
    key_header="api-key",
    title="Azure OpenAI",
    key_variable="AZURE_OPENAI_API_KEY",
    key_source="azure_openai",
    docs_url="https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
)

_OTHER_HOSTS = ("*.api.openai.com",)
"""Source: developers.openai.com/api/docs/guides/data-residency, read 2026-11."""


def _list_hosts() -> tuple[Host | HostEntry, ...]:
    """Return the hosts for `OPENAI_BASE_URL`. The last one matches every URL."""
    from anthropic_proxy.engine.providers.vendors import list_vendor_entries  # noqa: PLC0415  # few starts need it

    return (
        Host(
            name="openai",
            url_patterns=tuple(f"{host}/*" for host in _OTHER_HOSTS),
            docs_url="https://platform.openai.com/docs/guides/your-data",
        ),
        _AZURE,
        # the same service, with tokens of another cloud
        structs.replace(
            _AZURE,
            name="azure_us",
            url_patterns=("*.openai.azure.us/*", "*.cognitiveservices.azure.us/*"),
            title="Azure OpenAI, US Government",
            key_source="azure_openai_us",
        ),
        structs.replace(
            _AZURE,
            name="azure_cn",
            url_patterns=("*.openai.azure.cn/*", "*.cognitiveservices.azure.cn/*"),
            title="Azure OpenAI, China",
            key_source="azure_openai_cn",
        ),
        Host(
            name="deepseek_beta",
            url_patterns=("api.deepseek.com/beta/*",),
            wires={
                "chat": WireConfig(
                    wire=openai_chat.WIRE,
                    dialect=structs.replace(_DEEPSEEK, prefill_form="prefix"),
                    model_rules=_DEEPSEEK_RULES,
                ),
                "messages": messages.DEEPSEEK,
            },
            models_table="deepseek",
            retired_models=_DEEPSEEK_RETIRED,
            title="DeepSeek",
            key_variable="DEEPSEEK_API_KEY",
            keys_url="https://platform.deepseek.com/api_keys",
            docs_url="https://api-docs.deepseek.com/guides/chat_prefix_completion",
        ),
        Host(
            name="deepseek",
            url_patterns=("api.deepseek.com/*",),
            wires={
                "chat": WireConfig(wire=openai_chat.WIRE, dialect=_DEEPSEEK, model_rules=_DEEPSEEK_RULES),
                "messages": messages.DEEPSEEK,
            },
            models_table="deepseek",
            retired_models=_DEEPSEEK_RETIRED,
            title="DeepSeek",
            base_url="https://api.deepseek.com/v1",
            key_variable="DEEPSEEK_API_KEY",
            keys_url="https://platform.deepseek.com/api_keys",
            docs_url="https://api-docs.deepseek.com/guides/thinking_mode",
        ),
        Host(
            name="openrouter",
            url_patterns=("openrouter.ai/*", "*.openrouter.ai/*"),
            wires={
                "chat": WireConfig(
                    wire=openai_chat.WIRE,
                    dialect=openai_chat.Dialect(
                        signature_tag="openrouter",
                        # servers behind it may move system messages to the front, and then nothing is cached
                        mid_conversation_system="prefer_remind",
                        effort_form="reasoning",
                        replays_reasoning_details=True,
                        server_tools=("web_search",),
                        server_tool_names=(("web_search", "openrouter:web_search"),),
                        server_tool_setting_names=_OPENROUTER_SEARCH,
                        sends_top_k=True,
                        accepts_pdf_urls=True,
                        session_field="session_id",
                    ),
                    model_rules=(*MISTRAL_RULES, *_CACHED_ON_REQUEST),
                ),
                "messages": messages.GATEWAYS,
            },
            unknown_model_capabilities={"efforts": ("none", "minimal", "low", "medium", "high", "xhigh", "max")},
            capability_rules=(("*", {"accepts_pdf": True}),),
            title="OpenRouter",
            base_url="https://openrouter.ai/api/v1",
            key_variable="OPENROUTER_API_KEY",
            keys_url="https://openrouter.ai/keys",
            # openrouter.ai/docs/api/api-reference/api-keys/get-current-key; the list is public: accomplish-ai/coworker
            # pull request 208 (read 2026-11-26)
            key_path="/api/v1/key",
            docs_url="https://openrouter.ai/docs/use-cases/reasoning-tokens",
        ),
        Host(
            name="mistral",
            url_patterns=("api.mistral.ai/*", "codestral.mistral.ai/*"),
            # Mistral also has the Responses API (mistralai 3.7, read 2026-11-26). Chat Completions is used, which all
            # its models have, and which accepts `prompt_cache_key` too.
            wires={
                "chat": WireConfig(
                    wire=openai_chat.WIRE,
                    dialect=openai_chat.Dialect(
                        signature_tag="mistral",
                        session_field="prompt_cache_key",
                        output_limit_field="max_tokens",
                        mid_conversation_system="remind",
                        call_id_form="nine",
                        requires_message_after_results=True,
                        prefill_form="prefix",
                        sends_include_usage=False,
                        pdf_form="document_url",
                        accepts_pdf_urls=True,
                    ),
                    model_rules=_MISTRAL_REASONING_RULES,
                )
            },
            models_table="mistral",
            retired_models=build_retired_models(
                "docs.mistral.ai/getting-started/models, Legacy (braintrustdata/braintrust-proxy issue 1005)",
                "2026-11-25",
                ("2025-11-30", "codestral-2508", ("codestral-2501",)),
                ("2025-12-31", "ministral-14b-2512", ("pixtral-12b-2409",)),
            ),
            title="Mistral",
            base_url="https://api.mistral.ai/v1",
            key_variable="MISTRAL_API_KEY",
            keys_url="https://console.mistral.ai/api-keys",
            docs_url="https://docs.mistral.ai/api",
        ),
        Host(
            name="zai",
            url_patterns=("api.z.ai/*", "open.bigmodel.cn/*"),
            wires={
                "chat": WireConfig(
                    wire=openai_chat.WIRE,
                    dialect=openai_chat.Dialect(
                        signature_tag="zai",
                        # a user message stays where it is, whatever the template does
                        mid_conversation_system="prefer_remind",
                        output_limit_field="max_tokens",
                        effort_form="thinking",
                        reasoning_mode="unless_off",
                        thinking_retention_field="clear_thinking",
                        replayed_thinking_field="reasoning_content",
                        accepts_forced_tool="never",
                        reply_schema_form="json_object",
                        sends_strict=False,
                        sends_parallel_tool_calls=False,
                        sends_tool_stream=True,
                    ),
                    model_rules=_GLM_RULES,
                ),
                "messages": messages.ZAI,
            },
            models_table="zai",
            title="Z.ai",
            base_url="https://api.z.ai/api/paas/v4",
            key_variable="ZAI_API_KEY",
            keys_url="https://z.ai/manage-apikey/apikey-list",
            docs_url="https://docs.z.ai/api-reference/llm/chat-completion",
        ),
        Host(
            name="gemini",
            url_patterns=("generativelanguage.googleapis.com/*",),
            wires={
                "chat": WireConfig(
                    wire=openai_chat.WIRE,
                    dialect=openai_chat.Dialect(
                        signature_tag="gemchat",
                        effort_form="reasoning_effort",
                        sends_parallel_tool_calls=False,
                    ),
                )
            },
            unknown_model_capabilities={"efforts": ("low", "medium", "high")},
            key_variable="GEMINI_API_KEY",
            keys_url="https://aistudio.google.com/apikey",
            docs_url="https://ai.google.dev/gemini-api/docs/openai",
        ),
        *map(_as_host, chat.PROVIDERS),
        *list_vendor_entries(),
        *(
            structs.replace(
                _LOCAL,
                name=name,
                url_patterns=(),
                title=title,
                base_url=base_url,
                key_variable=key_variable,
                docs_url=docs_url,
                unpriced="runs on a machine of yours",
            )
            for name, title, base_url, key_variable, docs_url in _LOCAL_SERVERS
        ),
        _LOCAL,
        Host(
            name="other",
            url_patterns=("*",),
            wires={
                "chat": WireConfig(
                    wire=openai_chat.WIRE, dialect=UNKNOWN, model_rules=(*REPLAY_RULES, *OPEN_MODEL_RULES)
                ),
                "responses": UNKNOWN_RESPONSES,
            },
        ),
    )


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
    hosts=Hosts(_list_hosts),
    wire_rules=responses.OPENAI_WIRE_RULES,
    base_url="https://api.openai.com/v1",
    other_hosts=_OTHER_HOSTS,
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
