"""The way out through LiteLLM, in process: a Chat Completions request goes in, frames of that wire come out.

An optional engine for the providers that this project does not speak to itself. LiteLLM is loaded with the first
request that needs it.
"""

from anthropic_proxy.upstream.litellm.engine import Engine
from anthropic_proxy.upstream.litellm.response import LiteLLMResponse, LiteLLMUpstream

__all__ = ["Engine", "LiteLLMResponse", "LiteLLMUpstream"]
