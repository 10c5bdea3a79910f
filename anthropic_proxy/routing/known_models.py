"""Known model names by provider, for the resolution of bare names. `<PROVIDER>_KNOWN_MODELS` adds names.

Each list begins with the names of earlier proxies. The current models of the provider follow.
"""

OPENAI = (
    *("o3-mini", "o1", "o1-mini", "o1-pro", "gpt-4.5-preview", "gpt-4o", "gpt-4o-audio-preview", "chatgpt-4o-latest"),
    *("gpt-4o-mini", "gpt-4o-mini-audio-preview", "gpt-4.1", "gpt-4.1-mini"),
    *("gpt-4.1-nano", "o3", "o3-pro", "o4-mini", "gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-5-pro"),
    *("gpt-5.1", "gpt-5.2", "gpt-5.3-codex", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "gpt-5.5-pro"),
    *("gpt-5-codex", "gpt-5.1-codex", "gpt-5.2-codex", "gpt-5.6", "gpt-5.6-sol", "gpt-5.6-terra", "gpt-5.6-luna"),
    *("gpt-6-astra", "gpt-6-sol", "gpt-6-luna", "gpt-6.1-sol", "gpt-6.1-terra", "gpt-6.2-sol"),
)

_GEMINI_NOW = (
    *("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-3-flash-preview"),
    *("gemini-3.1-pro-preview", "gemini-3.1-flash-lite", "gemini-3.5-flash", "gemini-3.5-flash-lite"),
    *("gemini-3.6-flash", "gemini-3.7-flash", "gemini-3.8-flash", "gemini-4-argon"),
    *("gemini-4-carbon", "gemini-4-hydrogen", "gemini-flash-latest", "gemini-flash-lite-latest", "gemini-pro-latest"),
)

GEMINI = ("gemini-2.5-pro-preview-03-25", "gemini-2.0-flash", *_GEMINI_NOW)

VERTEX = (
    *("gemini-2.5-pro-preview-03-25", "gemini-2.5-flash-preview-04-17", "gemini-2.0-flash"),
    *("gemini-1.5-flash-preview-0514", "gemini-1.5-pro-preview-0514"),
    *_GEMINI_NOW,
)

XAI = (
    *("grok-3", "grok-3-beta", "grok-3-mini-beta", "grok-2-vision-latest", "grok-2", "grok-1"),
    *("grok-3-mini", "grok-4.3", "grok-4.5", "grok-4.6", "grok-4.7", "grok-build-0.1", "grok-code-fast-1"),
)

OLLAMA = (
    *("llama3", "llama3:8b", "llama3:70b", "llama2", "mistral", "mistral:instruct", "mixtral", "mixtral:instruct"),
    *("phi3:mini", "phi3:medium"),
)

GROQ = (
    *("llama-3.3-70b-versatile", "llama-3.1-8b-instant", "llama3-70b-8192", "llama3-8b-8192", "gemma2-9b-it"),
    *("whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en", "llama-guard-3-8b"),
    *("meta-llama/llama-4-scout-17b-16e-instruct", "meta-llama/llama-4-maverick-17b-128e-instruct"),
    *("qwen-qwq-32b", "qwen-2.5-coder-32b", "qwen-2.5-32b", "deepseek-r1-distill-qwen-32b"),
    *("deepseek-r1-distill-llama-70b", "mistral-saba-24b", "llama-3.2-1b-preview", "llama-3.2-3b-preview"),
    *("llama-3.2-11b-vision-preview", "llama-3.2-90b-vision-preview", "llama-3.3-70b-specdec"),
    *("openai/gpt-oss-120b", "openai/gpt-oss-20b", "qwen/qwen3.8-27b", "qwen/qwen3.6-27b"),
)

GROQ_AUDIO = ("whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en")

MOONSHOT = (
    *("kimi-k2-base", "kimi-k2-instruct"),
    *("kimi-k2.5", "kimi-k2.6", "kimi-k2.7-code", "kimi-k2.7-code-highspeed", "kimi-k3", "kimi-k3.1-pro"),
)

ANTHROPIC = (
    *("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-2"),
    *("claude-sonnet-5", "claude-opus-5", "claude-fable-5", "claude-fable-5-1", "claude-mythos-5"),
    *("claude-opus-4-8", "claude-opus-4-7", "claude-mythos-preview"),
    *("claude-sonnet-4-6", "claude-opus-4-6", "claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"),
)

LITELLM_PREFIXES = frozenset(
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
"""LiteLLM's own words for providers of chat models, without those that are ours too. Source: its 1.106.2, read 2026-11.

Left out: what is no provider (`custom`, `custom_openai`, `openai_like`, `anthropic_text`), pictures (`fal_ai`), and
`meta`, which stands before Llama's names wherever they are served. `litellm/<name>/…` reaches them all.
"""
