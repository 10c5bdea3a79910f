"""Selection of the providers, models and wires (APIs) for a client request: the pure function `resolve`.

`RouteCache` caches the results of `resolve`. `model_names` resolves names, `targets` builds targets, and
`provider_setup` finds base URLs and missing keys.
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
