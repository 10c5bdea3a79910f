"""`ANTHROPIC`: the registry entry of Anthropic, and configurations for other vendors with the same Messages API.

The configurations `OLLAMA`, `CHAT_SERVERS` and `GATEWAYS` are used if the setting `<PROVIDER>_WIRE` is `messages`. They
list how these vendors deviate from Anthropic's API. These vendors receive the key as `Authorization: Bearer`, because
Ollama's cloud and vLLM do not accept `x-api-key`. The sources are named at each configuration, and were read in
2026-11.
"""

from msgspec import structs

from anthropic_proxy.engine.providers.registry import (
    Host,
    Hosts,
    Provider,
    WireConfig,
    build_model_rules,
    build_retired_models,
)
from anthropic_proxy.engine.wires import anthropic
from anthropic_proxy.engine.wires.json_schema import SchemaRules

CLAUDE_RULES = build_model_rules(
    "openrouter.ai/docs, Claude 4.7 Migration Guide; handochan/aelix-ai issue 258; langchain-ai/deepagents issue 1585; "
    "vellum-ai/vellum-assistant pull request 37276",
    "2026-11-26",
    ("*claude-*", {"thinking_forms": ("adaptive",), "accepts_sampling": False, "accepts_prefill": False}),
    ("*claude-*-4[-.]6*", {"thinking_forms": ("adaptive", "enabled"), "accepts_sampling": True}),
    *(
        (pattern, {"thinking_forms": ("enabled",), "accepts_sampling": True, "accepts_prefill": True})
        for pattern in ("*claude-[23]*", "*claude-*-4[-.][0-5]*", "*claude-*-4@*", "*claude-*-4")
    ),
    *((pattern, {"thinking_forms": ("disabled",)}) for pattern in ("*claude-2*", "*claude-3[-.][!7]*")),
)
"""What the models accept: the newest first, then what differs for older ones. Gateways write `claude-haiku-4.5`."""

PROMPT_SETTINGS = (
    "output_config.effort",
    "output_config.format",
    "output_format",
    "thinking.type",
    "thinking.budget_tokens",
    "tool_choice",
)
"""platform.claude.com/docs/en/build-with-claude/prompt-caching, What invalidates the cache; read 2026-11-26."""

ANTHROPIC = Provider(
    name="anthropic",
    prefix="anthropic",
    title="Anthropic",
    keys_url="https://console.anthropic.com/settings/keys",
    env_prefix="ANTHROPIC",
    wires={
        "messages": WireConfig(
            wire=anthropic.WIRE,
            dialect=anthropic.Dialect(prompt_settings=PROMPT_SETTINGS),
            model_rules=CLAUDE_RULES,
            url_suffixes=(("/v1", ""),),
        )
    },
    base_url="https://api.anthropic.com",
    base_url_variable="ANTHROPIC_UPSTREAM_URL",
    key_variable="ANTHROPIC_API_KEY",
    key_header="x-api-key",
    key_scheme="",
    accepts_client_credential=True,
    serves_claude=True,
    known_models=(
        *("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-2"),
        *("claude-sonnet-5", "claude-opus-5", "claude-fable-5", "claude-fable-5-1"),
        *("claude-mythos-5", "claude-mythos-5-1", "claude-mythos-5-2"),
        *("claude-opus-4-8", "claude-opus-4-7", "claude-mythos-preview"),
        *("claude-sonnet-4-6", "claude-opus-4-6", "claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"),
    ),
    retired_models=build_retired_models(
        "anthropic-python 2.14.0, _data/deprecated_models.py",
        "2026-11-26",
        ("2026-06-30", "claude-mythos-5", ("claude-mythos-preview",)),
        ("2026-11-30", "claude-sonnet-5-5", ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929")),
        ("2027-01-22", "claude-opus-5-5", ("claude-opus-4-5", "claude-opus-4-5-20251101")),
    ),
    hosts=Hosts(
        lambda: (
            Host(
                name="claude_aws",
                url_patterns=("aws-external-anthropic.*.api.aws",),
                title="Claude Platform on AWS",
                key_header="authorization",
                key_scheme="Bearer ",
                key_variable="ANTHROPIC_AWS_API_KEY",
                key_source="aws",
                source="anthropic 2.10.0, lib/aws",
                read_date="2026-11-26",
            ),
            Host(
                name="claude_google_cloud",
                url_patterns=("claude.googleapis.com",),
                title="Claude on Google Cloud",
                key_header="authorization",
                key_scheme="Bearer ",
                key_source="google",
                source="anthropic 2.10.0, lib/google_cloud",
                read_date="2026-11-26",
            ),
        )
    ),
    docs_url="https://docs.anthropic.com/en/api/messages",
)
"""Registry entry of Anthropic. At the addresses of its two servers, the same API takes credentials of a cloud."""

_THIRD_PARTY = anthropic.Dialect(
    verifies_signatures=False,
    forwards_client_headers=False,
    betas=(),
    forwards_metadata=False,
    has_anthropic_errors=False,
    has_model_list=False,
)

OLLAMA = WireConfig(
    wire=anthropic.WIRE,
    dialect=structs.replace(
        _THIRD_PARTY,
        has_count_tokens=False,
        # as in its own API, a property has no room for `$ref`
        schema_rules=SchemaRules(inlines_references=True, suits_grammars=True),
    ),
    url_suffixes=(("/v1", ""), ("/api", "")),  # those of its Chat Completions and of its own API
)
"""Messages API of Ollama. The context window is set on the Ollama server, because requests have no field for it.
Source: docs.ollama.com/api/anthropic-compatibility."""

CHAT_SERVERS = WireConfig(wire=anthropic.WIRE, dialect=_THIRD_PARTY, url_suffixes=(("/v1", ""),))
"""Messages API of vendors that serve Chat Completions at the same base URL, for their own models."""

GATEWAYS = structs.replace(
    CHAT_SERVERS,
    dialect=structs.replace(_THIRD_PARTY, betas=("*",), drops_rejected_fields=True),
    model_rules=CLAUDE_RULES,
    custom_url_only=True,
)
"""Messages API of gateways, which may pass requests on to Claude, and of unknown servers, which may be gateways.

A gateway needs the betas of the client, with the fields of the body that depend on them. vLLM and llama.cpp ignore the
header. Sources: code.claude.com/docs/en/llm-gateway-protocol; docs.litellm.ai, "Claude Code: Managing Anthropic Beta
Headers"; vercel.com/docs/ai-gateway, "Model Variants"; portkey.ai/docs, "Claude Code gateway compatibility" (read
2026-11-25); vllm/entrypoints/anthropic, llama.cpp/tools/server/README.md, openrouter.ai/docs.
"""
