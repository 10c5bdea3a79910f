"""Request of the next call: the blocks sent so far are its last assistant message. Also for a paused reply."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.exchange.call_building import limits_for
from anthropic_proxy.exchange.tool_loop.runner import ProxyToolCall, ProxyToolRunner
from anthropic_proxy.messages.deltas import Block, Delta
from anthropic_proxy.messages.models import Message, MessagesRequest
from anthropic_proxy.messages.models.blocks import read_blocks
from anthropic_proxy.messages.preparation import pending_calls, proxy_tools
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services


def append_assistant_blocks(request: MessagesRequest, raws: Sequence[Raw]) -> MessagesRequest:
    """Return the request with these blocks appended to the last assistant message, or as a new one."""
    if not raws:
        return request
    blocks = read_blocks(Raw(msgspec.json.encode(list(raws))), "messages")
    messages = [*request.messages]
    last = messages[-1]
    if last.role == "assistant":
        messages[-1] = Message("assistant", [*last.blocks, *blocks])
    else:
        messages.append(Message("assistant", blocks))
    size = request.size and request.size + sum(memoryview(raw).nbytes for raw in raws)
    return replace(request, messages=messages, size=size)


def without_forced_tool(request: MessagesRequest) -> MessagesRequest:
    """Return the request without a forced tool: the forced call is made already."""
    choice = request.tool_choice
    if choice is None or choice.type not in ("any", "tool"):
        return request
    return replace(request, tool_choice=replace(choice, type="auto", name=None))


async def run_pending_calls(
    services: Services, runner: ProxyToolRunner, request: MessagesRequest, route: Route
) -> tuple[MessagesRequest, list[Delta]]:
    """Return the request with results of pending calls, and these results as deltas for the client.

    The first target of the route decides which tools the proxy runs. A relay resumes by itself.
    """
    target = route.targets[0]
    if target.is_relayed:
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
