"""Tool loop: several upstream calls for one reply, to run tools of the proxy, continue split replies and retry schemas.

If a reply calls tools of the proxy (web search, web fetch, tool search), the proxy runs them and calls the model again
with everything that the client received so far. Requests without such tools pass through unchanged.
"""

from anthropic_proxy.exchange.attempts import Attempts, OpenedStream
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.tool_loop.history import run_pending_calls
from anthropic_proxy.exchange.tool_loop.loop import ToolLoop
from anthropic_proxy.exchange.tool_loop.runner import ProxyToolRunner
from anthropic_proxy.exchange.tool_loop.schema_retry import SchemaCheckedStream
from anthropic_proxy.exchange.upstream_stream import DeltaStream
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation import is_paused
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services

__all__ = ["SchemaCheckedStream", "ToolLoop", "open_reply"]


async def open_reply(
    services: Services, attempts: Attempts, request: MessagesRequest, route: Route
) -> DeltaStream | RelayStream:
    """Send the request upstream and return its reply as a stream when the first content arrives.

    Raises the last failure if no target of the route replies. Without tools of the proxy and continuations, the
    returned stream is the upstream response itself.
    """
    runner: ProxyToolRunner | None = None
    ahead: list[Delta] = []
    if is_paused(request.messages):
        runner = ProxyToolRunner(services)
        request, ahead = await run_pending_calls(services, runner, request, route)
    opened = await attempts.open_reply(request, route)
    stream, state = opened.stream, opened.state
    if isinstance(stream, RelayStream):
        return stream
    reply_schema = state.reply_schema
    if reply_schema is None and not (state.proxy_tools or ahead) and stream.continuation is None:
        return stream
    reply = ToolLoop(attempts, runner or ProxyToolRunner(services), request, OpenedStream(stream, state), ahead)
    return reply if reply_schema is None else SchemaCheckedStream(reply, reply_schema, services.background)
