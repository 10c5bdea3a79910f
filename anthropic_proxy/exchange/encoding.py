"""Choice between the event loop and a thread for CPU work of an exchange: preparing, encoding and schema conversion."""

from collections.abc import Callable
from typing import TypeVar

from msgspec import structs

from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.messages.reply_schema import ReplySchema
from anthropic_proxy.messages.work_budget import WorkPostponed
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import BaseDialect, Call

MAX_BYTES_ON_LOOP = 2 * 1024 * 1024
"""Maximum size of a request body that is decoded and encoded on the event loop: about 5 ms. A thread handles larger
ones."""
MAX_REPLY_BYTES_ON_LOOP = 256 * 1024
"""Maximum size of an unstreamed reply that is decoded on the event loop. A thread decodes larger ones."""
_BYTES_PER_TOOL = 512
"""Number of bytes by which a tool definition counts more than its size, because of the work per definition."""
MAX_STEPS_ON_LOOP = 4_000
"""Maximum steps of schema conversion on the event loop (4 to 10 ms). A conversion with more steps runs in a thread.

Twelve concurrent requests delay others by at most 0.2 s. Conversions are cached, so only the first request of a session
needs a thread.
"""
_MAX_READING_STEPS_ON_LOOP = 1_000
"""Maximum steps for decoding the schema of a reply on the event loop: 3 to 10 ms. A larger schema is decoded in a
thread."""

_Result = TypeVar("_Result")


def is_large(incoming: ClientRequest, tool_count: int) -> bool:
    """Return True if preparing and encoding a request would delay the event loop. Uses body size and tool count."""
    return len(incoming.body) + _BYTES_PER_TOOL * tool_count > MAX_BYTES_ON_LOOP


async def run_for_call(
    services: Services,
    function: Callable[[Call[BaseDialect]], _Result],
    call: Call[BaseDialect],
    *,
    large: bool = False,
) -> _Result:
    """Run a function that encodes a call, and return its result.

    The function runs in a thread if `large` is True, or if it raises `WorkPostponed` on the event loop.
    """
    if large:
        return await services.background.run(function, structs.replace(call, max_schema_steps=None))
    try:
        return function(call)
    except WorkPostponed:
        return await services.background.run(function, structs.replace(call, max_schema_steps=None))


async def decode_reply_schema(services: Services, schema: bytes) -> ReplySchema:
    """Decode the schema of a structured reply, in a thread if it is large.

    Raises `InvalidRequest` for an invalid schema.
    """
    try:
        return ReplySchema(schema, max_steps_here=_MAX_READING_STEPS_ON_LOOP)
    except WorkPostponed:
        return await services.background.run(ReplySchema, schema)
