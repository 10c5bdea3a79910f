"""Tool loop: several upstream calls for one reply to the client.

The proxy itself runs some tools: web search, web fetch, tool search. After the model calls such a tool, the proxy runs
it and calls the model again with the result. The proxy also makes another call if a provider splits a long reply, or if
a reply violates its JSON Schema. `open_reply` returns the stream of the complete reply.
"""

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.attempts import Attempts
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.exchange.repeatable_stream import RepeatableStream
from anthropic_proxy.engine.exchange.tool_loop.loop import ToolLoop, run_pending_calls
from anthropic_proxy.engine.exchange.tool_loop.runner import ProxyToolRunner
from anthropic_proxy.engine.exchange.tool_loop.schema_retry import SchemaCheckedStream
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream
from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.preparation import ends_with_paused_reply
from anthropic_proxy.engine.routing.router import Route

__all__ = ["SchemaCheckedStream", "ToolLoop", "open_reply"]


async def open_reply(
    engine: Engine, attempts: Attempts, request: MessagesRequest, route: Route
) -> DeltaStream | RelayStream:
    """Call the targets (provider and model) of the route, and return the first reply that sends content.

    Raises an error if no target replies.
    """
    runner: ProxyToolRunner | None = None
    ahead: list[Delta] = []
    if ends_with_paused_reply(request.messages):
        runner = ProxyToolRunner(engine)
        request, ahead = await run_pending_calls(engine, runner, request, route)
    attempt = await attempts.open_first_call(request, route)
    if isinstance(attempt.stream, RelayStream):
        return attempt.stream
    stream, reply_schema = attempt.decoded(), attempt.reply_schema
    is_one_call = reply_schema is None and not (attempt.proxy_tools or ahead) and stream.continuation is None
    if is_one_call and not stream.begins_with_thinking():
        return stream
    if is_one_call:
        return RepeatableStream(attempts, attempt)
    reply = ToolLoop(attempts, runner or ProxyToolRunner(engine), request, attempt, ahead)
    return reply if reply_schema is None else SchemaCheckedStream(reply, reply_schema, engine.background)
