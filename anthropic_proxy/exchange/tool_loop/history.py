"""Functions that build the messages of the next upstream call, after the proxy has run tools for the model.

`append_assistant_blocks` adds the reply so far to the conversation. `without_forced_tool` allows a reply without the
forced tool, because the model has already called it. `run_pending_calls` resumes a paused reply: one that ended with
the stop reason `pause_turn` and that the client sends back.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.exchange.call_building import resolve_target_limits
from anthropic_proxy.exchange.tool_loop.runner import ProxyToolCall, ProxyToolRunner
from anthropic_proxy.messages.deltas import Block, Delta
from anthropic_proxy.messages.models import Message, MessagesRequest
from anthropic_proxy.messages.models.blocks import decode_blocks
from anthropic_proxy.messages.preparation import find_pending_calls, resolve_proxy_tools
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services


def append_assistant_blocks(request: MessagesRequest, raws: Sequence[Raw]) -> MessagesRequest:
    """Return the request with the blocks of the reply so far at the end of its messages.

    `raws` are the blocks as JSON.
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
    """Return the request with `tool_choice: auto`, if it forces the model to call a tool.

    Otherwise the model would have to call the tool again in each further upstream call.
    """
    choice = request.tool_choice
    if choice is None or choice.type not in ("any", "tool"):
        return request
    return replace(request, tool_choice=replace(choice, type="auto", name=None))


async def run_pending_calls(
    services: Services, runner: ProxyToolRunner, request: MessagesRequest, route: Route
) -> tuple[MessagesRequest, list[Delta]]:
    """Run those calls of the proxy's tools that have no result yet, when a client resumes a paused reply.

    Return the request with the results at the end of its messages, and the results as deltas (decoded fragments) for
    the client.
    """
    target = route.targets[0]
    if target.is_relayed:
        return request, []
    limits = resolve_target_limits(services, target)
    tools = {tool.name: tool for tool in resolve_proxy_tools(request, limits).values()}
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
