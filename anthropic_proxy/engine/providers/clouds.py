"""Claude at cloud providers: `BEDROCK` (Amazon), `FOUNDRY` (Microsoft) and the API `VERTEX_CLAUDE` of Vertex AI.

All have Anthropic's Messages API, with differences in the URL, the API version and the betas. Requests follow the
clients of the Python SDK `anthropic` 2.10.0: `AnthropicBedrock`, `AnthropicBedrockMantle`, `AnthropicVertex` and
`AnthropicFoundry`. The signatures of thinking are valid in all of them: platform.claude.com, "Extended thinking",
"Thinking encryption", read 2026-11. The lists of betas are those of BerriAI/litellm
(`anthropic_beta_headers_config.json`, read 2026-11-23), because no page of a cloud lists them all; for Bedrock, those
of Amazon's page "Anthropic Claude Messages API" are added, and for token counts that of the SDK. A beta or field that a
cloud rejects nevertheless is left out of later requests for the model.
"""

from msgspec import structs

from anthropic_proxy.engine.providers.anthropic import CLAUDE_RULES, PROMPT_SETTINGS
from anthropic_proxy.engine.providers.registry import (
    Host,
    Hosts,
    Provider,
    WireConfig,
    build_model_rules,
)
from anthropic_proxy.engine.wires import anthropic

_EVERYWHERE = (
    *("computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24", "context-1m-2025-08-07"),
    *("context-management-2025-06-27", "dangerous-tool-use-2026-09-03", "interleaved-thinking-2025-05-14"),
    "thinking-display-updates-2026-08-18",
)
_AT_AMAZON = (
    *_EVERYWHERE,
    *("compact-2026-01-12", "dev-full-thinking-2025-05-14", "effort-2025-11-24", "output-128k-2025-02-19"),
    *("fine-grained-tool-streaming-2025-05-14", "thinking-binding-controls-2026-08-01"),
    *("token-efficient-tools-2025-02-19", "tool-examples-2025-10-29", "tool-search-tool-2025-10-19"),
)
_TOOL_SEARCH = (("advanced-tool-use-2025-11-20", "tool-search-tool-2025-10-19"),)
_COUNTING = "token-counting-2024-11-01"
_NOT_IN_CLOUDS = ("container", "mcp_servers", "speed")
"""Fields of code execution, MCP servers and fast mode, whose betas the clouds do not accept."""

_NOT_AT_AMAZON = ("web_search", "web_fetch", "code_execution", "advisor", "mcp")
"""Kinds of server tools. Sources: platform.claude.com, "Web search tool" ("not available on Amazon Bedrock"), and
code.claude.com, "Feature availability", which has both endpoints in one column; read 2026-11-25."""
_NOT_AT_GOOGLE = ("web_fetch", "code_execution", "advisor", "mcp")

# `accepts_media_urls`: platform.claude.com, "Vision": Bedrock and Claude that Google manages have base64 sources only.
# Read 2026-11-26.
_WITHOUT_VERSION = (("/anthropic/v1", "/anthropic"),)
_CLOUD = anthropic.Dialect(
    forwards_client_headers=False,
    forwards_metadata=False,
    has_anthropic_errors=False,
    has_count_tokens=False,
    has_model_list=False,
    drops_rejected_fields=True,
    betas_listed_on="2026-11-23",
    dropped_fields=_NOT_IN_CLOUDS,
    prompt_settings=PROMPT_SETTINGS,
)
_BEDROCK = WireConfig(
    wire=anthropic.WIRE,
    models_table="anthropic",
    dialect=structs.replace(
        _CLOUD,
        message_path="/model/{model}/invoke",
        stream_path="/model/{model}/invoke-with-response-stream",
        accepts_media_urls=False,
        version_in_body="bedrock-2023-05-31",
        sends_stream_field=False,
        streams_tool_input=False,
        sends_betas_in_body=True,
        missing_tools=_NOT_AT_AMAZON,
        betas=(*_AT_AMAZON, "mid-conversation-output-config-2026-07-01", "mid-conversation-tool-changes-2026-07-01"),
        renamed_betas=_TOOL_SEARCH,
    ),
    model_rules=(
        *CLAUDE_RULES,
        *build_model_rules(
            "platform.claude.com/docs/en/api/versioning; …/build-with-claude/claude-on-amazon-bedrock-legacy",
            "2026-11-23",
            *((pattern, {"accepts_newer_versions": False}) for pattern in ("*claude-3*", "*claude-*-4-[0-6]*")),
        ),
    ),
)
_BEDROCK_MESSAGES = WireConfig(
    wire=anthropic.WIRE,
    models_table="anthropic",
    model_rules=CLAUDE_RULES,
    url_suffixes=_WITHOUT_VERSION,
    dialect=structs.replace(
        _CLOUD,
        has_count_tokens=True,
        streams_tool_input=False,
        accepts_media_urls=False,
        missing_tools=_NOT_AT_AMAZON,
        betas=(
            *(*_AT_AMAZON, "claude-code-20250219", "per-turn-control-2026-07-01"),
            *("structured-outputs-2025-11-13", "web-search-2025-03-05", _COUNTING),
        ),
        renamed_betas=_TOOL_SEARCH,
    ),
)

BEDROCK = Provider(
    name="bedrock",
    prefix="bedrock",
    prefix_patterns=(
        "anthropic.*",
        *(f"{area}.anthropic.*" for area in ("??", "apac", "global", "us-gov")),
        "arn:aws*:bedrock:*",
    ),
    title="Amazon Bedrock",
    env_prefix="BEDROCK",
    wires={"messages": _BEDROCK},
    hosts=Hosts(
        lambda: (
            Host(
                name="bedrock_messages",
                url_patterns=("*/anthropic/", "*/*/anthropic/", "*/anthropic/v1/", "*/*/anthropic/v1/"),
                wires={"messages": _BEDROCK_MESSAGES},
                models_table="anthropic",
                key_source="aws",
                title="Amazon Bedrock, Messages API",
                base_url="https://bedrock-mantle.{region}.api.aws/anthropic",
                docs_url="https://docs.aws.amazon.com/bedrock/latest/userguide/inference-messages-api.html",
                source="docs.aws.amazon.com/bedrock/latest/userguide/inference-messages-api.html; anthropic 2.10.0",
                read_date="2026-11-23",
            ),
        )
    ),
    base_url="https://bedrock-runtime.{region}.amazonaws.com",
    host_patterns=(
        *("bedrock-runtime.*.amazonaws.com", "bedrock-runtime-fips.*.amazonaws.com"),
        *("bedrock-runtime.*.api.aws", "bedrock-mantle.*.api.aws"),
        *("*.bedrock-runtime.*.vpce.amazonaws.com", "*.bedrock-mantle.*.vpce.amazonaws.com"),
    ),
    price_url="https://bedrock-runtime.us-east-1.amazonaws.com",
    base_url_variable="BEDROCK_BASE_URL",
    key_variable="AWS_BEARER_TOKEN_BEDROCK",
    key_source="aws",
    key_required="never",
    offered_to_users=False,
    docs_url="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html",
)
"""Registry entry of Amazon Bedrock, with an API key or with signatures by the credentials of AWS.

Its API is that of InvokeModel, which all Claude models have. A base URL that ends with `/anthropic` selects the
Messages API itself (bedrock-runtime or bedrock-mantle; docs.aws.amazon.com, "Inference using Anthropic Messages API").
"""

VERTEX_CLAUDE = WireConfig(
    wire=anthropic.WIRE,
    models_table="anthropic",
    model_rules=CLAUDE_RULES,
    url_suffixes=(("/publishers/google", "/publishers/anthropic"),),
    dialect=structs.replace(
        _CLOUD,
        message_path="/models/{model}:rawPredict",
        stream_path="/models/{model}:streamRawPredict",
        count_path="/models/count-tokens:rawPredict",
        has_count_tokens=True,
        streams_tool_input=False,
        accepts_media_urls=False,
        version_in_body="vertex-2023-10-16",
        missing_tools=_NOT_AT_GOOGLE,
        tool_versions=("web_search_20250305",),
        betas=(
            *(*_EVERYWHERE, "compact-2026-01-12", "compact-2026-09-04", "per-turn-control-2026-07-01"),
            *("thinking-binding-controls-2026-08-01", "tool-search-tool-2025-10-19", "web-search-2025-03-05"),
            _COUNTING,
        ),
        renamed_betas=_TOOL_SEARCH,
    ),
)
"""API of Claude at Vertex AI. Sources: platform.claude.com, "Claude on Vertex AI"; "Web search tool" (only the version
without filters by programs), read 2026-11-25."""

FOUNDRY = Provider(
    name="foundry",
    prefix="foundry",
    title="Microsoft Foundry",
    env_prefix="FOUNDRY",
    wires={
        "messages": WireConfig(
            wire=anthropic.WIRE,
            models_table="anthropic",
            model_rules=CLAUDE_RULES,
            url_suffixes=(*_WITHOUT_VERSION, (".services.ai.azure.com", ".services.ai.azure.com/anthropic")),
            dialect=structs.replace(
                _CLOUD,
                has_count_tokens=True,
                dropped_fields=("speed",),
                betas=(
                    *(*_EVERYWHERE, "advanced-tool-use-2025-11-20", "code-execution-2025-08-25", "effort-2025-11-24"),
                    *("files-api-2025-04-14", "mcp-client-2025-04-04", "mcp-client-2025-11-20", "skills-2025-10-02"),
                    *("prompt-caching-scope-2026-01-05", "structured-outputs-2025-11-13", "web-fetch-2025-09-10"),
                    *("per-turn-control-2026-07-01", "web-search-2025-03-05", _COUNTING),
                ),
            ),
        )
    },
    base_url="https://{resource}.services.ai.azure.com/anthropic",
    host_patterns=("*.services.ai.azure.com",),
    base_url_variable="FOUNDRY_BASE_URL",
    key_variable="ANTHROPIC_FOUNDRY_API_KEY",
    key_header="x-api-key",
    key_scheme="",
    key_source="azure",
    key_required="never",
    offered_to_users=False,
    docs_url="https://platform.claude.com/docs/en/build-with-claude/claude-in-microsoft-foundry",
)
"""Registry entry of Claude in Microsoft Foundry, with an API key or with tokens of Microsoft Entra ID.

A model id is the name of a deployment."""
