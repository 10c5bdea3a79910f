"""Optional in-process transport through LiteLLM. Requests and responses have the format of Chat Completions.

It serves the providers that this project does not support itself. LiteLLM is imported by the first request to it.
"""

from anthropic_proxy.upstream.litellm.engine import LiteLLMThread
from anthropic_proxy.upstream.litellm.response import LiteLLMResponse, LiteLLMTransport

__all__ = ["LiteLLMResponse", "LiteLLMThread", "LiteLLMTransport"]
