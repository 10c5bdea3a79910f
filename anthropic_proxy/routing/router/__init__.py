"""Selection of the providers and models for a client request, by the function `build_route`.

The module `model_names` finds the provider and model for a requested model id. The module `targets` adds the wire (API)
and the base URL. All of them together are a target, to which an upstream call is sent. The module `provider_setup`
finds base URLs and missing keys. `RouteCache` caches the results of `build_route`.
"""

from anthropic_proxy.routing.router.model_names import resolve_model_name_and_tier
from anthropic_proxy.routing.router.provider_setup import build_server_name, describe_missing_key, find_server_override
from anthropic_proxy.routing.router.targets import (
    FixedRouteCache,
    Route,
    RouteCache,
    RoutingQuery,
    Target,
    TierMapping,
    apply_capability_rules,
    build_route,
    choose_preferred_provider_name,
    find_capabilities,
    find_preferred_provider,
    find_retirement,
    find_server_tools,
    find_successor,
    list_rule_choices,
    list_rule_problems_and_warnings,
    list_tier_mappings,
    should_query_ollama,
    switch_wire,
)

__all__ = [
    "FixedRouteCache",
    "Route",
    "RouteCache",
    "RoutingQuery",
    "Target",
    "TierMapping",
    "apply_capability_rules",
    "build_route",
    "build_server_name",
    "choose_preferred_provider_name",
    "describe_missing_key",
    "find_capabilities",
    "find_preferred_provider",
    "find_retirement",
    "find_server_override",
    "find_server_tools",
    "find_successor",
    "list_rule_choices",
    "list_rule_problems_and_warnings",
    "list_tier_mappings",
    "resolve_model_name_and_tier",
    "should_query_ollama",
    "switch_wire",
]
