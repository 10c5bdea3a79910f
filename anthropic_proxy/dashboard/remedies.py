"""Remedies for failed requests, from the error catalog."""

import re

from msgspec import Struct

from anthropic_proxy.error_catalog import PAGE, find_entry, load_remedies
from anthropic_proxy.ledger.dashboard_queries import ErrorGroup
from anthropic_proxy.ledger.request_queries import StoredRequest


class Remedy(Struct, frozen=True):
    """Remedy of a kind of error."""

    entry: str
    """Name of the entry in the catalog: `rate-limit`."""
    text: str

    @property
    def link(self) -> str:
        """URL of the entry on the page that the proxy serves."""
        return f"{PAGE}#{self.entry}"


def find_remedy(error: ErrorGroup | StoredRequest, key_setting: str = "") -> Remedy | None:
    """Return the remedy for a failed request, or for a group of failed requests. None: the catalog has no remedy.

    `key_setting`: setting with the keys of the provider, which replaces the example `OPENAI_API_KEY` in the text.
    """
    entry = find_entry(error.status, error.error_type, error.error, is_of_provider=bool(error.provider))
    if not entry:
        return None
    text = load_remedies()[entry]
    if re.fullmatch(r"[A-Z0-9_]+", key_setting):
        text = text.replace("OPENAI_API_KEY", key_setting)
    elif key_setting:  # api_key of a table of anthropic-proxy.toml, which names a variable, a file or a command
        text = text.replace("OPENAI_API_KEY=key1,key2", f"key1,key2 in the place that {key_setting} names")
    return Remedy(entry, text)
