"""Several upstream calls for one reply: tools that the proxy runs itself, pieces of a reply, replies asked for again.

An ordinary request passes without cost. Where the proxy owns tools (web search, web fetch, tool search), a reply that
calls them is not the end: they are run, their results are written as the API writes them, and the model is asked again
with everything that the client saw so far.
"""

from anthropic_proxy.exchange.answer import Reply
from anthropic_proxy.exchange.attempts import Attempts
from anthropic_proxy.exchange.house import House
from anthropic_proxy.exchange.relay import RelayedAnswer
from anthropic_proxy.exchange.turns.checked import Checked
from anthropic_proxy.exchange.turns.errands import Errands
from anthropic_proxy.exchange.turns.resuming import resume
from anthropic_proxy.exchange.turns.turns import Turns
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.prepare import ends_in_server_tools
from anthropic_proxy.messages.types import MessagesRequest
from anthropic_proxy.routing.router import Route

__all__ = ["Checked", "Turns", "open_reply"]


async def open_reply(
    house: House, watch: Watch, attempts: Attempts, request: MessagesRequest, route: Route
) -> Reply | RelayedAnswer:
    """Return the reply to a request as soon as something is delivered; raises the last failure if nothing is.

    Where nothing is owned and no piece can follow it is the upstream's own answer.
    """
    errands: Errands | None = None
    ahead: list[Delta] = []
    if ends_in_server_tools(request.messages):
        errands = Errands(house, watch)
        request, ahead = await resume(attempts, errands, request, route)
    answer = await attempts.open(route)
    if isinstance(answer, RelayedAnswer):
        return answer
    shape = attempts.shape
    if shape is None and not (attempts.owned or ahead) and answer.continuation is None:
        return answer
    reply = Turns(attempts, errands or Errands(house, watch), request, answer, ahead)
    return reply if shape is None else Checked(reply, shape)
