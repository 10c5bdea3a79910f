"""Requests for transports, as the operator of the proxy and a client cause them."""

from anthropic_proxy.engine.wires.bound_requests import BoundRequest, ClientOrigin
from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest

OPERATOR = OperatorOrigin("plugin")
CLIENT = ClientOrigin("message", "req_test", "key local", ())
"""A client that may use all servers beside the providers."""


def bound(base_url: str, request: UpstreamRequest, credential: Credential | None = None) -> BoundRequest:
    return BoundRequest(OPERATOR, base_url, request, credential)
