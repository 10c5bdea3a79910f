"""Optional transport that sends requests through the Python library LiteLLM.

It serves providers that this project does not support itself. Requests and responses have the format of Chat
Completions. The first request imports LiteLLM.
"""

from anthropic_proxy.upstream.litellm.engine import LiteLLMThread
from anthropic_proxy.upstream.litellm.response import LiteLLMResponse, LiteLLMTransport

__all__ = ["LiteLLMResponse", "LiteLLMThread", "LiteLLMTransport"]
