"""Notes that several languages give, the same at every request: made once, so that an ordinary request makes none."""

import functools

from anthropic_proxy.messages.notes import Fate, Note

NO_SERVICE_TIER = Note("approximated", "service_tier", "there is no such setting; it says how urgent a reply is")
"""The backend has no tiers to choose from."""
NO_TOP_K = Note("dropped", "top_k", "there is no such setting")
"""The backend cannot be told how many tokens to choose among."""
NO_SAMPLING = {
    name: Note("dropped", name, "the model chooses for itself") for name in ("temperature", "top_p", "top_k")
}
"""Field → the model takes no such number, or not while it reasons."""
ONE_CALL = Note(
    "emulated", "tool_choice.disable_parallel_tool_use", "no such setting; further calls of a reply are discarded"
)
"""The backend cannot be told to call one tool at most."""
CONTINUED = Note("emulated", "messages.prefill", "a user text asks to continue the last assistant message")
"""The backend does not go on from a reply that was begun."""
REMINDED = Note("emulated", "messages.system", "said as a <system-reminder> in the user's text")
"""The backend takes a system message at the beginning only."""
FORGOTTEN = Note("approximated", "messages.thinking", "said again only where this backend wrote it and takes it back")
"""Reasoning of earlier replies is not said; what it led to is."""
NO_EFFORT = Note("approximated", "output_config.effort", "the model takes no level")
"""The backend decides itself how much to reason."""
ON_OR_OFF = Note("approximated", "output_config.effort", "reasoning can only be on or off there")
"""The level cannot be said, but whether to reason."""
IN_WORDS = Note("emulated", "output_config.format", "the system prompt asks for JSON of that schema")
"""The backend takes no schema of the reply, or not in this request."""
BY_CALL = Note("emulated", "output_config.format", "a tool is forced whose arguments are the reply, and checked")
"""The backend takes no schema of the reply, but one of a tool's input."""
ERROR_MARKED = Note("emulated", "messages.tool_result.is_error", "the result's text begins with [tool error]")
"""The backend has no failed results."""
MEDIA_MOVED = Note("emulated", "messages.tool_result.media", "follows in a user message: a result holds text only")
"""Pictures and documents cannot stand in a result."""


@functools.lru_cache(maxsize=64)
def omitted(kind: str, media_type: str, *, by_address: bool) -> Note:
    """Return the note on a picture or document (`image`, `document`) that a text stands for.

    It names the kind of data only: titles and addresses are content.
    """
    what = f"no {kind} by address" if by_address else f"no {kind} of type {media_type or 'that is not said'}"
    return Note("dropped", f"messages.{kind}", f"the model or its server takes {what}; a text says that one was there")


@functools.lru_cache(maxsize=256)
def unlimited(tool: str, limit: str) -> Note:
    """Return the note on a setting of a server tool that the provider's own tool has not.

    How often, how much and for whom it looks is advice; where it may look is not.
    """
    fate: Fate = "dropped" if limit.endswith("_domains") else "approximated"
    return Note(fate, f"tools.{tool}.{limit}", "the provider's own tool has no such setting")


@functools.lru_cache(maxsize=256)
def said_in_words(keywords: frozenset[str]) -> Note:
    """Return the note on keywords of schemas that the language has no field for."""
    return Note("approximated", "tools.input_schema", f"said in descriptions: {', '.join(sorted(keywords))}")


@functools.lru_cache(maxsize=256)
def renamed_effort(asked: str, said: str) -> Note:
    """Return the note on an effort that is said as another level."""
    return Note("approximated", "output_config.effort", f"{asked} → {said}, the nearest that it knows")


@functools.lru_cache(maxsize=256)
def lowered_limit(asked: int, limit: int) -> Note:
    """Return the note on an output limit above what a refusal said that the model has."""
    return Note("approximated", "max_tokens", f"{asked} → {limit}, the limit that a refusal named")
