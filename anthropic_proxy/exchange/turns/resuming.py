"""A reply that was paused goes on: what its last message still owes is run first."""

from anthropic_proxy.exchange.attempts import Attempts
from anthropic_proxy.exchange.turns.errands import Errands, OwnedCall
from anthropic_proxy.exchange.turns.history import with_blocks, without_force
from anthropic_proxy.messages.deltas import Block, Delta
from anthropic_proxy.messages.prepare import owned_tools, unanswered
from anthropic_proxy.messages.types import MessagesRequest
from anthropic_proxy.routing.router import Route
from anthropic_proxy.wire.contract import relays


async def resume(
    attempts: Attempts, errands: Errands, request: MessagesRequest, route: Route
) -> tuple[MessagesRequest, list[Delta]]:
    """Return the request as it is asked now, and the results that the client gets before the answer.

    Who runs what is judged by the route's first target; a relay judges itself.
    """
    target = route.targets[0]
    if relays(target.wire):
        return request, []
    limits = attempts.limits(target)
    owned = {tool.name: tool for tool in owned_tools(request, limits).values()}
    if not owned:
        return request, []
    request = without_force(request)
    calls = [OwnedCall(call.id, owned[call.name], call.input) for call in unanswered(request.messages, owned)]
    deferred = [tool for tool in request.tools if tool.defer_loading]
    results = await errands.run(calls, request.messages, deferred, takes_pdf=limits.pdf)
    if results:
        request = with_blocks(request, [result.raw for result in results if isinstance(result, Block)])
    attempts.take(request)
    return request, results
