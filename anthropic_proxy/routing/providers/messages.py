"""Who speaks the Messages API besides Anthropic, and how: `<PROVIDER>_WIRE=messages`. The fields say why.

Every one takes its key as a bearer token (Ollama's cloud and vLLM only so; sources below, read 2026-11).
"""

from msgspec import structs

from anthropic_proxy.routing.providers.rows import Speech
from anthropic_proxy.wire import anthropic

ANTHROPIC = Speech(wire=anthropic, dialect=anthropic.Dialect())

_ELSEWHERE = anthropic.Dialect(
    checks_signatures=False,
    takes_client_headers=False,
    takes_client_data=False,
    speaks_errors=False,
    lists=False,
)

MOONSHOT = Speech(wire=anthropic, dialect=_ELSEWHERE, url_endings=(("/v1", "/anthropic"),))
"""Source: platform.kimi.ai, "Use Kimi in Claude Code": `https://api.moonshot.ai/anthropic`."""

OLLAMA = Speech(wire=anthropic, dialect=structs.replace(_ELSEWHERE, counts=False))
"""Source: docs.ollama.com/api/anthropic-compatibility. The window is the server's own `OLLAMA_CONTEXT_LENGTH`."""

COMPATIBLE = Speech(wire=anthropic, dialect=_ELSEWHERE, url_endings=(("/v1", ""),), own_address_only=True)
"""vLLM, llama.cpp, OpenRouter, and whoever else has it below the address where its Chat Completions are.

Sources: vllm/entrypoints/anthropic, llama.cpp/tools/server/README.md, openrouter.ai/docs.
"""

DEEPSEEK = Speech(
    wire=anthropic,
    dialect=_ELSEWHERE,
    url_endings=(("/anthropic", "/anthropic"), ("/v1", "/anthropic"), ("", "/anthropic")),
)
"""Source: api-docs.deepseek.com/guides/anthropic_api: `https://api.deepseek.com/anthropic`."""
