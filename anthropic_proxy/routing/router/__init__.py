"""Selection of provider and model for a request: `resolve`, one pure function.

`RouteCache` stores its results. `model_names` resolves names, `targets` builds targets, `base_urls` finds addresses,
`readiness` checks keys.
"""

from anthropic_proxy.routing.router.base_urls import find_server
from anthropic_proxy.routing.router.readiness import describe_missing_key
from anthropic_proxy.routing.router.route_cache import RouteCache
from anthropic_proxy.routing.router.targets import (
    Route,
    RoutingQuery,
    Target,
    TierMapping,
    describe_mapping,
    find_facts,
    find_preferred_provider,
    preferred,
    resolve,
    should_query_ollama,
    switch_wire,
)

__all__ = [
    "Route",
    "RouteCache",
    "RoutingQuery",
    "Target",
    "TierMapping",
    "describe_mapping",
    "describe_missing_key",
    "find_facts",
    "find_preferred_provider",
    "find_server",
    "preferred",
    "resolve",
    "should_query_ollama",
    "switch_wire",
]
