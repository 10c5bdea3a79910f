"""Notes that several languages give, the same at every request: made once, so that an ordinary request makes none."""

from anthropic_proxy.messages.notes import Note

NO_SERVICE_TIER = Note("approximated", "service_tier", "there is no such setting; it says how urgent a reply is")
"""The backend has no tiers to choose from."""
NO_TOP_K = Note("dropped", "top_k", "there is no such setting")
"""The backend cannot be told how many tokens to choose among."""
ONE_CALL = Note(
    "emulated", "tool_choice.disable_parallel_tool_use", "no such setting; further calls of a reply are discarded"
)
"""The backend cannot be told to call one tool at most."""
CONTINUED = Note("emulated", "messages", "a user text asks to continue the last assistant message")
"""The backend does not go on from a reply that was begun."""
REMINDED = Note("emulated", "messages.system", "said as a <system-reminder> in the user's text")
"""The backend takes a system message at the beginning only."""
FORGOTTEN = Note(
    "approximated", "messages.thinking", "said again only where this backend wrote it, takes it and still needs it"
)
"""Reasoning of earlier replies is not said; what it led to is."""
NO_EFFORT = Note("approximated", "output_config.effort", "the model takes no level")
"""The backend decides itself how much to reason."""
IN_WORDS = Note("emulated", "output_config.format", "the system prompt asks for JSON of that schema")
"""The backend takes no schema of the reply, or not in this request."""
