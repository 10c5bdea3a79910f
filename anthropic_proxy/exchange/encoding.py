"""Steps 5 and 6 of a large request: in a thread."""

from collections.abc import Callable
from typing import TypeVar

from msgspec import structs

from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.messages.reply_schema import ReplySchema
from anthropic_proxy.messages.work_budget import WorkPostponed
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import BaseDialect, Call

MAX_BYTES_ON_LOOP = 2 * 1024 * 1024
"""Bytes of a request that are decoded and encoded on the event loop: about 5 ms."""
MAX_REPLY_BYTES_ON_LOOP = 256 * 1024
"""Bytes of a reply in one piece that are decoded on the event loop, where calls in its text are searched too."""
_BYTES_PER_TOOL = 512
"""Cost of one small tool definition in bytes of processing, besides its own bytes."""
MAX_STEPS_ON_LOOP = 4_000
"""Steps of schema conversion on the event loop: 4 to 10 ms, so a dozen concurrent requests delay others by at most
0.2 s. Conversions are cached: only the first request of a session with more steps needs a thread."""
_MAX_READING_STEPS_ON_LOOP = 1_000
"""Steps of reading a reply's schema on the event loop: 3 to 10 ms."""

_Result = TypeVar("_Result")


def is_large(incoming: ClientRequest, tool_count: int) -> bool:
    """Return True if preparing and encoding the request would delay the event loop. Uses body size and tool count."""
    return len(incoming.body) + _BYTES_PER_TOOL * tool_count > MAX_BYTES_ON_LOOP


async def run_for_call(
    services: Services,
    function: Callable[[Call[BaseDialect]], _Result],
    call: Call[BaseDialect],
    *,
    large: bool = False,
) -> _Result:
    """Return the result of a function that encodes a call; run it in a thread if it takes long."""
    if large:
        return await services.background.run(function, structs.replace(call, max_steps_here=None))
    try:
        return function(call)
    except WorkPostponed:
        return await services.background.run(function, structs.replace(call, max_steps_here=None))


async def decode_reply_schema(services: Services, schema: bytes) -> ReplySchema:
    """Decode the schema for a reply. Raises `InvalidRequest` for an invalid schema."""
    try:
        return ReplySchema(schema, max_steps_here=_MAX_READING_STEPS_ON_LOOP)
    except WorkPostponed:
        return await services.background.run(ReplySchema, schema)
