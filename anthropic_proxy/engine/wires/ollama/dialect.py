"""`Dialect`: deviations of models behind Ollama's API. The defaults describe a model on the user's machine.

Model rules in `vendors.toml` and settings replace the values of the fields.
"""

from typing import Literal

from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.tool_call_repair import ThinkingTags, ToolCallFormat


class Dialect(BaseDialect, frozen=True, kw_only=True, cache_hash=True):
    """Deviations of one server, or of one model, from Ollama's `/api/chat`."""

    signature_tag: str = "oll"
    """Tag in signatures of the proxy, `px1.<tag>.…`. Thinking with another tag is not sent back to the provider.

    Proven by: golden/ollama/thinking/another_server.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Pattern for tool names; other names get an alias. Proven by: golden/ollama/thinking/another_server."""
    max_tool_name_length: int = 128
    """Maximum characters of a tool name. Ollama sets no limit; the value is the limit of the Messages API.

    Proven by: golden/ollama/thinking/another_server.
    """
    always_stream: bool = False
    """True if every upstream request streams, even if the client requests no stream. No provider requires it yet.

    Proven by: golden/ollama/text/always_streaming.
    """
    sends_num_ctx: bool = True
    """True if `num_ctx` is sent. It sizes the memory of a model on the user's machine.

    Models in Ollama's cloud (`…-cloud`, `…:cloud`) always have their full window.
    Proven by: golden/ollama/text/cloud.
    """
    sends_sampling: bool = True
    """True if `temperature`, `top_p` and `top_k` are sent. False: the server refused the request, and not one without
    them.

    Proven by: golden/ollama/text/sampling_refused_before.
    """
    think_form: Literal["level", "only_level", "switch", "never"] = "level"
    """Value of the request field `think`. `level`: name of the effort level, or false. `only_level`: only a level.
    `switch`: a boolean. `never`: the field is not sent. Most models accept a boolean or low, medium, high, max; gpt-oss
    ignores the boolean (ollama/ollama, docs/capabilities/thinking.mdx, 2026-11-20). After a server rejected a level,
    the boolean is sent. After a model rejected the field, the field is omitted. Proven by:
    golden/ollama/thinking/thinking_switch, thinking_refused_before, prefill_of_gpt_oss."""
    thinking_tags: tuple[ThinkingTags, ...] = ()
    """Tags that may enclose reasoning at the start of the text (`engine/wires/tool_call_repair/thinking_tags.py`).

    Ollama separates reasoning only for models with thinking in their template (`.Thinking`), since version 0.9.
    Proven by: golden/ollama/thinking/think_tags.
    """
    text_call_formats: tuple[ToolCallFormat, ...] = ()
    """Text formats of tool calls that are searched in the reply text (`engine/wires/tool_call_repair/formats.py`).
    Ollama finds calls by the model's template. Calls of imported and older models stay in the text, as do calls after
    other words. Proven by: golden/ollama/tools/text_call."""
    repairs_tool_names: bool = False
    """True if an unknown tool name is replaced by the only offered tool that it can mean. A call without a name becomes
    a call of the only tool that accepts its arguments (`engine/wires/tool_call_repair/calls.py`).

    Proven by: golden/ollama/tools/odd_tool_names.
    """
    repairs_tool_arguments: bool = False
    """True if arguments sent as text (compatible servers) are repaired if they are not JSON.

    Ollama always sends objects.
    Proven by: golden/ollama/tools/mended_arguments.
    """
    keep_alive: str | None = None
    """Time that the model stays in memory after the reply: seconds, or a Go duration (`30m`, `-1s`). None: the server
    decides.

    Set by the user.
    Proven by: golden/ollama/text/keep_alive.
    """

    @property
    def always_reasons(self) -> bool:
        return self.thinks_always or self.think_form == "only_level"


UNKNOWN_WINDOW = 65_536
"""Context window for models with an unknown window. Ollama lowers it to the model's maximum. Without `num_ctx`, Ollama
may use 4,096 tokens and drop the beginning of the conversation."""


def resolve_context_window(call: TranslatedCall[Dialect]) -> int | None:
    """Return the size of the context window in tokens, for input and output together.

    None: the size is unknown, and the server decides.
    """
    return UNKNOWN_WINDOW if call.context_window is None and call.dialect.sends_num_ctx else call.context_window
