"""Selection of provider and model for a request: `resolve`, one pure function.

`RouteCache` stores its results. `model_names` resolves names, `targets` builds targets, `provider_setup` finds base
URLs and missing keys.
"""

from anthropic_proxy.routing.router.provider_setup import describe_missing_key, find_server
from anthropic_proxy.routing.router.targets import (
    Route,
    RouteCache,
    RoutingQuery,
    Target,
    TierMapping,
    describe_mapping,
    find_capabilities,
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
    "find_capabilities",
    "find_preferred_provider",
    "find_server",
    "preferred",
    "resolve",
    "should_query_ollama",
    "switch_wire",
]
