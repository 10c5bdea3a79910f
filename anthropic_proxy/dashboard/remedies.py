"""Remedies for failed requests, from the error catalog `docs/fix/errors.md`.

`find_remedy` returns the `Remedy` of an error: the section of the catalog that fits its status, type and message.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.ledger.dashboard_records import ErrorGroup
from anthropic_proxy.ledger.request_queries import StoredRequest

CATALOG = "docs/fix/errors.md"
"""Path of the error catalog in the repository."""


class Remedy(Struct, frozen=True):
    """Section of the error catalog with the remedy of a kind of error."""

    entry: str
    """Name of the entry in the catalog: `rate-limit`."""
    text: str
    """First sentences of the remedy in the catalog."""


class _Rule(Struct, frozen=True):
    """Condition under which an error belongs to an entry of the catalog. A field that is "" or 0 is not checked."""

    entry: str
    status: int = 0
    error_type: str = ""
    text: str = ""
    """Text that the error message contains. "": not checked."""


TEXTS: Mapping[str, str] = {
    "rejected-key": "The message ends with the setting and line of the key. Create a new key, write it there, and "
    "reload the proxy.",
    "no-credit": "Add credit, or use another provider: PREFERRED_PROVIDER, FALLBACK_<TIER>.",
    "no-access": "Enable the model in the provider's console, or choose another one.",
    "model-not-found": "Set the named variable to a model of the provider. GET /v1/models lists them.",
    "rate-limit": "Wait, add keys (OPENAI_API_KEY=key1,key2), or set FALLBACK_<TIER>.",
    "invalid-upstream-request": "If the text names a field of your request, correct it. Otherwise please report it: "
    "the JSON log and the text suffice.",
    "provider-failed": "Try again later; FALLBACK_<TIER> names another model.",
    "no-server": "Start the server (ollama serve), or correct the variable that the message names.",
    "incomplete-reply": "Send the request again. If it happens often, check limits of gateways and of the model "
    "server.",
    "no-data": "Raise UPSTREAM_FIRST_BYTE_TIMEOUT or UPSTREAM_IDLE_TIMEOUT, or use a smaller model.",
    "overloaded": "Wait, or set FALLBACK_<TIER>.",
    "provider-not-called": "Remove the cause of the failures, which the message starts with.",
    "provider-key-missing": "Set the variable that the message names in .env, then reload or restart the proxy.",
    "prompt-too-long": "In Claude Code: /compact. Permanently: a model with a larger window; for Ollama, raise "
    "OLLAMA_CONTEXT_LENGTH.",
    "empty-messages": "Send at least one message with content.",
    "invalid-field": "Correct the field in the client. The rules are those of Anthropic's API.",
    "model-not-available": "curl http://127.0.0.1:8082/v1/models lists the ids.",
    "proxy-key-wrong": "Use one of the keys of PROXY_API_KEY.",
    "body-too-large": "Remove images or documents from the conversation, or start a new one.",
    "virtual-key-limit": "Wait for the time in retry-after, or ask the administrator for another limit.",
    "queue-full": "Raise MAX_UPSTREAM_CALLS, or send fewer requests at once.",
}
"""Name of an entry of the catalog → first sentences of its remedy. A test compares them with the catalog."""
_OF_PROVIDERS: Sequence[_Rule] = (
    _Rule("provider-not-called", text="times in a row"),
    _Rule("provider-key-missing", text="has no key"),
    _Rule("prompt-too-long", text="prompt is too long"),
    _Rule("no-server", text="no server responds"),
    _Rule("incomplete-reply", text="before it was complete"),
    _Rule("rejected-key", status=401),
    _Rule("no-credit", status=402),
    _Rule("no-access", status=403),
    _Rule("model-not-found", status=404),
    _Rule("body-too-large", status=413),
    _Rule("rate-limit", status=429),
    _Rule("no-data", error_type="timeout_error"),
    _Rule("overloaded", status=529),
    _Rule("invalid-upstream-request", status=400),
    _Rule("provider-failed", error_type="api_error"),
)
_OF_PROXY: Sequence[_Rule] = (
    _Rule("prompt-too-long", text="prompt is too long"),
    _Rule("empty-messages", text="at least one message"),
    _Rule("provider-key-missing", text="has no key"),
    _Rule("proxy-key-wrong", status=401),
    _Rule("model-not-available", status=404),
    _Rule("body-too-large", status=413),
    _Rule("virtual-key-limit", status=429),
    _Rule("queue-full", status=529),
    _Rule("invalid-field", status=400),
)


def find_remedy(error: ErrorGroup | StoredRequest, key_variable: str = "") -> Remedy | None:
    """Return the remedy for a failed request, or for a group of failed requests.

    None: the error catalog has no remedy. `key_variable` replaces the example `OPENAI_API_KEY` in the text of the
    remedy.
    """
    if not error.error_type:
        return None
    for rule in _OF_PROVIDERS if error.provider else _OF_PROXY:
        if rule.status in (0, error.status) and rule.error_type in ("", error.error_type) and rule.text in error.error:
            text = TEXTS[rule.entry]
            return Remedy(rule.entry, text.replace("OPENAI_API_KEY", key_variable) if key_variable else text)
    return None
