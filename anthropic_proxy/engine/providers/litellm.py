"""`LITELLM`: the registry entry of LiteLLM, a Python library through which many more providers can be called."""

from anthropic_proxy.engine.providers.open_models import MISTRAL_RULES
from anthropic_proxy.engine.providers.registry import Provider, WireConfig, build_model_rules
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS, TOOL_CALL_FORMATS

_LOCAL_PREFIXES = ("ollama/*", "ollama_chat/*", "hosted_vllm/*", "vllm/*", "lm_studio/*", "llamafile/*", "xinference/*")
"""Patterns of LiteLLM model ids for servers with local models."""
_LOCAL = {
    "thinking_tags": OPENED_THINKING_TAGS,
    "text_call_formats": TOOL_CALL_FORMATS,
    "repairs_tool_names": True,
    "buffers_tool_arguments": True,
}
_DEEPSEEK = {
    "replayed_thinking_field": "reasoning_content",
    "thinking_replay_scope": "every",
    "reasoning_mode": "unless_off",
    "accepts_forced_tool": "not_thinking",
}

_CHAT = WireConfig(
    wire=openai_chat.WIRE,
    dialect=openai_chat.Dialect(
        signature_tag="litellm",
        output_limit_field="max_tokens",
        mid_conversation_system="remind",
        effort_form="reasoning_effort",
        sends_strict=False,
        accepts_image_urls=False,  # LiteLLM itself fetches them for some providers, from any URL of a client
    ),
    model_rules=(
        *MISTRAL_RULES,
        *build_model_rules(
            "docs.litellm.ai/docs/providers",
            "2026-11",
            *((name, _LOCAL) for name in _LOCAL_PREFIXES),
            ("*claude*", {"replays_reasoning_details": True}),
            ("deepseek/*", _DEEPSEEK),
            ("deepseek/deepseek-chat*", {"reasoning_mode": "never"}),
        ),
    ),
)
_PREFIXES = frozenset(
    (
        *("ai21", "ai21_chat", "aiml", "amazon_nova", "apertis", "azure", "azure_ai", "azure_text", "baseten"),
        *("bedrock", "bedrock_mantle", "bytez", "cerebras", "chatgpt", "chutes", "clarifai", "cloudflare", "codestral"),
        *("cognition", "cohere", "cohere_chat", "cometapi", "compactifai", "cortecs", "darkbloom", "dashscope"),
        *("databricks", "datarobot", "deepinfra", "deepseek", "docker_model_runner", "edenai", "empower"),
        *("featherless_ai", "fireworks_ai", "friendliai", "galadriel", "gdc", "gigachat", "github", "github_copilot"),
        *("gradient_ai", "helicone", "heroku", "hosted_vllm", "huggingface", "hyperbolic", "inception", "lambda_ai"),
        *("lemonade", "libertai", "litellm_proxy", "llamafile", "lm_studio", "maritalk", "meta_llama", "minimax"),
        *("mistral", "modelscope", "morph", "nadir", "nano-gpt", "nebius", "nlp_cloud", "novita", "nscale"),
        *("nvidia_nim", "oci", "ollama_chat", "oobabooga", "openrouter", "ovhcloud", "parasail", "perplexity"),
        *("petals", "pinstripes", "poe", "predibase", "prism", "publicai", "qwen_ai_platform", "qwencloud", "ragflow"),
        *("reka", "replicate", "sagemaker", "sagemaker_chat", "sagemaker_nova", "sail", "sambanova", "sap", "scaleway"),
        *("scx-ai", "snowflake", "synthetic", "tencent", "tensormesh", "text-completion-codestral"),
        *("text-completion-inception", "text-completion-openai", "together_ai", "triton", "v0", "vercel_ai_gateway"),
        *("vertex_ai_beta", "vllm", "volcengine", "wandb", "watsonx", "watsonx_text", "xiaomi_mimo", "xinference"),
        "zai",
    )
)
"""LiteLLM's provider prefixes for chat models, without prefixes of our registry. Source: LiteLLM 1.106.2, read 2026-11.

Omitted: API formats (`custom`, `custom_openai`, `openai_like`, `anthropic_text`), image models (`fal_ai`), and `meta`,
a prefix of Llama ids at many providers. `litellm/<prefix>/…` accepts the omitted prefixes too.
"""

LITELLM = Provider(
    name="litellm",
    prefix="litellm",
    extra_prefixes=_PREFIXES,
    title="LiteLLM",
    wires={"chat": _CHAT},
    base_url="litellm:",
    key_required="never",
    offered_to_users=False,
    transport="litellm",
    docs_url="https://docs.litellm.ai/docs/providers",
)
"""Registry entry of LiteLLM. A model id contains LiteLLM's own prefix of a provider: `litellm/bedrock/…`."""
