"""`OLLAMA`: the registry entry of Ollama, with its addresses, keys, models and APIs.

The dialect of an API lists the points in which Ollama deviates from this API. Model rules change the dialect for some
models.
"""

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers.registry import Provider, WireConfig, build_model_rules
from anthropic_proxy.engine.wires import ollama
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS, TOOL_CALL_FORMATS

_IN_THE_CLOUD = {"sends_num_ctx": False}

_NATIVE = WireConfig(
    wire=ollama.WIRE,
    dialect=ollama.Dialect(
        thinking_tags=OPENED_THINKING_TAGS,
        text_call_formats=TOOL_CALL_FORMATS,
        repairs_tool_names=True,
        repairs_tool_arguments=True,
    ),
    model_rules=build_model_rules(
        "ollama/ollama docs/capabilities/thinking.mdx, docs/cloud.mdx",
        "2026-11-20",
        ("*gpt-oss*", {"think_form": "only_level"}),
        ("*:cloud", _IN_THE_CLOUD),
        ("*:*-cloud", _IN_THE_CLOUD),
    ),
    setting_overrides={"keep_alive": "ollama_keep_alive"},
    url_suffixes=messages.OLLAMA.url_suffixes,
)

OLLAMA = Provider(
    name="ollama",
    prefix="ollama",
    title="Ollama",
    env_prefix="OLLAMA",
    wires={"ollama": _NATIVE, "messages": messages.OLLAMA},
    base_url="http://localhost:11434",
    base_url_variable="OLLAMA_API_BASE",
    key_variable="OLLAMA_API_KEY",
    key_required="never",
    default_big_model="llama3",
    default_small_model="llama3:8b",
    uses_installed_models=True,
    unknown_model_provider="openai",
    known_models=(
        *("llama3", "llama3:8b", "llama3:70b", "llama2", "mistral", "mistral:instruct", "mixtral", "mixtral:instruct"),
        *("phi3:mini", "phi3:medium"),
    ),
    docs_url="https://github.com/ollama/ollama/blob/main/docs/api.md",
)
"""Registry entry of Ollama, on the user's machine or in Ollama's cloud."""
