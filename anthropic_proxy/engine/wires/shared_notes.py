"""Fidelity notes that several wires use: fields of the client request that were changed or dropped.

"Backend" in a note means the provider and its model. A prefill is a last assistant message that the model continues.
"""

import functools

from anthropic_proxy.engine.messages.fidelity import FidelityNote, Handling, note_replacement
from anthropic_proxy.engine.patterns import compile_anchored

_MEDIA_TYPE = compile_anchored(r"[\w.+-]{1,40}/[\w.+-]{1,80}")

NO_SERVICE_TIER = FidelityNote(
    "approximated", "service_tier", "not sent; without it the backend's default tier answers"
)
NO_TOP_K = FidelityNote("dropped", "top_k", "not sent; no setting for it is known")
NO_SAMPLING = {
    name: FidelityNote("dropped", name, "the model does not accept it") for name in ("temperature", "top_p", "top_k")
}
"""Sampling field → note for a model that rejects the field, always or only while reasoning is enabled."""
SINGLE_TOOL_CALL = FidelityNote(
    "emulated",
    "tool_choice.disable_parallel_tool_use",
    "no setting for it is known; further calls of a reply are discarded",
)
PREFILL_AS_TEXT = FidelityNote(
    "emulated", "messages.prefill", "a user text asks to continue the last assistant message"
)
SYSTEM_AS_REMINDER = FidelityNote("emulated", "messages.system", "sent as a <system-reminder> in the user's text")
FOREIGN_THINKING_DROPPED = FidelityNote(
    "approximated", "messages.thinking", "returned only to the backend that sent it, if that accepts it"
)
"""Note for thinking of an earlier reply that is not sent. Text and tool calls of the reply are sent."""
NO_EFFORT = FidelityNote("approximated", "output_config.effort", "the model has no effort levels")
EFFORT_AS_SWITCH = FidelityNote(
    "approximated", "output_config.effort", "the backend can only switch reasoning on or off"
)
SCHEMA_AS_TEXT = FidelityNote("emulated", "output_config.format", "the system prompt asks for JSON of that schema")
"""Note for a reply schema (`output_config.format`) that is sent as text in the system prompt. The provider accepts no
schema, or none in this request."""
SCHEMA_AS_TOOL = FidelityNote(
    "emulated", "output_config.format", "the model is forced to call a tool; its validated arguments are the reply"
)
"""Note for a reply schema (`output_config.format`) that is sent as the input schema of a forced tool. The provider
accepts no reply schema."""
ERROR_MARKED = FidelityNote("emulated", "messages.tool_result.is_error", "the result's text begins with [tool error]")
MEDIA_MOVED = FidelityNote(
    "emulated", "messages.tool_result.media", "sent in the next user message: a result can contain text only"
)


def media_as_text_note(kind: str, media_type: str, *, has_url: bool) -> FidelityNote:
    """`kind`: `image` or `document`."""
    # The note contains no title or URL, because notes must not contain content.
    named = media_type if _MEDIA_TYPE.fullmatch(media_type) else "unknown"
    what = f"{kind}s by URL" if has_url else f"{kind}s of type {named}"
    return FidelityNote("dropped", f"messages.{kind}", f"replaced by a text: the model is not known to accept {what}")


def missing_setting_note(tool: str, setting: str) -> FidelityNote:
    """Return the note for a setting of a server tool that the provider's own tool does not have.

    `setting` is the name of this setting.
    """
    fate: Handling = "dropped" if setting.endswith("_domains") else "approximated"
    return FidelityNote(fate, f"tools.{tool}.{setting}", "the provider's own tool has no known setting for it")


@functools.lru_cache(maxsize=256)
def keywords_as_text_note(keywords: frozenset[str]) -> FidelityNote:
    return FidelityNote("approximated", "tools.input_schema", f"sent in descriptions: {', '.join(sorted(keywords))}")


@functools.lru_cache(maxsize=256)
def renamed_effort_note(asked: str, sent: str) -> FidelityNote:
    return note_replacement("output_config.effort", asked, sent, ", the nearest supported level")
