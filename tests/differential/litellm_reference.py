"""Request LiteLLM would send for one of the Messages API. LiteLLM is called offline: it stops before it sends."""

import copy
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

COMPARED_WITH = "1.106.2"
"""The reasons apply to this version only. Other versions are not compared."""
_BY_WIRE = {"gemini": "gemini", "ollama": "ollama_chat"}
_BY_PROVIDER = {"groq": "groq", "moonshot": "moonshot", "xai": "xai"}
_BY_ADDRESS = {"deepseek": "deepseek", "openrouter": "openrouter", "mistral": "mistral", "z.ai": "zai"}
_OFFLINE = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "OLLAMA_API_BASE": "http://127.0.0.1:9",
}


def why_not() -> str:
    """Return why nothing can be compared here; empty: it can."""
    try:
        installed = version("litellm")
    except PackageNotFoundError:
        return f"LiteLLM is not installed: pip install litellm=={COMPARED_WITH}"
    return "" if installed == COMPARED_WITH else f"LiteLLM {installed} is installed; {COMPARED_WITH} is compared with"


def name_theirs(wire: str, provider: str, address: str) -> str:
    """Return LiteLLM's provider for one of ours: by its wire, its own name, or the server in OpenAI's place."""
    by_address = next((name for part, name in _BY_ADDRESS.items() if part in address), "openai")
    return _BY_WIRE.get(wire) or _BY_PROVIDER.get(provider) or by_address


def translate(request: dict[str, Any], model: str) -> dict[str, Any] | str:
    """Return LiteLLM's body for a request to `provider/model`, or a text with the reason why it has none."""
    for name, value in _OFFLINE.items():
        os.environ.setdefault(name, value)
    import litellm
    from litellm.llms.anthropic.pass_through.adapters.transformation import LiteLLMAnthropicMessagesAdapter
    from litellm.types.utils import CallTypes
    from litellm.utils import return_raw_request

    litellm.suppress_debug_info = True
    litellm.drop_params = True  # as its own proxy advises for Claude Code
    asked = {**copy.deepcopy(request), "model": model}
    try:
        chat, _ = LiteLLMAnthropicMessagesAdapter().translate_anthropic_to_openai(asked)
    except (ValueError, KeyError, TypeError, AttributeError, litellm.exceptions.BadRequestError) as error:
        return f"{type(error).__name__}: {error}"
    raw_request = return_raw_request(CallTypes.completion, {**chat, "_skip_mcp_handler": True, "max_retries": 0})
    body = raw_request.get("raw_request_body")
    return body if isinstance(body, dict) else f"refused: {raw_request.get('error')}"
