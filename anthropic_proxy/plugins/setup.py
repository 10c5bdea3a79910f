"""State of providers and models, for plugins that show it to users.

`Setup` has the state of all providers (`ProviderSetup`) and the model mapping. A `ModelMapping` names the model that
serves requests for some Claude tiers (opus, sonnet …). `ModelFeatures` has the limits and features of one model.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct


class ProviderSetup(Struct, frozen=True, kw_only=True):
    """State of one provider. API keys are masked."""

    name: str
    """Name of the provider: `google`."""
    prefix: str
    """Prefix of the provider in model ids: `gemini`."""
    state: Literal["ready", "problem", "unset"]
    """`ready`: requests are possible. `problem`: a key is set, but a request would fail. `unset`: no key is set."""
    detail: str = ""
    """Text about the state: masked keys and their source, number of models, or URL."""
    base_url: str = ""
    """Base URL of the provider's API."""
    remedy: str = ""
    """Cause and remedy of a problem, or the setting that is missing. "": no problem."""
    key_count: int = 0
    """Number of API keys that are set for the provider."""
    cooldowns: Sequence[float] = ()
    """Seconds until the next use of each key that is skipped after a rate limit or a rejection. Empty: no key is
    skipped."""
    open_seconds: float = 0.0
    """Seconds for which calls are blocked after repeated failures (open circuit). 0: calls are allowed."""
    failure: str = ""
    """Error message of the failure after which calls were blocked. "": calls are not blocked."""


class ModelMapping(Struct, frozen=True, kw_only=True):
    """The model that serves the requests for one or more Claude tiers (opus, sonnet …), with its fallbacks."""

    tiers: str
    """Names of the Claude tiers: `opus, sonnet …`."""
    target: str
    """Model that serves the requests, with prefix: `openai/gpt-4.1`."""
    fallbacks: Sequence[str] = ()
    """Models with prefix that are called after the target failed, in order."""
    reason: str = ""
    """Setting that selects the target."""


class Setup(Struct, frozen=True, kw_only=True):
    """State of all providers, and the model mapping, both for the current settings."""

    providers: Sequence[ProviderSetup] = ()
    """State of each provider that the proxy offers to users, also of those without a key. The demo is left out."""
    mapping: Sequence[ModelMapping] = ()
    """Rows of the model mapping. Tiers with the same target share a row."""
    problems: Sequence[str] = ()
    """Problems of mapped models and enabled features, with which requests fail. Each text has its remedy."""
    advice: Sequence[str] = ()
    """Problems of providers to which no Claude tier is mapped. Each text has its remedy."""


class ModelFeatures(Struct, frozen=True, kw_only=True):
    """Limits and features of one model of a provider, as the proxy assumes them when it sends requests."""

    model: str
    """Model id with prefix: `openai/gpt-4.1`."""
    provider: str
    """Name of the provider: `google` for the prefix `gemini`."""
    context_window: int | None
    """Context window in tokens. None: unknown."""
    max_output: int | None
    """Maximum output tokens of one reply. None: unknown."""
    tools: bool
    """True if the model can call tools."""
    images: bool
    """True if the model reads images."""
    documents: bool
    """True if the model reads PDF documents."""
    efforts: Sequence[str]
    """Levels of reasoning effort. Empty: none are known."""
    has_thinking_budget: bool
    """True if the amount of thinking is sent as a number of tokens."""
    web_search: Literal["provider", "proxy", "none"]
    """Place where web searches run: at the provider, in the proxy, or `none` (not available)."""
    web_fetch: Literal["provider", "proxy", "none"]
    """Place where web fetches run: at the provider, in the proxy, or `none` (not available)."""
    source: str
    """Source of the values: `built-in table`, `server` (reported by the provider), or `assumed` (defaults)."""
    other_sources: Mapping[str, str] = {}
    """Field → source of its value, if different from `source`: `doctor, 20 Nov 2026`."""
    adaptations: Sequence[str] = ()
    """Changes that the proxy makes to requests because the provider rejected a parameter: `drop top_k`."""
