"""Optional transport through the library LiteLLM, in this process.

It serves the providers that this project does not support itself, with requests and responses in the format of Chat
Completions. The first request to such a provider imports LiteLLM.
"""

from anthropic_proxy.upstream.litellm.engine import LiteLLMThread
from anthropic_proxy.upstream.litellm.response import LiteLLMResponse, LiteLLMTransport

__all__ = ["LiteLLMResponse", "LiteLLMThread", "LiteLLMTransport"]
