"""Lists of providers as messages contain them, built from the registry: a new provider changes no test of a message."""

from anthropic_proxy.engine.providers import PROVIDERS

OFFERED = [row for row in PROVIDERS if row.offered_to_users]
"""Providers that a user can choose, in the order of the registry."""
OFFERED_PREFIXES = [row.prefix for row in OFFERED]
"""Prefixes of their model ids: `gemini`."""


def join_with_or(names: list[str]) -> str:
    """Return the names as a message lists alternatives: `a, b or c`."""
    return " or ".join(", ".join(names).rsplit(", ", 1))


def name_choices(*configured: str) -> str:
    return join_with_or([*(row.name for row in OFFERED), *configured])


def list_unset_names(*ready: str) -> list[str]:
    """Return the names that lists of providers without a key contain. `ready`: names of providers not in the list."""
    return [row.env_prefix.lower() for row in OFFERED if row.name not in ready]
