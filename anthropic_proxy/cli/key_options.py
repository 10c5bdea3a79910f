"""Options of `keys create`, `keys change` and `keys team` for models, limits and budgets."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

from cyclopts import Parameter


@Parameter(name="*")
@dataclass
class RuleOptions:
    """Models, limits and budgets of a key or a team.

    An option that is not given changes nothing, and `none` removes a limit.
    """

    models: str | None = None
    """Allowed models, separated by commas: requested or used names, with patterns: claude-*,openai/gpt-4.1-mini."""
    providers: str | None = None
    """Prefixes of allowed providers, separated by commas: openai,gemini."""
    routes: str | None = None
    """Names of allowed [[routes]] of anthropic-proxy.toml, separated by commas. Other requests are rejected."""
    rpm: str | None = None
    """Requests per minute."""
    tpm: str | None = None
    """Tokens per minute: input and output, without input read from a cache."""
    concurrency: str | None = None
    """Requests at the same time."""
    budget: Annotated[list[str] | None, Parameter(negative="")] = None
    """Amount per day, per month or in total: 50USD/month, 2000000tokens/day. May be repeated."""

    def decode(self) -> dict[str, Any]:
        """Return the given options as fields of `Rules`. Raises `InvalidRequest` for an invalid value."""
        from anthropic_proxy.access.rules import decode_rule_texts  # noqa: PLC0415  # --help needs none of it

        given = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return decode_rule_texts(given, prefix="--")
