"""State of providers before the first request: those that can be called, with the problems of the settings."""

import os
from collections.abc import Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import Literal

from msgspec import Struct, structs

from anthropic_proxy.engine.advice import Problem, ProblemKind
from anthropic_proxy.engine.options import split_origin
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.hosts import (
    find_missing_key,
    find_region,
)
from anthropic_proxy.engine.routing.health import CircuitBreakers
from anthropic_proxy.engine.routing.model_listing import TierMapping, list_tier_mappings
from anthropic_proxy.gateway.problems import find_google_project, find_problems, find_setting_name, find_used_models
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import ModelMapping, ProviderSetup, Setup

_NONE: Mapping[str, Problem] = MappingProxyType({})
_MAX_KEYS = 3
"""Maximum number of API keys of one provider that are listed, masked. Further keys appear as a count."""
_MAX_TIERS = 2
"""Maximum number of Claude tiers that one line names. An ellipsis stands for further tiers."""


class ReadyProvider(Struct, frozen=True):
    name: str
    """Prefix of the provider's settings in lower case (`gemini`), or its name in the configuration file."""
    state: str
    """Redacted keys and their source (`…1234, .env`), number of models (`3 models`), project, or URL."""
    model_count: int | None = None
    """Number of models that the server of the provider lists. None: the list is unknown."""


class Readiness(Struct, frozen=True):
    ready: Sequence[ReadyProvider]
    """Providers that can be called: key or address are set, and their packages are installed."""
    unset: Sequence[str]
    """Names of providers without an API key: `gemini`."""
    problems: Sequence[Problem]
    """From `find_problems`."""

    def list_for_pages(self, settings: Settings) -> list[Problem]:
        """Return the problems. What a settings file states has its name instead of its path."""
        return [
            structs.replace(one, facts={"reason": remove_folders(one.text, settings)})
            if one.kind is ProblemKind.STATED
            else one
            for one in self.problems
        ]


def find_readiness(
    settings: Settings, catalog: Catalog, today: date, server_problems: Mapping[str, Problem] = _NONE
) -> Readiness:
    """`server_problems`: from `find_server_problems`. Models retired on `today` or earlier get a warning."""
    problems = find_problems(settings, catalog, today, server_problems)
    used, troubled = find_used_models(settings, catalog), {problem.subject for problem in problems}
    ready, unset = [], []
    for provider in find_registry(settings):
        if not (provider.offered_to_users or provider.name in used) or provider.name == "demo":
            continue
        if find_missing_key(provider, settings):
            unset += [find_setting_name(provider)] if provider.offered_to_users and not provider.is_configured else []
        elif provider.name not in troubled and (found := _find_state(provider, settings, catalog)):
            ready.append(found)
    return Readiness(ready, unset, problems)


def group_tier_mappings(settings: Settings, catalog: Catalog) -> list[tuple[Sequence[str], TierMapping]]:
    """Join the Claude tiers (opus …) that the same setting maps to the same models.

    A row has the names of its tiers and the mapping of the first tier.
    """
    groups: dict[tuple[object, ...], list[TierMapping]] = {}
    for row in list_tier_mappings(settings, catalog):
        groups.setdefault((*row.replies, row.fallbacks), []).append(row)
    return [([row.tier for row in group], group[0]) for group in groups.values()]


def group_shown_mappings(settings: Settings, catalog: Catalog) -> list[tuple[Sequence[str], TierMapping]]:
    """As `group_tier_mappings`, with reasons that have the names of settings files instead of their paths."""
    return [
        (tiers, structs.replace(row, replies=[(one, remove_folders(reason, settings)) for one, reason in row.replies]))
        for tiers, row in group_tier_mappings(settings, catalog)
    ]


def remove_folders(text: str, settings: Settings) -> str:
    """Return `text` with the names of settings files instead of their paths."""
    for file in settings.files:
        text = text.replace(shorten_home(file), os.path.basename(file))
    return text


def join_tiers(tiers: Sequence[str]) -> str:
    """Return names of tiers in little room: `haiku, sonnet …`."""
    names = ", ".join(tiers[:_MAX_TIERS])
    return f"{names} …" if len(tiers) > _MAX_TIERS else names


def name_target(target: str) -> str:
    """Return the target of a `TierMapping` for a reader: `openai/gpt-4.1`; without a model: `my, no model`."""
    prefix, _, model = target.partition("/")
    return target if model else f"{prefix}, no model"


def _find_state(provider: Provider, settings: Settings, catalog: Catalog) -> ReadyProvider | None:
    name = find_setting_name(provider)
    if keys := settings.keys.get(provider.name, ()):
        listed_keys = ", ".join(map(str, keys[:_MAX_KEYS]))
        more = f" and {len(keys) - _MAX_KEYS} more" if len(keys) > _MAX_KEYS else ""
        source, _ = split_origin(settings.origins.get(provider.key_variable or "", "set"))
        return ReadyProvider(name, f"{listed_keys}{more}, {source}")
    if (listed := catalog.cached_model_ids(provider.name)) is not None:
        return ReadyProvider(name, f"{len(listed)} model{'' if len(listed) == 1 else 's'}", len(listed))
    if provider.transport == "litellm":
        return ReadyProvider(name, "installed")
    if provider.key_source == "google" and not provider.is_configured:
        state = find_google_project(settings) or ""
    else:
        address = settings.base_urls.get(provider.name, "")
        region = find_region(address) or settings.aws_region
        place = {"aws": region, "azure": None if provider.is_configured else settings.foundry_resource}
        state = place.get(provider.key_source) or address
    return ReadyProvider(name, state) if state else None


def describe_setup(
    settings: Settings,
    catalog: Catalog,
    breakers: CircuitBreakers | None = None,
    credentials: Credentials | None = None,
    server_problems: Mapping[str, Problem] = _NONE,
    *,
    today: date,
) -> Setup:
    """Blocked servers and skipped keys are included if `breakers` and `credentials` are given. `server_problems`: from
    `find_server_problems`. Models retired on `today` or earlier get a warning.
    """
    readiness = find_readiness(settings, catalog, today, server_problems)
    mapping = [
        ModelMapping(
            tiers=join_tiers(tiers),
            target=row.target,
            fallbacks=row.fallbacks,
            reason=row.reason,
            replies=tuple(row.replies),
        )
        for tiers, row in group_shown_mappings(settings, catalog)
    ]
    providers, circuits = [], {} if breakers is None else breakers.list_open_circuits()
    ready = {provider.name: provider.state for provider in readiness.ready}
    problems = {problem.subject: problem for problem in reversed(readiness.problems)}
    for provider in find_registry(settings):
        shown = find_setting_name(provider)
        if provider.name == "demo" or not (provider.offered_to_users or shown in ready):
            continue
        missing, problem = find_missing_key(provider, settings), problems.get(provider.name)
        state: Literal["ready", "problem", "unset"] = "problem" if problem else "unset"
        remedy = missing or problem
        blocked = [found for upstream, found in circuits.items() if upstream.partition(" ")[0] == provider.name]
        seconds, failure = max(blocked, default=(0.0, ""))
        providers.append(
            ProviderSetup(
                name=provider.name,
                prefix=provider.prefix,
                state="ready" if shown in ready else state,
                detail=remove_folders(ready.get(shown, ""), settings),
                base_url=settings.base_urls.get(provider.name) or provider.base_url,
                remedy=remedy.text if remedy and shown not in ready else "",
                key_count=len(settings.keys.get(provider.name, ())),
                cooldowns=[] if credentials is None else credentials.list_cooldown_seconds(provider.name),
                open_seconds=seconds,
                failure=failure,
            )
        )
    return Setup(providers=providers, mapping=mapping, problems=readiness.list_for_pages(settings))
