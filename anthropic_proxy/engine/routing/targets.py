"""The target of upstream calls for a chosen model: `build_target` returns a `Target`.

A target has the *wire* (API) with the dialect of the provider for the model, the base URL, and the limits of the model.
A base URL setting may select the server of another vendor with a dialect, limits and retirements of its own.
`build_target_limits` has what model, API and proxy can do: the limits to which requests for the target are adapted.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.engine.messages.preparation import (
    STATED_WINDOW_MARGIN,
    SearchState,
    TargetLimits,
)
from anthropic_proxy.engine.messages.server_tools import PROXY_TOOLS, ServerToolKind
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.providers import AnyWireConfig, Host, Provider
from anthropic_proxy.engine.providers.catalog import Catalog, LearnedModel
from anthropic_proxy.engine.providers.hosts import build_server_name, find_base_url, find_server_name, is_in_table
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.choices import ModelChoice, ModelSetting, find_preferred_provider
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.errors import InvalidRequest, UnknownModel, UnsupportedFeature


class Target(Struct, frozen=True, kw_only=True, eq=False):
    """One provider, model, wire and base URL for upstream calls."""

    provider: Provider
    model: str
    """Model id at the provider, without its prefix."""
    wire: Wire[BaseDialect, Any]
    dialect: BaseDialect
    """Deviations of the provider and model from the API of `wire`, with all model rules and settings applied."""
    capabilities: ModelCapabilities
    base_url: str
    """URL without a trailing slash. Contains `UNKNOWN_PROJECT` if no setting names the Google Cloud project."""
    model_setting: ModelSetting | None = None
    """None: the client named the model."""
    is_guess: bool = False
    """True if neither a prefix nor a model list chose the provider."""
    weight: float = 1.0
    """Relative share of requests for this target, in a route with `balance = "weighted"`."""
    upstream: str = ""
    """Provider and host, such as `openai api.openai.com`. Failures are counted for each such text. Computed."""

    def __post_init__(self) -> None:
        structs.force_setattr(self, "upstream", build_server_name(self.provider, self.base_url))

    @property
    def is_relayed(self) -> bool:
        """True if request and reply are forwarded without translation to another API. Only few fields are changed."""
        return self.wire.is_relay

    @property
    def prefixed_id(self) -> str:
        return f"{self.provider.prefix}/{self.model}"


_PROXY_TOOLS: tuple[ServerToolKind, ...] = tuple(
    kind for kind, row in PROXY_TOOLS.items() if row.service is None or row.is_offered_without_service
)
_PROXY_TOOLS_WITH_FETCH: tuple[ServerToolKind, ...] = (
    *_PROXY_TOOLS,
    *(kind for kind, row in PROXY_TOOLS.items() if row.service == "fetch"),
)
"""Kinds of server tools that the proxy itself can run for a provider without them, if `FETCH_URLS` is set. Without
`SEARCH_URL`, a web search returns an error block."""


@lru_cache(maxsize=256)
def build_target_limits(
    target: Target,
    rejects_overflow: bool = False,  # also by position: lru_cache is slower with keywords
    search: SearchState = "allowed",
    has_web_fetch: bool = False,
) -> TargetLimits:
    """Return the limits to which client requests for `target` are adapted.

    `search`: whether the proxy itself can run web searches. `has_web_fetch`: True if it can fetch pages.
    """
    facts = target.capabilities
    dialect = target.dialect
    stated = facts.context_window_from_error
    return TargetLimits(
        context_window=stated or (facts.context_window if facts.known else None),
        max_input=facts.max_input if facts.known and stated is None else None,
        max_output=facts.effective_max_output,
        min_output=dialect.min_output,
        thinking_budgets=dialect.thinking_budgets,
        reject_overflow=rejects_overflow and stated is None,
        margin=STATED_WINDOW_MARGIN if stated is not None else 0.0,
        efforts=tuple(level for level in facts.efforts if level != "none") if dialect.thinks_always else facts.efforts,
        accepts_thinking_budget=dialect.accepts_thinking_budget,
        default_effort=facts.default_effort,
        always_reasons=dialect.always_reasons or facts.reasons == "always",
        reasons_unasked=facts.reasons != "",
        accepts_images=(facts.accepts_images or not facts.known) and not facts.rejects_images,
        accepts_pdf=facts.accepts_pdf and target.wire.accepts_pdf and not facts.rejects_documents,
        accepts_tools=facts.tools,
        server_tools=dialect.server_tools,
        server_tools_exclusive=dialect.server_tools_exclusive,
        proxy_tool_kinds=_PROXY_TOOLS_WITH_FETCH if has_web_fetch else _PROXY_TOOLS,
        search=search,
        provider=target.provider.prefix,
        loaded_tools=dialect.loaded_tool_form,
        tool_name_pattern=dialect.tool_name_pattern,
        max_tool_name_length=dialect.max_tool_name_length,
    )


def build_target(choice: ModelChoice, settings: EngineOptions, catalog: Catalog) -> Target:
    row, model = choice.provider, choice.model
    if row.transport == "demo":
        preferred_provider = find_preferred_provider(settings, catalog)
        if not settings.serve_demo and preferred_provider is not row:
            refused = (
                f"{choice.prefixed_id} is not served: the preferred provider is {preferred_provider.name}. "
                "SERVE_DEMO=true serves both."
            )
            if choice.model_setting is not None:
                raise InvalidRequest(f"{choice.model_setting}: {refused}", code="demo-not-served")
            raise UnknownModel(f"model: {refused}", code="demo-not-served")
    if reason := row.non_chat_models.get(model):
        retired = row.retired_models.get(row.default_big_model or "")
        alternative = f"{row.prefix}/{retired.successor if retired else row.default_big_model}"
        raise InvalidRequest(
            f"{choice.prefixed_id} {reason} and does not support chat. One that does is {alternative}.",
            remedy=f"Chat models of {row.prefix}:  anthropic-proxy models {row.prefix}",
            wish="a model",
            code="no-chat-model",
        )
    if not model:
        example = f"{row.prefix}/<model>" if row.is_configured else "mistral/mistral-large-latest"
        raise InvalidRequest(
            f"{row.name} has no default models.",
            remedy=f"Set BIG_MODEL and SMALL_MODEL, for example to {example}",
            code="no-default-models",
        )
    wire_name = _pick_wire(row, model, settings)
    config = row.host.wires[wire_name]
    if config.custom_url_only and row.name not in settings.base_urls:
        raise UnsupportedFeature(
            f"{choice.prefixed_id} cannot be reached: {row.title} does not support {wire_name}.",
            remedy=f"{row.env_prefix}_WIRE={wire_name} is for your own server: set its address in "
            f"{row.base_url_variable}",
            code="wire",
        )
    dialect = _merge_dialect(config, model)
    return Target(
        provider=row,
        model=model,
        wire=config.wire,
        dialect=_apply_settings(dialect, config, settings),
        capabilities=find_capabilities(row, model, settings, catalog),
        base_url=find_base_url(row, config, settings, model),
        model_setting=choice.model_setting,
        is_guess=bool(choice.note),
        weight=choice.weight,
    )


def list_unread_media(target: Target) -> Iterator[str]:
    """Yield what the model is known not to read: `image`, `document` (a PDF).

    A table of the settings that states the limits of a model, but nothing about media, does not deny them."""
    facts, provider = target.capabilities, target.provider
    stated = provider.host.find_stated_capabilities(target.model)
    is_known = is_in_table(provider, target.model)
    if facts.rejects_images or (not facts.accepts_images and (is_known or "accepts_images" in stated)):
        yield "image"
    if facts.rejects_documents or (not facts.accepts_pdf and (is_known or "accepts_pdf" in stated)):
        yield "document"


def sees(target: Target) -> bool:
    """Return True unless the model is known not to accept images."""
    if target.is_relayed:
        return "image" not in list_unread_media(target)
    return build_target_limits(target).accepts_images


def _pick_wire(row: Provider, model: str, settings: EngineOptions) -> str:
    requested = settings.wires.get(row.name)
    if requested is not None:
        return requested
    matching = (wire for pattern, wire in row.wire_rules if fnmatchcase(model.lower(), pattern))
    return next(matching, next(iter(row.wires)))


@lru_cache(maxsize=1024)
def _merge_dialect(config: AnyWireConfig, model: str) -> BaseDialect:
    changes: dict[str, object] = {}
    for rule in config.model_rules:
        if rule.matches_model(model):
            changes.update(rule.dialect_fields)
    dialect: BaseDialect = config.dialect
    return structs.replace(dialect, **changes) if changes else dialect


def _apply_settings(dialect: BaseDialect, config: AnyWireConfig, settings: EngineOptions) -> BaseDialect:
    given = {field: getattr(settings, name) for field, name in config.setting_overrides.items()}
    changes = {field: value for field, value in given.items() if value is not None}
    return structs.replace(dialect, **changes) if changes else dialect


def always_thinks(target: Target, model: str) -> bool:
    """Return True if a model with this name is known to think in each request, over the API of `target`."""
    configs = (config for config in target.provider.host.wires.values() if config.wire is target.wire)
    return any(_merge_dialect(config, model).thinks_always for config in configs)


def switch_wire(target: Target, wire_name: str, settings: EngineOptions) -> Target | None:
    """Return `target` with another wire. None: the provider does not offer it, or a setting fixes the wire."""
    row = target.provider
    if row.name in settings.wires or wire_name not in row.wires:
        return None
    config = row.host.wires[wire_name]
    if config.custom_url_only and row.name not in settings.base_urls:
        return None
    dialect = _merge_dialect(config, target.model)
    return structs.replace(
        target,
        wire=config.wire,
        dialect=_apply_settings(dialect, config, settings),
        base_url=find_base_url(row, config, settings, target.model),
    )


def prefer_wire_with_tools(target: Target, wanted: frozenset[str], settings: EngineOptions) -> Target:
    """Return the target with the wire on which the provider runs most of the `wanted` server tools.

    The server tools of another host, which a base URL setting selects, are unknown. A relay forwards the tools.
    """
    if target.is_relayed or target.provider.selected_host is not None:
        return target
    others = (switch_wire(target, name, settings) for name in target.provider.wires)
    candidates = [target, *(other for other in others if other is not None and other.dialect is not target.dialect)]
    return max(candidates, key=lambda candidate: len(wanted.intersection(candidate.dialect.server_tools)))


def is_relayed(provider: Provider, model: str, settings: EngineOptions) -> bool:
    """Return `Target.is_relayed` of a target with this model."""
    return bool(provider.host.wires[_pick_wire(provider, model, settings)].wire.is_relay)


def find_server_tools(provider: Provider, model: str, settings: EngineOptions) -> frozenset[str]:
    """Return the kinds of the server tools that the provider itself runs for a model, over any of its APIs."""
    if provider.selected_host is not None or provider.name in settings.wires:
        configs = [provider.host.wires[_pick_wire(provider, model, settings)]]
    else:
        configs = [config for config in provider.wires.values() if not config.custom_url_only]
    return frozenset(kind for config in configs for kind in _merge_dialect(config, model).server_tools)


def find_capabilities(
    provider: Provider,
    model: str,
    settings: EngineOptions,
    catalog: Catalog,
    examined: LearnedModel | None = None,
) -> ModelCapabilities:
    """`examined`: newer facts of the doctor, in place of those in the catalog."""
    host, learned = provider.host, None
    if (examined or catalog.has_observed_models) and not provider.uses_installed_models:  # Ollama reports them itself
        learned = catalog.find_observed_model(find_server_name(provider, settings), model, examined)
    table = host.wires[_pick_wire(provider, model, settings)].models_table or host.models_table
    capabilities = catalog.cached_capabilities(host.name, model, table)
    if not capabilities.known and host.unknown_model_capabilities:
        capabilities = structs.replace(capabilities, **host.unknown_model_capabilities)
    return apply_capability_rules(host, model, learned.apply(capabilities) if learned else capabilities)


def apply_capability_rules(host: Host, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
    if not (changes := host.find_stated_capabilities(model)):
        return capabilities
    found = structs.replace(capabilities, **changes)
    is_above = found.max_input is not None and found.max_input > found.context_window  # a table states the window only
    return structs.replace(found, max_input=None) if is_above else found
