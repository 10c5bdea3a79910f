"""Fidelity notes of several wires, built once."""

import functools

from anthropic_proxy.messages.fidelity import FidelityNote, Handling

NO_SERVICE_TIER = FidelityNote(
    "approximated", "service_tier", "not sent; without it the backend's default tier answers"
)
"""The backend has no tiers, or the requested tier is its default."""
NO_TOP_K = FidelityNote("dropped", "top_k", "not sent; no setting for it is known")
"""The backend has no known limit on the number of candidate tokens."""
NO_SAMPLING = {
    name: FidelityNote("dropped", name, "the model does not accept it") for name in ("temperature", "top_p", "top_k")
}
"""Field → note for a model that rejects it, always or while it reasons."""
SINGLE_TOOL_CALL = FidelityNote(
    "emulated",
    "tool_choice.disable_parallel_tool_use",
    "no setting for it is known; further calls of a reply are discarded",
)
"""The backend cannot limit a reply to one tool call."""
PREFILL_AS_TEXT = FidelityNote(
    "emulated", "messages.prefill", "a user text asks to continue the last assistant message"
)
"""The backend cannot continue a started reply."""
SYSTEM_AS_REMINDER = FidelityNote("emulated", "messages.system", "sent as a <system-reminder> in the user's text")
"""The backend accepts a system message at the beginning only."""
FOREIGN_THINKING_DROPPED = FidelityNote(
    "approximated", "messages.thinking", "returned only to the backend that sent it, if that accepts it"
)
"""Reasoning of earlier replies is not sent; its results are."""
NO_EFFORT = FidelityNote("approximated", "output_config.effort", "the model has no effort levels")
"""The backend decides itself how much to reason."""
EFFORT_AS_SWITCH = FidelityNote(
    "approximated", "output_config.effort", "the backend can only switch reasoning on or off"
)
"""The backend has no effort levels, but a switch for reasoning."""
SCHEMA_AS_TEXT = FidelityNote("emulated", "output_config.format", "the system prompt asks for JSON of that schema")
"""The backend accepts no reply schema, or not in this request."""
SCHEMA_AS_TOOL = FidelityNote(
    "emulated", "output_config.format", "the model is forced to call a tool; its validated arguments are the reply"
)
"""The backend accepts no reply schema, but input schemas of tools."""
ERROR_MARKED = FidelityNote("emulated", "messages.tool_result.is_error", "the result's text begins with [tool error]")
"""The backend has no error flag for tool results."""
MEDIA_MOVED = FidelityNote(
    "emulated", "messages.tool_result.media", "sent in the next user message: a result can contain text only"
)
"""Images and documents are not allowed in a tool result."""


@functools.lru_cache(maxsize=64)
def omitted(kind: str, media_type: str, *, by_address: bool) -> FidelityNote:
    """Return the note on an image or document (`image`, `document`) that was replaced by a text.

    It contains the kind of data only: titles and addresses are content.
    """
    what = f"{kind}s by URL" if by_address else f"{kind}s of type {media_type or 'unknown'}"
    return FidelityNote("dropped", f"messages.{kind}", f"replaced by a text: the model is not known to accept {what}")


@functools.lru_cache(maxsize=256)
def unlimited(tool: str, limit: str) -> FidelityNote:
    """Return the note on a server tool setting that the provider's own tool lacks.

    Number, size and location of searches are advice; domain lists are restrictions.
    """
    fate: Handling = "dropped" if limit.endswith("_domains") else "approximated"
    return FidelityNote(fate, f"tools.{tool}.{limit}", "the provider's own tool has no known setting for it")


@functools.lru_cache(maxsize=256)
def keywords_as_text(keywords: frozenset[str]) -> FidelityNote:
    """Return the note on schema keywords without a field in the wire format."""
    return FidelityNote("approximated", "tools.input_schema", f"sent in descriptions: {', '.join(sorted(keywords))}")


@functools.lru_cache(maxsize=256)
def renamed_effort(asked: str, sent: str) -> FidelityNote:
    """Return the note on an effort that is sent as another level."""
    return FidelityNote("approximated", "output_config.effort", f"{asked} → {sent}, the nearest supported level")
