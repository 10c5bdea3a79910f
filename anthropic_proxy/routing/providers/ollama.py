"""How Ollama, and by pattern its models, speak its own language. The fields say why."""

from anthropic_proxy.routing.providers.rows import Speech
from anthropic_proxy.wire import ollama
from anthropic_proxy.wire.recover import TAGS, TEXT_CONVENTIONS

_LEVELS = {"thinking": "level"}
_IN_THE_CLOUD = {"says_window": False}

OLLAMA = Speech(
    wire=ollama,
    dialect=ollama.Dialect(
        thinking_tags=TAGS, text_calls=TEXT_CONVENTIONS, mends_tool_names=True, mends_tool_arguments=True
    ),
    model_rules=(
        ("*gpt-oss*", _LEVELS),
        ("*qwen3.8*", _LEVELS),
        ("*:cloud", _IN_THE_CLOUD),
        ("*:*-cloud", _IN_THE_CLOUD),
    ),
    settings={"keep_alive": "ollama_keep_alive"},
)
