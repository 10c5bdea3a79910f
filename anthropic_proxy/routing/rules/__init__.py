"""Routes of the configuration file (`[[routes]]`): rules that choose providers and models by properties of a request.

`RouteRules` finds the first route with conditions that a request meets. `RequestFacts` has the properties of the
request for this. `RouteBalancer` orders the targets (provider and model) of a route by weight, latency or price.
"""

from anthropic_proxy.routing.rules.balancer import RouteBalancer
from anthropic_proxy.routing.rules.request_facts import SESSION_HEADER, RequestFacts
from anthropic_proxy.routing.rules.route_rules import RouteCheck, RouteRules, describe_conditions

__all__ = ["SESSION_HEADER", "RequestFacts", "RouteBalancer", "RouteCheck", "RouteRules", "describe_conditions"]
