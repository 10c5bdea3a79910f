"""Messages for the next upstream call in a tool loop, in which the proxy runs tools between calls.

`append_assistant_blocks` adds the reply so far to the conversation. `without_forced_tool` removes a forced tool,
because the model has called it. `run_pending_calls` resumes a paused reply (`pause_turn`).
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.exchange.call_building import find_target_limits
from anthropic_proxy.exchange.tool_loop.runner import ProxyToolCall, ProxyToolRunner
from anthropic_proxy.messages.deltas import Block, Delta
from anthropic_proxy.messages.models import Message, MessagesRequest
from anthropic_proxy.messages.models.blocks import decode_blocks
from anthropic_proxy.messages.preparation import find_pending_calls, proxy_tools
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services


def append_assistant_blocks(request: MessagesRequest, raws: Sequence[Raw]) -> MessagesRequest:
    """Return the request with blocks of the reply added to its last assistant message, or as a new one.

    `raws`: blocks of the reply as JSON.
    """
    if not raws:
        return request
    blocks = decode_blocks(Raw(msgspec.json.encode(list(raws))), "messages")
    messages = [*request.messages]
    last = messages[-1]
    if last.role == "assistant":
        messages[-1] = Message("assistant", [*last.blocks, *blocks])
    else:
        messages.append(Message("assistant", blocks))
    size = request.body_bytes and request.body_bytes + sum(memoryview(raw).nbytes for raw in raws)
    return replace(request, messages=messages, body_bytes=size)


def without_forced_tool(request: MessagesRequest) -> MessagesRequest:
    """Return the request with `tool_choice: auto` in place of a forced tool.

    Otherwise the model would have to call the forced tool again in each further upstream call.
    """
    choice = request.tool_choice
    if choice is None or choice.type not in ("any", "tool"):
        return request
    return replace(request, tool_choice=replace(choice, type="auto", name=None))


async def run_pending_calls(
    services: Services, runner: ProxyToolRunner, request: MessagesRequest, route: Route
) -> tuple[MessagesRequest, list[Delta]]:
    """Run the calls of the proxy's tools that a paused reply left open, when a client request resumes the reply.

    Return the request with the results, and the results as deltas (decoded fragments) for the client. The first target
    of the route decides which tools the proxy runs. A request for a relay is returned unchanged, because its provider
    resumes the reply.
    """
    target = route.targets[0]
    if target.is_relayed:
        return request, []
    limits = find_target_limits(services, target)
    tools = {tool.name: tool for tool in proxy_tools(request, limits).values()}
    if not tools:
        return request, []
    request = without_forced_tool(request)
    calls = [
        ProxyToolCall(call.id, tools[call.name], call.input) for call in find_pending_calls(request.messages, tools)
    ]
    deferred = [tool for tool in request.tools if tool.defer_loading]
    results = await runner.run_calls(calls, request.messages, deferred, accepts_pdf=limits.accepts_pdf)
    if results:
        request = append_assistant_blocks(request, [result.raw for result in results if isinstance(result, Block)])
    return request, results
