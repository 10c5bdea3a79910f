"""How models that Ollama serves deviate from each other; the defaults are a model that runs on the user's machine."""

from typing import Literal

from msgspec import Struct

from anthropic_proxy.wire.recover import TextConvention, ThinkingTags


class Dialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One server's, and by model rules one model's, way of speaking `/api/chat`."""

    carry_tag: str = "oll"
    """First word of the reasoning carry, `px1.<tag>.…`: only a carry with this very tag is read back.

    Proven by: golden/ollama/another_server.
    """
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """What a tool name must match; others get an alias. Proven by: golden/ollama/another_server."""
    tool_name_length: int = 128
    """Characters that a tool name may have: Ollama sets no limit, this is the client's own.

    Proven by: golden/ollama/another_server.
    """
    streams_always: bool = False
    """Whether the upstream is asked to stream even where the client is not answered so: nobody needs it yet.

    Proven by: golden/ollama/always_streaming.
    """
    says_window: bool = True
    """Whether `num_ctx` is said: it sizes the memory that a model takes on the user's machine.

    Models in Ollama's cloud (`…-cloud`, `…:cloud`) always have their whole window. Proven by: golden/ollama/cloud.
    """
    thinking: Literal["switch", "level", "never"] = "switch"
    """Whether `think` is a boolean, the level of effort by its name, or not said at all.

    Every model takes the boolean, but gpt-oss passes over it and wants low, medium or high, and a few others tell the
    levels apart (docs.ollama.com, Thinking; `model/renderers`). A model that refused it is not asked again.
    Proven by: golden/ollama/thinking_level, thinking_refused_before.
    """
    thinking_tags: tuple[ThinkingTags, ...] = ()
    """In which tags reasoning may stand at the start of the text (`wire/recover/thinking.py`).

    Ollama takes it out only of models that it knows to think (`template` with `.Thinking`), and not before 0.9.
    Proven by: golden/ollama/think_tags.
    """
    text_calls: tuple[TextConvention, ...] = ()
    """In which forms calls may stand in the text (`wire/recover/conventions.py`).

    Ollama finds calls by the model's template; imported and older models' calls stay in the text, and so do those that
    come after other words. Proven by: golden/ollama/text_call.
    """
    mends_tool_names: bool = False
    """Whether a name that nobody offered is taken for the one offered tool that it can mean, and a call without a name
    for the one tool that takes its arguments (`wire/recover/offered.py`).

    Proven by: golden/ollama/odd_tool_names.
    """
    mends_tool_arguments: bool = False
    """Whether arguments that come as text (compatible servers) are mended where they are no JSON.

    Ollama's own are objects always. Proven by: golden/ollama/mended_arguments.
    """
    keep_alive: str | None = None
    """How long the model stays in memory after the reply: seconds, or a duration as Go writes it (`30m`, `-1s`); None:
    the server decides.

    Set by the user. Proven by: golden/ollama/keep_alive.
    """
