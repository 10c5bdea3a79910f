"""Surcharges for the region in which a model runs: a region that a reply names, or that of a vendor's address."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from types import MappingProxyType
from urllib.parse import urlsplit

from msgspec import Struct

REGION_FACTORS: Mapping[str, Decimal] = MappingProxyType({"us": Decimal("1.1")})
"""Region that a reply names (`inference_geo`) → factor of all prices of tokens. Source: platform.claude.com, "Pricing",
"Data residency pricing", read 2026-11. It applies to each provider with the Messages API: gateways pass on what
Anthropic bills."""


class RegionalAddresses(Struct, frozen=True, kw_only=True):
    """Addresses of a vendor at which a model runs in a region, for a surcharge on the prices of tokens."""

    host_patterns: tuple[str, ...]
    vendor_url: str
    """Address under which the price list knows the vendor."""
    factor: Decimal = Decimal("1.1")
    models: tuple[str, ...] = ("*",)
    """Patterns of the models with the surcharge."""
    exceptions: tuple[str, ...] = ()
    """Patterns of models that cost the same everywhere."""

    def find_factor(self, model: str) -> Decimal:
        name = model.lower()
        is_raised = _matches(name, self.models) and not _matches(name, self.exceptions)
        return self.factor if is_raised else Decimal(1)


_ADDRESSES = (
    # Models released from 2026-03-05: developers.openai.com/api/docs/guides/data-residency, read 2026-11-28
    RegionalAddresses(
        host_patterns=("*.api.openai.com",),
        vendor_url="https://api.openai.com/v1",
        exceptions=(
            *("gpt-[34]*", "gpt-5", "gpt-5-*", "gpt-5.[0-3]*", "ft:gpt-[34]*"),
            *("o[1-4]*", "chatgpt-4*", "codex-mini*", "computer-use-*"),
        ),
    ),
    # docs.x.ai/developers/advanced-api-usage/regions, read 2026-11-28
    RegionalAddresses(host_patterns=("us.api.x.ai",), vendor_url="https://api.x.ai/v1"),
    # Claude from Sonnet 4.5 on: platform.claude.com, "Claude on Vertex AI", read 2026-11-28
    RegionalAddresses(
        host_patterns=("*-aiplatform.googleapis.com", "aiplatform.*.rep.googleapis.com"),
        vendor_url="https://aiplatform.googleapis.com/v1",
        models=("claude-*",),
        exceptions=(
            "claude-[23]*",
            "claude-instant*",
            "claude-*-4",
            "claude-*-4@*",
            "claude-*-4-20*",
            "claude-opus-4-1*",
        ),
    ),
)


def find_regional_addresses(base_url: str) -> RegionalAddresses | None:
    """None: the address has no prices of a region."""
    host = urlsplit(base_url).hostname or ""
    return next((row for row in _ADDRESSES if _matches(host, row.host_patterns)), None)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
