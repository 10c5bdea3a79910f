"""Restores what providers need back of tool calls, before a request is prepared for one of them."""

from collections.abc import Sequence

from msgspec import structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.kept_states import MAX_OWNER_BYTES, list_newest
from anthropic_proxy.engine.messages.call_states import read_kept_size, restore_states
from anthropic_proxy.engine.messages.models import MessagesRequest

MAX_STATES_ON_LOOP = 200
"""Maximum number of calls with states that are restored on the event loop, each in about 20 µs."""


async def restore_call_states(
    engine: Engine, incoming: ClientRequest, request: MessagesRequest, call_ids: Sequence[str], *, is_large: bool
) -> MessagesRequest:
    """Return the request with the thinking that its client did not get before its tool calls.

    `call_ids`: those of `list_ids_with_states`. Raises `ProxyBusy` if there is no memory for the states.
    """
    size = sum(map(read_kept_size, {*list_newest(call_ids)}))
    await incoming.count_made("states", min(size, MAX_OWNER_BYTES))
    kept = await engine.kept_states.find(engine.store, incoming.receipt.client.payer, call_ids)
    is_large = is_large or len(call_ids) > MAX_STATES_ON_LOOP
    messages = await incoming.background.run_in_thread_if_large(is_large, restore_states, request.messages, kept)
    return structs.replace(request, messages=messages)
