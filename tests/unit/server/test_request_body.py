"""Request bodies that arrive in fragments, late, never, or too large."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from anthropic_proxy.errors import RequestTimeout, RequestTooLarge
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.server.endpoints import read_body
from tests.support.virtual_time import in_virtual_time

Message = MutableMapping[str, Any]


def sends(*messages: Message | None) -> Callable[[], Awaitable[Message]]:
    """Return a `receive` with these messages, one per call. After None or the last message it never returns."""
    waiting = iter(messages)

    async def receive() -> Message:
        message = next(waiting, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        return message

    return receive


def piece(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_a_body_without_a_length_may_not_grow_for_ever() -> None:
    quarter = piece(b"x" * (MAX_REQUEST_BYTES // 4), more=True)
    with pytest.raises(RequestTooLarge):
        await read_body(sends(*[quarter] * 5))


@in_virtual_time
async def test_a_body_that_does_not_come_is_given_up() -> None:
    for messages in ([None], [piece(b"half", more=True), None]):
        with pytest.raises(RequestTimeout):
            await read_body(sends(*messages), read_timeout_seconds=0.01)


@in_virtual_time
async def test_a_body_that_drips_is_given_up() -> None:
    async def receive() -> Message:
        await asyncio.sleep(0.001)
        return piece(b"x", more=True)

    with pytest.raises(RequestTimeout):
        await read_body(receive, read_timeout_seconds=10, body_timeout_seconds=0.05)
