"""Tool loop: several upstream calls for one reply, to run tools of the proxy, continue split replies and retry schemas.

If a reply calls tools of the proxy (web search, web fetch, tool search), the proxy runs them and calls the model again
with the results. A provider may split a long reply: it ends a response with a token, and another call with this token
(a continuation) returns the rest. Replies without any of these pass through unchanged.
"""

from anthropic_proxy.exchange.attempts import Attempts
from anthropic_proxy.exchange.opened_stream import OpenedStream
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.tool_loop.history import run_pending_calls
from anthropic_proxy.exchange.tool_loop.loop import ToolLoop
from anthropic_proxy.exchange.tool_loop.runner import ProxyToolRunner
from anthropic_proxy.exchange.tool_loop.schema_retry import SchemaCheckedStream
from anthropic_proxy.exchange.upstream_stream import DeltaStream
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation import ends_with_paused_reply
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services

__all__ = ["SchemaCheckedStream", "ToolLoop", "open_reply"]


async def open_reply(
    services: Services, attempts: Attempts, request: MessagesRequest, route: Route
) -> DeltaStream | RelayStream:
    """Call the targets (provider and model) of the route, and return the reply stream of the first that sends content.

    A `ToolLoop` is returned if the proxy runs tools of the request or the provider may split its reply; a
    `SchemaCheckedStream` if the proxy checks the JSON Schema of the reply. Otherwise the upstream stream itself is
    returned. Raises the error of the last called target if none replies.
    """
    runner: ProxyToolRunner | None = None
    ahead: list[Delta] = []
    if ends_with_paused_reply(request.messages):
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
