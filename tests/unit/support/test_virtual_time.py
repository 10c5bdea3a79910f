"""Tests for the loop in virtual time: timers keep their order and distance, and sockets work."""

import asyncio
import time

from tests.support.http1_server import CLOSE, GET, Echo, bodies_of, serving, talk
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_timers_expire_in_order_without_waiting() -> None:
    expired: list[float] = []
    loop, started = asyncio.get_running_loop(), time.monotonic()
    for seconds in (1000, 10, 100):
        loop.call_later(seconds, lambda: expired.append(loop.time()))
    await asyncio.sleep(2000)
    assert expired == [10, 100, 1000]
    assert loop.time() == 2000
    assert time.monotonic() - started < 1000


@in_virtual_time
async def test_a_callback_that_blocks_does_not_move_the_clock() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(0.01):
        time.sleep(0.05)  # noqa: ASYNC251  # as a machine that gives no processor time
        await asyncio.sleep(0.009)
    assert loop.time() == 0.009


@in_virtual_time
async def test_replies_arrive_before_a_timeout() -> None:
    async with serving(Echo()) as port, asyncio.timeout(1):
        assert len(bodies_of(await talk(port, GET, CLOSE))) == 2
