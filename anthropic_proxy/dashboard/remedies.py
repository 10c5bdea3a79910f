"""Remedies for failed requests, from the error catalog `docs/fix/errors.md`.

`find_remedy` returns the `Remedy` of an error: the section of the catalog that fits its status, type and message.
"""

import re
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
    text: str = ""
    """Pattern (regular expression) of a piece of the error message."""
    status: int = 0
    error_type: str = ""

    def applies_to(self, error: ErrorGroup | StoredRequest) -> bool:
        """Return True if the condition holds for `error`."""
        is_kind = self.status in (0, error.status) and self.error_type in ("", error.error_type)
        return is_kind and re.search(self.text, error.error) is not None


TEXTS: Mapping[str, str] = {
    "rejected-key": "The message ends with the setting and line of the key. Create a new key, write it there, and "
    "reload the proxy.",
    "vertex-token": "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a valid file.",
    "vertex-project": "Set VERTEX_PROJECT.",
    "no-credit": "Add credit, or use another provider: PREFERRED_PROVIDER, FALLBACK_<TIER>.",
    "no-access": "Enable the model in the provider's console, or choose another one.",
    "model-not-found": "Set the named variable to a model of the provider. GET /v1/models lists them.",
    "wrong-address": "Set the named variable to the suggested address.",
    "rate-limit": "Wait, add keys (OPENAI_API_KEY=key1,key2), or set FALLBACK_<TIER>.",
    "invalid-upstream-request": "If the text names a field of your request, correct it. Otherwise please report it: "
    "the JSON log and the text suffice.",
    "provider-failed": "Try again later; FALLBACK_<TIER> names another model.",
    "no-server": "Start the server (ollama serve), or correct the variable that the message names.",
    "no-token-server": "Check the network and HTTPS_PROXY.",
    "token-timeout": "Check the network; on Google Cloud, check the metadata server.",
    "not-an-api": "Correct the variable that the message names; often /v1 is missing.",
    "invalid-reply": "Try again. If it repeats with one server, update that server; then report it with the JSON log.",
    "unreadable-output": "Send the request again. If it happens often with one model, use another model, or fewer "
    "tools with simpler schemas.",
    "reply-too-large": "Use streaming.",
    "schema-not-followed": "Simplify the schema, or use a provider that enforces it.",
    "incomplete-reply": "Send the request again. If it happens often, check limits of gateways and of the model "
    "server.",
    "no-data": "Raise UPSTREAM_FIRST_BYTE_TIMEOUT or UPSTREAM_IDLE_TIMEOUT, or use a smaller model.",
    "overloaded": "Wait, or set FALLBACK_<TIER>.",
    "provider-not-called": "Remove the cause of the failures, which the message starts with.",
    "provider-key-missing": "Set the variable that the message names in .env, then reload or restart the proxy.",
    "prompt-too-long": "In Claude Code: /compact. Permanently: a model with a larger window; for Ollama, raise "
    "OLLAMA_CONTEXT_LENGTH.",
    "empty-messages": "Send at least one message with content.",
    "request-body": "Correct the client. Proxies between client and server can truncate bodies.",
    "tool-schema": "Simplify the schema; the message names the tool.",
    "schema-work": "Simplify the schema; the message names the tool.",
    "no-default-models": "Set BIG_MODEL and SMALL_MODEL.",
    "fidelity-strict": "Remove the field, choose another model, or set FIDELITY=best-effort.",
    "invalid-field": "Correct the field in the client. The rules are those of Anthropic's API.",
    "model-not-available": "curl http://127.0.0.1:8082/v1/models lists the ids.",
    "demo-not-served": "Remove the model from the client, or set SERVE_DEMO=true.",
    "path-not-found": "Use a client for Anthropic's Messages API.",
    "dashboard-path": "Reload the page.",
    "proxy-key-missing": "Give the client one of the keys of PROXY_API_KEY: ANTHROPIC_AUTH_TOKEN=… for Claude Code, "
    "api_key or auth_token in an SDK.",
    "virtual-key-rejected": "Use a valid key. anthropic-proxy keys list shows the state of each key.",
    "proxy-key-wrong": "Use one of the keys of PROXY_API_KEY.",
    "body-too-large": "Remove images or documents from the conversation, or start a new one.",
    "virtual-key-limit": "Wait for the time in retry-after, or ask the administrator for another limit.",
    "ledger-readers": "Wait until they are complete. A shorter range makes each of them faster.",
    "keys-unavailable-database": "Start the database, which the proxy queries again every 2 s. If DATABASE_URL is "
    "wrong, correct it and restart the proxy.",
    "redis-unavailable": "Start Redis, or correct REDIS_URL. With REDIS_FAILURE=open, requests are served meanwhile.",
    "package-missing": "Run the command that the message names, then restart the proxy.",
    "proxy-stops": "Send the request again: clients retry by themselves. Raise STOP_TIMEOUT for long replies.",
    "bug": "Please report it with the traceback.",
    "queue-full": "Raise MAX_UPSTREAM_CALLS, or send fewer requests at once.",
}
"""Name of an entry of the catalog → first sentences of its remedy. A test compares them with the catalog."""
_PREFIX = r"[^\s:]+: "
"""Pattern of the provider's name before the text of a provider: `groq: `."""
_OF_BOTH: Sequence[_Rule] = (
    _Rule("provider-key-missing", r"^[^\s:]+ has no key: ", status=401),
    _Rule("vertex-token", "^vertex has no access token: "),
    _Rule("vertex-project", r"^[^\s:]+ (has no project|is not set up): VERTEX_PROJECT is not set", status=401),
    _Rule("prompt-too-long", rf"^({_PREFIX})*prompt is too long\b", status=400),
    _Rule("package-missing", rf"^(?!{_PREFIX}).*, which is not installed\. Install it", status=500),
    _Rule("proxy-stops", "^The proxy is shutting down"),
    _Rule(
        "bug",
        "^[^:]* in the proxy; the traceback is in its log|^A tool call was continued that|^The message was "
        "(started|written) |^The supervisor did not return|^The writer finished a message|^Two tool calls of one "
        "message have|^a plugin sent a request|^a relay cannot|^a relayed error was|^a route has no|^a wire gave ",
        status=500,
    ),
    _Rule("queue-full", "^This proxy makes at most ", status=529),
    _Rule("keys-unavailable-database", "^The proxy cannot check keys", status=529),
    _Rule("redis-unavailable", "^The proxy cannot check limits", status=529),
)
"""Rules for errors of the proxy that occur before, and during, a call to a provider."""
_OF_PROVIDERS: Sequence[_Rule] = (
    _Rule("provider-not-called", r"\. It failed \d+ times in a row; the next call"),
    _Rule("wrong-address", rf"^{_PREFIX}nothing is served at ", status=400),
    _Rule("model-not-found", r" Remedy: (set|use another model in) \S", status=400),
    _Rule("not-an-api", "instead of an API response|redirects are not followed", status=502),
    _Rule("token-timeout", "no access token: ", error_type="timeout_error"),
    _Rule("no-token-server", "no access token: ", status=502),
    _Rule(
        "no-server",
        "no server responds|no request can be sent to|closed the connection without an answer",
        status=502,
    ),
    _Rule(
        "incomplete-reply",
        "before it was complete|connection was lost during the reply|reply had no final event",
        status=502,
    ),
    _Rule(
        "unreadable-output", r"(?i)the model's reply could not be read \(|\((?:malformed|unexpected)_\w+\)$", status=502
    ),
    _Rule("reply-too-large", "the reply is larger than", status=502),
    _Rule("schema-not-followed", "returned no valid reply for the schema", status=502),
    _Rule(
        "invalid-reply",
        "violates HTTP|with an unexpected body|continued a tool call|a tool call without a name|sent an invalid message"
        "|sent invalid JSON|the reply was not streamed|the reply is compressed|is not a valid status for a reply",
        status=502,
    ),
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
"""Rules for errors of a provider. After those with a text, the status suffices: providers write texts of their own.

The rules with a text are for messages of the proxy. They check the status too, because a provider's text may contain
the same words.
"""
_OF_PROXY: Sequence[_Rule] = (
    _Rule("proxy-key-missing", "^This proxy requires a key"),
    _Rule("proxy-key-wrong", "^The key is not one of this proxy's keys"),
    _Rule("virtual-key-rejected", r"^The key (is not a key|.* (is revoked|expired at|was replaced at)\b)", status=401),
    _Rule("model-not-available", "^model: .* is not available"),
    _Rule("demo-not-served", "^model: demo/demo is not served"),
    _Rule("dashboard-path", r"^Nothing is served at .*\. Reload the page\.|^The dashboard has no page ", status=404),
    _Rule("path-not-found", "^Nothing is served at ", status=404),
    _Rule("body-too-large", status=413),
    _Rule("virtual-key-limit", "Another (limit|budget):", status=429),
    _Rule("ledger-readers", "requests of this client read the ledger", status=429),
    _Rule("empty-messages", "^messages: at least one message "),
    _Rule("request-body", "^The request body "),
    _Rule("no-default-models", r"^\S+ has no default models\."),
    _Rule("fidelity-strict", "FIDELITY=strict rejects this"),
    _Rule("invalid-field", r"Input should be|Field required(?!\. Use)|^output_config\.format\.schema: ", status=400),
    _Rule("schema-work", r"\.input_schema: it needs more than ", status=400),
    _Rule("tool-schema", r"\.input_schema: |: it is nested too deeply$", status=400),
)
"""Rules for errors of the proxy before a call to a provider.

They have texts, because errors with the same status have different remedies. An error of a plugin has no remedy.
"""


def find_remedy(error: ErrorGroup | StoredRequest, key_variable: str = "") -> Remedy | None:
    """Return the remedy for a failed request, or for a group of failed requests.

    None: the error catalog has no remedy. `key_variable` replaces the example `OPENAI_API_KEY` in the text of the
    remedy.
    """
    if not error.error_type:
        return None
    for rule in (*_OF_BOTH, *(_OF_PROVIDERS if error.provider else _OF_PROXY)):
        if rule.applies_to(error):
            text = TEXTS[rule.entry]
            return Remedy(rule.entry, text.replace("OPENAI_API_KEY", key_variable) if key_variable else text)
    return None
