"""`describe_models`: limits and features of models, for plugins that show them to users."""

from collections.abc import Sequence
from typing import Literal

from anthropic_proxy.errors import ClientError
from anthropic_proxy.exchange.adaptation import apply_stored_adaptations
from anthropic_proxy.exchange.call_building import resolve_target_limits
from anthropic_proxy.plugins.setup import ModelFeatures
from anthropic_proxy.routing.catalog import ModelCapabilities
from anthropic_proxy.routing.router import RoutingQuery, Target, build_route, build_server_name
from anthropic_proxy.services import Services


async def describe_models(services: Services, names: Sequence[str]) -> list[ModelFeatures]:
    """Return the limits and features of the models `names`. Models that no request can reach are omitted.

    Each name is a model id with the prefix of a provider: `openai/gpt-4.1`.
    """
    found = []
    for name in names:
        try:
            target = build_route(RoutingQuery(name), services.settings, services.catalog).targets[0]
        except ClientError:
            continue
        used: list[str] = []
        adapted = await apply_stored_adaptations(services, target, used)
        found.append(_describe(services, name, target, adapted, used))
    return found


def _describe(services: Services, name: str, target: Target, adapted: Target, used: Sequence[str]) -> ModelFeatures:
    limits = resolve_target_limits(services, adapted)
    return ModelFeatures(
        model=name,
        provider=target.provider.name,
        context_window=limits.context_window,
        max_output=limits.max_output,
        tools=limits.accepts_tools,
        images=limits.accepts_images,
        documents=limits.accepts_pdf,
        efforts=limits.efforts,
        has_thinking_budget=limits.accepts_thinking_budget,
        web_search=_find_place(services, name, "web_search", has_own=limits.can_search),
        web_fetch=_find_place(services, name, "web_fetch", has_own=services.web_fetch is not None),
        source=_find_source(services, target),
        other_sources={
            **_find_doctor_sources(services, target),
            **_find_learned_sources(target.capabilities, adapted.capabilities),
        },
        adaptations=tuple(used),
    )


def _find_place(services: Services, name: str, kind: str, *, has_own: bool) -> Literal["provider", "proxy", "none"]:
    """Return the place where a server tool, such as `web_search`, runs for requests to the model called `name`.

    `provider`: also if the provider runs the tool only on another of its APIs. `has_own`: True if the proxy can run it.
    """
    query = RoutingQuery(name, frozenset((kind,)))
    target = build_route(query, services.settings, services.catalog).targets[0]
    if target.is_relayed or kind in target.dialect.server_tools:
        return "provider"
    return "proxy" if has_own else "none"


def _find_source(services: Services, target: Target) -> str:
    if services.catalog.has_reported_capabilities(target.provider.name, target.model):
        return "server"
    return "built-in table" if target.capabilities.known else "assumed"


def _find_doctor_sources(services: Services, target: Target) -> dict[str, str]:
    learned = services.catalog.find_learned_model(build_server_name(target.provider, target.base_url), target.model)
    if learned is None or target.provider.uses_installed_models:
        return {}
    day = learned.observed_on
    source = f"doctor, {day.day} {day:%b %Y}"
    fields = {
        "context_window": learned.context_window,
        "max_output": learned.max_output,
        "images": learned.accepts_images,
        "efforts": learned.efforts or None,
    }
    return {field: source for field, value in fields.items() if value is not None}


def _find_learned_sources(before: ModelCapabilities, after: ModelCapabilities) -> dict[str, str]:
    """Return field → text for each field with a value from an error message of the provider.

    `before`: values of the tables. `after`: values with those of the errors. The text names the error as source.
    """
    changed = {
        "context_window": before.context_window_from_error != after.context_window_from_error,
        "max_output": before.max_output_from_error != after.max_output_from_error,
        "images": before.rejects_images != after.rejects_images,
        "documents": before.rejects_documents != after.rejects_documents,
    }
    return {field: "error of the provider" for field, is_changed in changed.items() if is_changed}
