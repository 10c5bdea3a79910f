"""Error catalog: cause and remedy of each error, and the entry that belongs to an error response or a failed request.

The response header `x-proxy-help`, the dashboard and the page `/help/errors` use it. The texts come from
`docs/fix/errors.toml`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import ProxyError, UpstreamError

PAGE = "/help/errors"
"""URL path at which the proxy serves the catalog."""


class Entry(Struct, frozen=True):
    """Cause and remedy of one error. Texts between backticks are code."""

    slug: str
    title: str
    cause: str
    remedy: str
    texts: Sequence[str] = ()
    """Further messages of the same error."""


class Section(Struct, frozen=True):
    """One class of errors with its entries."""

    slug: str
    title: str
    meaning: str
    entries: Sequence[Entry]


class _Catalog(Struct, frozen=True):
    sections: Sequence[Section]


@cache
def load_sections() -> Sequence[Section]:
    text = files("anthropic_proxy.gateway").joinpath("error_catalog.json").read_bytes()
    return msgspec.json.decode(text, type=_Catalog).sections


@cache
def load_remedies() -> Mapping[str, str]:
    """Slug of an entry → its remedy as plain text."""
    return {entry.slug: entry.remedy.replace("`", "") for section in load_sections() for entry in section.entries}


def find_entry(status: int, error_type: str, message: str, *, is_of_provider: bool) -> str:
    """ "": no entry. `is_of_provider`: a provider was called. `error_type` is "" for a request that did not fail."""
    if not error_type:
        return ""
    rules = (*RULES_OF_BOTH, *(RULES_OF_PROVIDERS if is_of_provider else RULES_OF_PROXY))
    return next((rule.entry for rule in rules if rule.applies_to(status, error_type, message)), "")


class Rule(Struct, frozen=True):
    """Condition under which an error belongs to an entry of the catalog. A field that is "" or 0 is not checked."""

    entry: str
    text: str = ""
    """Pattern (regular expression) of a piece of the error message."""
    status: int = 0
    error_type: str = ""

    def applies_to(self, status: int, error_type: str, message: str) -> bool:
        is_kind = self.status in (0, status) and self.error_type in ("", error_type)
        return is_kind and re.search(self.text, message) is not None


_PREFIX = r"[^\s:]+: "
"""Pattern of the provider's name before the text of a provider: `groq: `."""
RULES_OF_BOTH: Sequence[Rule] = (
    Rule("provider-key-missing", r"^[^\s:]+ has no key: ", status=401),
    Rule("vertex-token", "^vertex has no access token: "),
    Rule("cloud-credentials", "^(?:bedrock has no credentials of AWS|foundry has no access token): "),
    Rule("vertex-project", r"^[^\s:]+ (has no project|is not set up): VERTEX_PROJECT is not set", status=401),
    Rule("prompt-too-long", rf"^({_PREFIX})*prompt is too long\b", status=400),
    Rule("package-missing", rf"^(?!{_PREFIX}).*, which is not installed\. Install it", status=500),
    Rule("proxy-stops", "^The proxy is shutting down"),
    Rule(
        "bug",
        "^[^:]* in the proxy; the traceback is in its log|^A tool call was continued that|^The message was "
        "(started|written) |^The supervisor did not return|^The writer finished a message|^Two tool calls of one "
        "message have|^a plugin sent a request|^a relay cannot|^a relayed error was|^a route has no|^a wire gave ",
        status=500,
    ),
    Rule("queue-full", "^This proxy makes at most ", status=529),
    Rule("keys-unavailable-database", "^The proxy cannot check keys", status=529),
    Rule("redis-unavailable", "^The proxy cannot check limits", status=529),
)
"""Rules for errors of the proxy that occur before, and during, a call to a provider."""
RULES_OF_PROVIDERS: Sequence[Rule] = (
    Rule("provider-not-called", r"\. It failed \d+ times in a row; the next call"),
    Rule("wrong-address", rf"^{_PREFIX}nothing is served at ", status=400),
    Rule("model-not-found", r" Remedy: (set|use another model in) \S", status=400),
    Rule("not-an-api", "instead of an API response|redirects are not followed", status=502),
    Rule("token-timeout", "no access token: ", error_type="timeout_error"),
    Rule("no-token-server", "no access token: ", status=502),
    Rule(
        "no-server",
        "no server responds|no request can be sent to|closed the connection without an answer",
        status=502,
    ),
    Rule(
        "incomplete-reply",
        "before it was complete|connection was lost during the reply|reply had no final event",
        status=502,
    ),
    Rule(
        "unreadable-output", r"(?i)the model's reply could not be read \(|\((?:malformed|unexpected)_\w+\)$", status=502
    ),
    Rule("reply-too-large", "the reply is larger than", status=502),
    Rule("schema-not-followed", "returned no valid reply for the schema", status=502),
    Rule(
        "invalid-reply",
        "violates HTTP|with an unexpected body|continued a tool call|a tool call without a name|sent an invalid message"
        "|sent invalid JSON|sent an event that is not JSON|sent an event stream with|the reply was not streamed"
        "|the reply is compressed|is not a valid status for a reply",
        status=502,
    ),
    Rule("rejected-key", status=401),
    Rule("no-credit", status=402),
    Rule("no-access", status=403),
    Rule("model-not-found", status=404),
    Rule("body-too-large", status=413),
    Rule("rate-limit", status=429),
    Rule("no-data", error_type="timeout_error"),
    Rule("overloaded", status=529),
    Rule("invalid-upstream-request", status=400),
    Rule("provider-failed", error_type="api_error"),
)
"""Rules for errors of a provider. After those with a text, the status suffices: providers write texts of their own.

The rules with a text are for messages of the proxy. They check the status too, because a provider's text may contain
the same words.
"""
RULES_OF_PROXY: Sequence[Rule] = (
    Rule("proxy-key-missing", "^This proxy requires a key"),
    Rule("proxy-key-wrong", "^The key is not one of this proxy's keys"),
    Rule("virtual-key-rejected", r"^The key (is not a key|.* (is revoked|expired at|was replaced at)\b)", status=401),
    Rule("model-not-available", "^model: .* is not available"),
    Rule("demo-not-served", "^model: demo/demo is not served"),
    Rule("dashboard-path", r"^Nothing is served at .*\. Reload the page\.|^The dashboard has no page ", status=404),
    Rule("path-not-found", "^Nothing is served at ", status=404),
    Rule("body-too-large", status=413),
    Rule("virtual-key-limit", "Another (limit|budget):", status=429),
    Rule("ledger-readers", "requests of this client read the ledger", status=429),
    Rule("empty-messages", "^messages: at least one message "),
    Rule("request-body", "^The request body "),
    Rule("no-default-models", r"^\S+ has no default models\."),
    Rule("fidelity-strict", "FIDELITY=strict rejects this"),
    Rule("invalid-field", r"Input should be|Field required(?!\. Use)|^output_config\.format\.schema: ", status=400),
    Rule("schema-work", r"\.input_schema: it needs more than ", status=400),
    Rule("tool-schema", r"\.input_schema: |: it is nested too deeply$", status=400),
)
"""Rules for errors of the proxy before a call to a provider.

They have texts, because errors with the same status have different remedies. An error of a plugin has no remedy.
"""


def error_help_headers(error: ProxyError) -> dict[str, str]:
    """`x-proxy-help: /help/errors#rate-limit`"""
    provider = isinstance(error, UpstreamError)
    if entry := find_entry(error.status, error.error_type, error.message, is_of_provider=provider):
        return {"x-proxy-help": f"{PAGE}#{entry}"}
    # a class of a plugin has no section, but its base class has one
    known = next(base for base in type(error).__mro__ if base.__module__.startswith("anthropic_proxy."))
    section = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", known.__name__).lower()
    return {"x-proxy-help": f"{PAGE}#{section}"}
