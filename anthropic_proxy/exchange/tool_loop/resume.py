"""Resumption of a paused reply: pending calls of its last message are run first."""

from anthropic_proxy.exchange.call_building import limits_for
from anthropic_proxy.exchange.tool_loop.history import append_assistant_blocks, without_forced_tool
from anthropic_proxy.exchange.tool_loop.runner import ProxyToolCall, ProxyToolRunner
from anthropic_proxy.messages.deltas import Block, Delta
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation import pending_calls, proxy_tools
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import relays


async def resume(
    services: Services, runner: ProxyToolRunner, request: MessagesRequest, route: Route
) -> tuple[MessagesRequest, list[Delta]]:
    """Return the request with results of pending calls, and these results as deltas for the client.

    The first target of the route decides which tools the proxy runs. A relay resumes by itself.
    """
    target = route.targets[0]
    if relays(target.wire):
        return request, []
    limits = limits_for(services, target)
    tools = {tool.name: tool for tool in proxy_tools(request, limits).values()}
    if not tools:
        return request, []
    request = without_forced_tool(request)
    calls = [ProxyToolCall(call.id, tools[call.name], call.input) for call in pending_calls(request.messages, tools)]
    deferred = [tool for tool in request.tools if tool.defer_loading]
    results = await runner.run(calls, request.messages, deferred, accepts_pdf=limits.pdf)
    if results:
        request = append_assistant_blocks(request, [result.raw for result in results if isinstance(result, Block)])
    return request, results
