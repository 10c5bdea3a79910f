"""Functions that run long CPU work of a request in a thread, and short work on the event loop.

The event loop serves all clients, so long work on it delays them. `is_large_request` estimates the work by the size of
the request. `run_on_loop_or_in_thread` runs a function on the event loop or in a thread. `decode_reply_schema` decodes
the JSON Schema of a reply.
"""

from collections.abc import Callable
from typing import TypeVar

from msgspec import structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_request import ClientRequest
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.wires.contract import BaseDialect, Call

MAX_BYTES_ON_LOOP = 2 * 1024 * 1024
"""Maximum size of a request body that is decoded and encoded on the event loop: about 5 ms. A thread handles larger
ones."""
MAX_REPLY_BYTES_ON_LOOP = 256 * 1024
"""Maximum size of an unstreamed reply that is decoded on the event loop. A thread decodes larger ones."""
_BYTES_PER_TOOL = 512
"""Bytes added to the size of a request for each tool definition, because each definition costs additional time."""
MAX_STEPS_ON_LOOP = 4_000
"""Maximum steps of schema conversion on the event loop (4 to 10 ms). A conversion with more steps runs in a thread.

With this limit, twelve concurrent requests delay other requests by at most 0.2 s. Conversions are cached, so only the
first request of a session needs a thread."""
_MAX_READING_STEPS_ON_LOOP = 1_000
"""Maximum steps for decoding the schema of a reply on the event loop: 3 to 10 ms. A larger schema is decoded in a
thread."""

_Result = TypeVar("_Result")


def is_large_request(incoming: ClientRequest, tool_count: int) -> bool:
    """Return True if the work for a request on the event loop would delay other requests."""
    return len(incoming.body) + _BYTES_PER_TOOL * tool_count > MAX_BYTES_ON_LOOP


async def run_on_loop_or_in_thread(
    engine: Engine,
    function: Callable[[Call[BaseDialect]], _Result],
    call: Call[BaseDialect],
    *,
    is_large: bool = False,
) -> _Result:
    """Return the result of `function(call)`, for example the encoded request.

    Long work runs in a thread, short work on the event loop.
    """
    if is_large:
        return await engine.background.run_in_thread(function, structs.replace(call, max_schema_steps=None))
    try:
        return function(call)
    except WorkPostponed:
        return await engine.background.run_in_thread(function, structs.replace(call, max_schema_steps=None))


async def decode_reply_schema(engine: Engine, schema: bytes) -> ReplySchema:
    """Decode the JSON Schema that the client requests for the reply. A large schema is decoded in a thread.

    Raises `InvalidRequest` for an invalid schema.
    """
    try:
        return ReplySchema(schema, max_steps_here=_MAX_READING_STEPS_ON_LOOP)
    except WorkPostponed:
        return await engine.background.run_in_thread(ReplySchema, schema)
