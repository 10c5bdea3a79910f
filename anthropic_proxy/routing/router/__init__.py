"""Selection of the providers, models and wires (APIs) for a client request: the pure function `resolve_route`.

`RouteCache` caches the results of `resolve_route`. `model_names` resolves names, `targets` builds targets, and
`provider_setup` finds base URLs and missing keys.
"""

from anthropic_proxy.routing.router.provider_setup import describe_missing_key, find_server_override
from anthropic_proxy.routing.router.targets import (
    Route,
    RouteCache,
    RoutingQuery,
    Target,
    TierMapping,
    find_capabilities,
    find_preferred_provider,
    list_tier_mappings,
    preferred_provider_name,
    resolve_route,
    should_query_ollama,
    switch_wire,
)

__all__ = [
    "Route",
    "RouteCache",
    "RoutingQuery",
    "Target",
    "TierMapping",
    "describe_missing_key",
    "find_capabilities",
    "find_preferred_provider",
    "find_server_override",
    "list_tier_mappings",
    "preferred_provider_name",
    "resolve_route",
    "should_query_ollama",
    "switch_wire",
]
