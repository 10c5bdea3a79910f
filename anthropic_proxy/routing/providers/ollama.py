"""Wire config of the native Ollama API, with model rules."""

from anthropic_proxy.routing.providers.registry import WireConfig, rules_from
from anthropic_proxy.wire import ollama
from anthropic_proxy.wire.tool_call_repair import TAGS, TOOL_CALL_FORMATS

_IN_THE_CLOUD = {"sends_num_ctx": False}

OLLAMA = WireConfig(
    wire=ollama,
    dialect=ollama.Dialect(
        thinking_tags=TAGS, text_call_formats=TOOL_CALL_FORMATS, repairs_tool_names=True, repairs_tool_arguments=True
    ),
    model_rules=rules_from(
        "ollama/ollama docs/capabilities/thinking.mdx, docs/cloud.mdx",
        "2026-11-20",
        ("*gpt-oss*", {"think_form": "only_level"}),
        ("*:cloud", _IN_THE_CLOUD),
        ("*:*-cloud", _IN_THE_CLOUD),
    ),
    settings={"keep_alive": "ollama_keep_alive"},
)
