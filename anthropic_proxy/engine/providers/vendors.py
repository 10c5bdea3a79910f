"""`VENDORS`: hosts of open models that `OPENAI_BASE_URL` can select, as data.

Each entry starts from the dialect for unknown servers and names what differs. The facts come from the documents in
`source`, and from clients that probed the hosts; none was tried with an account. Limits, efforts and prices are in
`models.toml`, in the table with the name of the host.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers.open_models import (
    GPT_OSS_RULES,
    MISTRAL_RULES,
    REPLAY_RULES,
    UNKNOWN,
    UNKNOWN_RESPONSES,
)
from anthropic_proxy.engine.providers.registry import (
    AnyWireConfig,
    Host,
    RetiredModel,
    WireConfig,
    build_model_rules,
    build_retired_models,
)
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.json_schema import SchemaRules

_READ = "2026-11-23"


def _build_vendor(
    name: str,
    title: str,
    base_url: str,
    *,
    url_patterns: Sequence[str],
    key_variable: str,
    keys_url: str,
    docs_url: str,
    source: str,
    dialect: dict[str, Any] | None = None,
    rules: Sequence[tuple[str, dict[str, Any]]] = (),
    messages_suffixes: Sequence[tuple[str, str]] = (),
    is_gateway: bool = False,
    retired_models: Mapping[str, RetiredModel] = {},
    price_url: str = "",
    unpriced: str = "",
    key_path: str = "",
    litellm_prefix: str = "",
) -> Host:
    """Return the entry of a host. `rules` are pairs of model pattern and dialect fields.

    `messages_suffixes`: endings of the base URL, and what replaces them for the Messages API. Empty: `/v1` is removed.
    `is_gateway`: it serves Claude with this API.
    """
    wires: dict[str, AnyWireConfig] = {
        "chat": WireConfig(
            wire=openai_chat.WIRE,
            dialect=structs.replace(UNKNOWN, signature_tag=name, **(dialect or {})),
            model_rules=(
                *REPLAY_RULES,
                *MISTRAL_RULES,
                *GPT_OSS_RULES,
                *build_model_rules(source, _READ, *rules),
            ),
        ),
        "responses": UNKNOWN_RESPONSES,
    }
    if messages_suffixes:
        config = messages.GATEWAYS if is_gateway else messages.CHAT_SERVERS
        wires["messages"] = structs.replace(config, url_suffixes=messages_suffixes)
    return Host(
        name=name,
        title=title,
        base_url=base_url,
        url_patterns=url_patterns,
        wires=wires,
        models_table=name,
        key_variable=key_variable,
        keys_url=keys_url,
        key_path=key_path,
        docs_url=docs_url,
        source=source,
        read_date=_READ,
        retired_models=retired_models,
        price_url=price_url,
        unpriced=unpriced,
        litellm_prefix=litellm_prefix,
    )


_REPLAYED = {"replayed_thinking_field": "reasoning_content"}
_EFFORT = {"effort_form": "reasoning_effort"}

VENDORS = (
    _build_vendor(
        "fireworks",
        "Fireworks",
        "https://api.fireworks.ai/inference/v1",
        url_patterns=("api.fireworks.ai/*", "*.api.fireworks.ai/*"),
        key_variable="FIREWORKS_API_KEY",
        keys_url="https://app.fireworks.ai/settings/users/api-keys",
        litellm_prefix="fireworks_ai",
        docs_url="https://docs.fireworks.ai/guides/reasoning",
        source="docs.fireworks.ai/guides/reasoning; api-evangelist/fireworks-ai fireworks-ai-chat-api-openapi.yml",
        dialect={**_EFFORT, **_REPLAYED, "sends_top_k": True, "session_field": "prompt_cache_key"},
        messages_suffixes=(("/v1", ""),),  # docs.fireworks.ai/tools-sdks/anthropic-compatibility
    ),
    # Reasoning is sent back in the field in which the host returned it.
    _build_vendor(
        "together",
        "Together",
        "https://api.together.ai/v1",
        url_patterns=("api.together.ai/*", "api.together.xyz/*"),
        key_variable="TOGETHER_API_KEY",
        keys_url="https://api.together.ai/settings/api-keys",
        litellm_prefix="together_ai",
        docs_url="https://docs.together.ai/docs/inference/chat/reasoning",
        source="docs.together.ai/docs/inference/chat/reasoning; docs.together.ai/docs/glm-5.3-quickstart",
        dialect={"sends_strict": False, "sends_parallel_tool_calls": False, "sends_top_k": True},
        rules=(
            ("*", {"replayed_thinking_field": "reasoning"}),
            ("*glm-5", {"effort_form": "reasoning_enabled"}),
            ("*glm-5.1*", {"effort_form": "reasoning_enabled"}),
            ("*kimi-k2.6*", {"effort_form": "reasoning_enabled"}),
            ("*qwen3.[56]*", {"effort_form": "reasoning_enabled"}),
            ("*glm-5.[2-9]*", _EFFORT),
            ("*glm-5.[3-9]*", _REPLAYED),
            ("*deepseek-v4-pro*", _EFFORT),
        ),
        price_url="https://api.together.xyz/v1",
    ),
    _build_vendor(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        url_patterns=("api.cerebras.ai/*",),
        key_variable="CEREBRAS_API_KEY",
        keys_url="https://cloud.cerebras.ai",
        docs_url="https://inference-docs.cerebras.ai/capabilities/reasoning",
        source="inference-docs.cerebras.ai/capabilities/reasoning; harn 80-cerebras.toml; vercel/ai packages/cerebras",
        dialect={
            "output_limit_field": "max_completion_tokens",
            "reply_schema_exclusive": True,
            "sends_parallel_tool_calls": False,
            "session_field": "prompt_cache_key",
            "loaded_tools": "listed",  # cached input costs as much as other input
        },
        rules=(
            ("*gpt-oss*", {"replayed_thinking_field": "reasoning", "thinking_request_field": "reasoning_format"}),
            ("*qwen*", {"replayed_thinking_field": "", "thinking_request_field": "reasoning_format"}),
            ("qwen-3.[89]*", _EFFORT),
            ("*glm*", {**_EFFORT, "replayed_thinking_field": "", "thinking_request_field": "reasoning_format"}),
        ),
        # The page names no successor of the models of 27 May 2026.
        retired_models=build_retired_models(
            "inference-docs.cerebras.ai/support/deprecation",
            "2026-11-26",
            ("2025-01-17", "llama-3.3-70b", ("llama3.1-70b",)),
            ("2025-07-29", "qwen-3-235b-a22b-instruct-2507", ("qwen-3-235b-a22b",)),
            ("2025-08-12", "qwen-3-32b", ("deepseek-r1-distill-llama-70b",)),
            ("2025-10-15", "gpt-oss-120b", ("llama-4-maverick-17b-128e-instruct",)),
            ("2025-11-03", "gpt-oss-120b", ("llama-4-scout-17b-16e-instruct",)),
            ("2025-11-05", "zai-glm-4.7", ("qwen-3-coder-480b",)),
            ("2025-11-14", "gpt-oss-120b", ("qwen-3-235b-a22b-thinking-2507",)),
            ("2026-01-20", "zai-glm-4.7", ("zai-glm-4.6",)),
            ("2026-02-16", "gpt-oss-120b", ("qwen-3-32b", "llama-3.3-70b")),
            ("2026-05-27", "gpt-oss-120b", ("llama3.1-8b", "qwen-3-235b-a22b-instruct-2507")),
        ),
    ),
    _build_vendor(
        "deepinfra",
        "DeepInfra",
        "https://api.deepinfra.com/v1/openai",
        url_patterns=("api.deepinfra.com/*",),
        key_variable="DEEPINFRA_API_KEY",
        keys_url="https://deepinfra.com/dash/api_keys",
        docs_url="https://docs.deepinfra.com/chat/reasoning",
        source="docs.deepinfra.com/chat/reasoning, /chat/prompt-caching; burin-labs/harn 36-deepinfra.toml (probed)",
        dialect={**_EFFORT, **_REPLAYED, "session_field": "prompt_cache_key"},
        rules=(
            ("*glm-5.2*", {"accepts_forced_tool": "never"}),
            ("*qwen3.[78]-max*", {"reply_schema_form": "json_object"}),
        ),
        # docs.deepinfra.com/api-reference/chat-completions/anthropic-messages
        messages_suffixes=(("/anthropic/v1", "/anthropic"), ("/v1/openai", "/anthropic")),
    ),
    _build_vendor(
        "dashscope",
        "Qwen (DashScope)",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        url_patterns=("dashscope*.aliyuncs.com/*", "coding*.dashscope.aliyuncs.com/*", "*.maas.aliyuncs.com/*"),
        key_variable="DASHSCOPE_API_KEY",
        keys_url="https://bailian.console.alibabacloud.com/?tab=model#/api-key",
        docs_url="https://www.alibabacloud.com/help/en/model-studio/deep-thinking",
        source="alibabacloud.com/help, deep-thinking; QwenLM/qwen-code dashscope.ts; vercel/ai packages/alibaba",
        dialect={"effort_form": "enable_thinking", **_REPLAYED},
        rules=(
            ("*qwen3.[5-9]*", {"thinking_retention_field": "preserve_thinking"}),
            ("*qwen*", {"sends_cache_marks": True, "sends_cache_field": False}),
            ("*qwen3.8-max*", _EFFORT),
        ),
        # alibabacloud.com/help/en/model-studio/claude-code: only for Qwen models of a list
        messages_suffixes=(
            ("/apps/anthropic/v1", "/apps/anthropic"),
            ("/compatible-mode/v1", "/apps/anthropic"),
            ("/v1", "/apps/anthropic"),
        ),
    ),
    _build_vendor(
        "minimax",
        "MiniMax",
        "https://api.minimax.io/v1",
        url_patterns=("api.minimax.io/*", "api.minimaxi.com/*"),
        key_variable="MINIMAX_API_KEY",
        keys_url="https://platform.minimax.io/user-center/basic-information/interface-key",
        docs_url="https://platform.minimax.io/docs/api-reference/text-openai-api",
        source="platform.minimax.io/docs/api-reference/text-openai-api.md; java.agentscope.io, MiniMax",
        dialect={
            "output_limit_field": "max_completion_tokens",
            "thinking_request_field": "reasoning_split",
            "replays_reasoning_details": True,
            "reasoning_mode": "always",
            "accepts_forced_tool": "never",
            "reply_schema_form": "ask",
            "sends_strict": False,
            "sends_parallel_tool_calls": False,
        },
        rules=(("*", {"replayed_thinking_field": ""}),),
        # platform.minimax.io/docs/api-reference/text-anthropic-api
        messages_suffixes=(("/anthropic/v1", "/anthropic"), ("/v1", "/anthropic")),
    ),
    _build_vendor(
        "vercel",
        "Vercel AI Gateway",
        "https://ai-gateway.vercel.sh/v1",
        url_patterns=("ai-gateway.vercel.sh/*",),
        key_variable="AI_GATEWAY_API_KEY",
        keys_url="https://vercel.com/docs/ai-gateway",
        key_path="/v1/credits",  # vercel.com/docs/ai-gateway/sdks-and-apis/rest-api (read 2026-11-26)
        litellm_prefix="vercel_ai_gateway",
        docs_url="https://vercel.com/docs/ai-gateway/sdks-and-apis/openai-chat-completions/advanced",
        source="vercel.com/docs/ai-gateway/sdks-and-apis/openai-chat-completions/advanced",
        dialect={"replays_reasoning_details": True},
        rules=(("*", {"effort_form": "reasoning", "replayed_thinking_field": ""}),),
        messages_suffixes=(("/v1", ""),),  # vercel.com/docs/ai-gateway/sdks-and-apis/anthropic-messages-api
        is_gateway=True,
    ),
    # Only approved clients are served: others get 403 access_terminated_error.
    _build_vendor(
        "kimi_code",
        "Kimi Code",
        "https://api.kimi.com/coding/v1",
        url_patterns=("api.kimi.com/coding/*", "api.kimi.ai/coding/*"),
        key_variable="KIMI_API_KEY",
        keys_url="https://www.kimi.com/code/console",
        docs_url="https://www.kimi.com/code/docs/en/kimi-code/models.html",
        source="MoonshotAI/kimi-code kimi.contrib.ts, kimi-schema.ts; MoonshotAI/kimi-cli kimi.py",
        dialect={
            **_REPLAYED,
            "output_limit_field": "max_completion_tokens",
            "sampling_support": "never",
            "reasoning_mode": "always",
            "thinking_retention_field": "keep",
            "thinking_replay_scope": "calls",
            "accepts_forced_tool": "any",
            "schema_rules": SchemaRules(inlines_references=True, allows_type_beside_alternatives=False),
            "omits_null_content": True,
            "session_field": "prompt_cache_key",
        },
        rules=(("k3*", {"effort_form": "thinking_effort"}),),
        messages_suffixes=(("/coding/v1", "/coding"),),  # MoonshotAI/kimi-code docs/AGENTS.md; kimi.com/code/docs
        unpriced="paid by subscription",
    ),
    _build_vendor(
        "huggingface",
        "Hugging Face",
        "https://router.huggingface.co/v1",
        url_patterns=("router.huggingface.co/*",),
        key_variable="HF_TOKEN",
        keys_url="https://huggingface.co/settings/tokens",
        docs_url="https://huggingface.co/docs/inference-providers/tasks/chat-completion",
        source="huggingface/hub-docs inference-providers/tasks/chat-completion.md; models.dev providers/huggingface",
        dialect={**_EFFORT, **_REPLAYED},
        messages_suffixes=(("/v1", ""),),  # hub-docs inference-providers/integrations/claude-code.md
    ),
    _build_vendor(
        "nvidia",
        "NVIDIA",
        "https://integrate.api.nvidia.com/v1",
        url_patterns=("integrate.api.nvidia.com/*",),
        key_variable="NVIDIA_API_KEY",
        keys_url="https://build.nvidia.com/settings/api-keys",
        litellm_prefix="nvidia_nim",
        docs_url="https://docs.api.nvidia.com/nim/reference/llm-apis",
        source="docs.api.nvidia.com/nim/reference/llm-apis; harn 38-nvidia.toml; anomalyco/opencode issue 13584",
        dialect=_REPLAYED,
        rules=(
            ("*deepseek-v4*", _EFFORT),
            ("*glm*", {"effort_form": "chat_template_kwargs"}),
        ),
        unpriced="free for development, no price per token",
    ),
    # Reasoning of DeepSeek and MiniMax comes in tags inside the text.
    _build_vendor(
        "sambanova",
        "SambaNova",
        "https://api.sambanova.ai/v1",
        url_patterns=("api.sambanova.ai/*",),
        key_variable="SAMBANOVA_API_KEY",
        keys_url="https://cloud.sambanova.ai/apis",
        docs_url="https://docs.sambanova.ai/docs/en/models/sambacloud-models",
        source="docs.sambanova.ai/docs/api-reference/chat-completions; burin-labs/harn 37-sambanova.toml (probed)",
        rules=(("minimax-m3*", {"effort_form": "chat_template_kwargs"}),),
    ),
    _build_vendor(
        "nebius",
        "Nebius Token Factory",
        "https://api.tokenfactory.nebius.com/v1",
        url_patterns=("api.tokenfactory.nebius.com/*", "api.tokenfactory.*.nebius.com/*", "api.studio.nebius.*"),
        key_variable="NEBIUS_API_KEY",
        keys_url="https://tokenfactory.nebius.com",
        docs_url="https://docs.tokenfactory.nebius.com/api-reference/inference/create-chat-completion",
        source="docs.tokenfactory.nebius.com/api-reference/inference/create-chat-completion",
        dialect={**_EFFORT, **_REPLAYED},
    ),
    _build_vendor(
        "novita",
        "Novita",
        "https://api.novita.ai/openai/v1",
        url_patterns=("api.novita.ai/*",),
        key_variable="NOVITA_API_KEY",
        keys_url="https://novita.ai/settings/key-management",
        # novita.ai/docs/api-reference/basic-get-user-balance (read 2026-11-26)
        key_path="/openapi/v1/billing/balance/detail",
        docs_url="https://novita.ai/docs/guides/llm-interleaved-thinking",
        source="novita.ai/docs/guides/llm-interleaved-thinking.md; juspay/neurolink novita.json (called 2026-09-05)",
        dialect={**_REPLAYED, "replays_reasoning_details": True},
        rules=(("*llama-3.3*", {"reply_schema_form": "ask"}),),
        messages_suffixes=(("/anthropic/v1", "/anthropic"), ("/openai/v1", "/anthropic"), ("/openai", "/anthropic")),
        retired_models={
            **build_retired_models(
                "novita.ai/docs/changelog/22-05-26",
                "2026-11-25",
                ("2026-05-22", "deepseek/deepseek-v3.2", ("baidu/ernie-4.5-300b-a47b-paddle",)),
                ("2026-05-22", "qwen/qwen3.6-35b-a3b", ("baidu/ernie-4.5-21B-a3b", "baidu/ernie-4.5-vl-28b-a3b")),
                ("2026-05-22", "qwen/qwen3.6-27b", ("qwen/qwen2.5-7b-instruct", "qwen/qwen2.5-vl-72b-instruct")),
                ("2026-05-22", "qwen/qwen3.6-27b", ("qwen/qwen2.5-32b-instruct", "qwen/qwen3-4b")),
                announced_on="2026-05-22",
            ),
            **build_retired_models(
                "novita.ai/docs/changelog/25-06-26",
                "2026-11-26",
                (
                    *("2026-07-01", "deepseek/deepseek-v4-flash"),
                    ("deepseek/deepseek-r1-distill-qwen-14b", "deepseek/deepseek-r1-distill-qwen-32b"),
                ),
                ("2026-07-01", "qwen/qwen3.6-27b", ("qwen/qwen3-14b", "qwen/qwen3-32b", "qwen/qwen3-8b")),
                ("2026-07-01", "qwen/qwen3.6-35b-a3b", ("qwen/qwen3-30b-a3b", "qwen/qwen3-30b-a3b-instruct-2507")),
                ("2026-07-01", "qwen/qwen3.6-35b-a3b", ("qwen/qwen3-next-80b-a3b-thinking",)),
                ("2026-07-01", "qwen/qwen3.6-35b-a3b", ("qwen/qwen3-30b-a3b-thinking-2507",)),
                ("2026-07-01", "qwen/qwen3.6-35b-a3b", ("qwen/qwen3-vl-30b-a3b-thinking",)),
                ("2026-07-01", "qwen/qwen3.6-27b", ("qwen/qwen3-vl-32b-instruct", "qwen/qwen3-vl-32b-thinking")),
                ("2026-07-01", "qwen/qwen3.6-27b", ("qwen/qwen3-vl-8b-instruct", "qwen/qwen3-vl-8b-thinking")),
                announced_on="2026-06-25",
            ),
            **build_retired_models(
                "novita.ai/docs/changelog/04-06-26",
                "2026-11-25",
                ("2026-06-19", "meta-llama/llama-3.3-70b-instruct", ("meta-llama/llama-3-70b-instruct",)),
                ("2026-06-19", "meta-llama/llama-3.1-8b-instruct", ("meta-llama/llama-3-8b-instruct",)),
                ("2026-06-19", "deepseek/deepseek-v4-pro", ("deepseek/deepseek-prover-v2-671b",)),
                ("2026-06-19", "zai-org/glm-5.1", ("zai-org/glm-4.5",)),
                announced_on="2026-06-04",
            ),
            **build_retired_models(
                "novita.ai/docs/changelog/11-08-26",
                "2026-11-25",
                (
                    *("2026-08-24", "inclusionai/ling-3.0-flash"),
                    ("inclusionai/ling-2.6-flash", "inclusionai/ling-2.6-1t", "inclusionai/ring-2.6-1t"),
                ),
                announced_on="2026-08-11",
            ),
        },
    ),
    _build_vendor(
        "siliconflow",
        "SiliconFlow",
        "https://api.siliconflow.com/v1",
        url_patterns=("api.siliconflow.com/*", "api.siliconflow.cn/*"),
        key_variable="SILICONFLOW_API_KEY",
        keys_url="https://cloud.siliconflow.com/account/ak",
        docs_url="https://docs.siliconflow.com/en/api-reference/chat-completions/chat-completions",
        source="docs.siliconflow.com (2026-09-29), quoted in neurolink siliconflow.json; models.dev (second-hand)",
        dialect={**_REPLAYED, "reply_schema_form": "json_object"},
        rules=(("*glm-5", {"reply_schema_form": "ask"}), ("*glm-5.1*", {"reply_schema_form": "ask"})),
    ),
    _build_vendor(
        "baseten",
        "Baseten",
        "https://inference.baseten.co/v1",
        url_patterns=("inference.baseten.co/*", "*.api.baseten.co/*"),
        key_variable="BASETEN_API_KEY",
        keys_url="https://app.baseten.co/settings/api_keys",
        docs_url="https://docs.baseten.co/inference/model-apis/reasoning",
        source="docs.baseten.co/inference/model-apis/reasoning, /pricing-and-limits; harn 39-baseten.toml (probed)",
        dialect={**_REPLAYED, "session_header": "x-session-affinity"},
        rules=(
            ("*glm-[45]*", {"effort_form": "chat_template_args"}),
            ("*glm-5.2*", _EFFORT),
            ("*glm-5.[3-9]*", {"effort_form": "omit"}),
            ("*deepseek-v4*", _EFFORT),
            ("*kimi-k3*", _EFFORT),
        ),
        retired_models=build_retired_models(
            "docs.baseten.co/inference/model-apis/deprecation",
            "2026-11-25",
            ("2026-05-01", "deepseek-ai/DeepSeek-V3.1", ("deepseek-ai/DeepSeek-V3-0324",)),
            ("2026-05-01", "zai-org/GLM-4.7", ("zai-org/GLM-4.6",)),
        ),
    ),
    _build_vendor(
        "chutes",
        "Chutes",
        "https://llm.chutes.ai/v1",
        url_patterns=("llm.chutes.ai/*", "*.chutes.ai/*"),
        key_variable="CHUTES_API_KEY",
        keys_url="https://chutes.ai/app/api",
        docs_url="https://chutes.ai/docs/guides/reasoning-models",
        source="chutes.ai/docs/guides/reasoning-models; models.dev providers/chutes (tried live on 2026-08-03)",
        dialect=_REPLAYED,
        rules=(("*qwen3.[5-9]*", {"effort_form": "chat_template_kwargs"}),),
    ),
    _build_vendor(
        "xiaomi",
        "Xiaomi MiMo",
        "https://api.xiaomimimo.com/v1",
        url_patterns=("api.xiaomimimo.com/*", "token-plan-*.xiaomimimo.com/*"),
        key_variable="MIMO_API_KEY",
        keys_url="https://platform.xiaomimimo.com/#/console/api-keys",
        litellm_prefix="xiaomi_mimo",
        docs_url="https://platform.xiaomimimo.com/docs/en-US/quick-start/first-api-call",
        source="platform.xiaomimimo.com/static/docs/api/chat/openai-api.md, in models.dev providers/xiaomi",
        # platform.xiaomimimo.com/docs/en-US/usage-guide/passing-back-reasoning_content: each reply with calls needs it
        dialect={
            "effort_form": "thinking",
            "reasoning_mode": "unless_off",
            **_REPLAYED,
            "thinking_replay_scope": "calls",
        },
        rules=(("mimo-v2-flash*", {"reasoning_mode": "if_asked"}),),
        retired_models=build_retired_models(
            "mimo.mi.com/docs/en-US/updates/deprecate, quoted in nosistech/nosis-harness (second-hand)",
            "2026-11-25",
            ("2026-10-21", "mimo-v2.6-pro", ("mimo-v2.5-pro",)),
            ("2026-10-21", "mimo-v2.6-flash", ("mimo-v2.5",)),
        ),
        messages_suffixes=(("/anthropic/v1", "/anthropic"), ("/v1", "/anthropic")),
    ),
    _build_vendor(
        "longcat",
        "LongCat",
        "https://api.longcat.chat/openai/v1",
        url_patterns=("api.longcat.chat/*",),
        key_variable="LONGCAT_API_KEY",
        keys_url="https://longcat.chat/platform/api_keys",
        docs_url="https://longcat.chat/platform/docs/api-docs",
        source="longcat.chat/platform/docs/zh/api/chat.html; docs.openclaw.ai/providers/longcat (read 2026-11-25)",
        dialect={"effort_form": "thinking", **_REPLAYED},
        # longcat.chat/platform/docs/claude-code
        messages_suffixes=(("/anthropic/v1", "/anthropic"), ("/openai/v1", "/anthropic"), ("/openai", "/anthropic")),
    ),
    _build_vendor(
        "stepfun",
        "StepFun",
        "https://api.stepfun.ai/v1",
        url_patterns=("api.stepfun.ai/*", "api.stepfun.com/*"),
        key_variable="STEPFUN_API_KEY",
        keys_url="https://platform.stepfun.ai/interface-key",
        docs_url="https://platform.stepfun.ai/docs/en/step-plan/integrations/reasoning-api",
        source="docs.openclaw.ai/providers/stepfun; mastra.ai/models/providers/stepfun (read 2026-11-25)",
        # stepfun-ai/Step-3.5-Flash README, "Claude Code Guide"; also below /step_plan
        messages_suffixes=(("/v1", ""),),
    ),
    # Requests to other paths of this host are not part of the plan.
    _build_vendor(
        "volcengine",
        "Volcengine Coding Plan",
        "https://ark.cn-beijing.volces.com/api/coding/v3",
        url_patterns=("ark.*.volces.com/api/coding/*",),
        key_variable="ARK_API_KEY",
        keys_url="https://console.volcengine.com/ark",
        docs_url="https://www.volcengine.com/docs/82379/1928261",
        source="volcengine.com/article/38136; docs.openclaw.ai/providers/volcengine (read 2026-11-25)",
        messages_suffixes=(("/api/coding/v3", "/api/coding"),),  # volcengine.com/article/38136
        unpriced="paid by subscription",
    ),
    _build_vendor(
        "synthetic",
        "Synthetic",
        "https://api.synthetic.new/openai/v1",
        url_patterns=("api.synthetic.new/*",),
        key_variable="SYNTHETIC_API_KEY",
        keys_url="https://dev.synthetic.new",
        docs_url="https://dev.synthetic.new/docs/guides/claude-code",
        source="dev.synthetic.new/docs/guides/claude-code; docs.openclaw.ai/providers/synthetic (read 2026-11-25)",
        messages_suffixes=(("/anthropic/v1", "/anthropic"), ("/openai/v1", "/anthropic")),
        unpriced="paid by subscription, or by use",
    ),
    _build_vendor(
        "modelscope",
        "ModelScope",
        "https://api-inference.modelscope.cn/v1",
        url_patterns=("api-inference.modelscope.cn/*",),
        key_variable="MODELSCOPE_API_KEY",
        keys_url="https://modelscope.cn/my/myaccesstoken",
        docs_url="https://modelscope.cn/docs/model-service/API-Inference/intro",
        source="modelscope.cn/docs/model-service/API-Inference/intro; mastra.ai/models/providers/modelscope "
        "(read 2026-11-26)",
        messages_suffixes=(("/v1", ""),),  # the same page, "Anthropic API", in beta
        unpriced="free within daily limits",
    ),
    # Go refuses a request without the header. Both choose the API by model, which OPENAI_WIRE must state here; Gemini
    # has Google's API there, which GEMINI_BASE_URL selects.
    _build_vendor(
        "opencode_go",
        "OpenCode Go",
        "https://opencode.ai/zen/go/v1",
        url_patterns=("opencode.ai/zen/go/*",),
        key_variable="OPENCODE_API_KEY",
        keys_url="https://opencode.ai/auth",
        docs_url="https://opencode.ai/docs/go",
        source="opencode.ai/docs/go; docs.rs/rig-core providers/opencode",
        dialect={"session_header": "x-opencode-session"},
        messages_suffixes=(("/v1", ""),),
        unpriced="paid by subscription",
    ),
    _build_vendor(
        "opencode",
        "OpenCode Zen",
        "https://opencode.ai/zen/v1",
        url_patterns=("opencode.ai/zen/*",),
        key_variable="OPENCODE_API_KEY",
        keys_url="https://opencode.ai/auth",
        docs_url="https://opencode.ai/docs/zen",
        source="opencode.ai/docs/zen, Endpoints (anomalyco/opencode zen.mdx); docs.rs/rig-core providers/opencode",
        dialect={"session_header": "x-opencode-session"},
        messages_suffixes=(("/v1", ""),),
        is_gateway=True,
        # The page names no successors.
        retired_models=build_retired_models(
            "opencode.ai/docs/zen, Deprecated models",
            "2026-11-25",
            ("2026-02-06", "kimi-k2.7-code", ("qwen3-coder",)),
            ("2026-03-06", "kimi-k2.7-code", ("kimi-k2", "kimi-k2-thinking")),
            ("2026-03-09", "gemini-3.1-pro", ("gemini-3-pro",)),
            ("2026-03-15", "glm-5.2", ("glm-4.6", "glm-4.7")),
            ("2026-03-15", "minimax-m3", ("minimax-m2.1",)),
        ),
    ),
)
"""Hosts of open models. The first match of `url_patterns` applies; they stand before the entries for any address."""
