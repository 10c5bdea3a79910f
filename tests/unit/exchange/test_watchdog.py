"""Idle times of an exchange: the limit that applies at each moment."""

import asyncio

import pytest

from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.first_checks import FIRST_CHECK_DELAY_SECONDS, FirstChecks
from tests.support.platform_marks import needs_uvloop
from tests.support.virtual_time import in_virtual_time

LONG, SHORT, GUARD = 60.0, 0.05, 20.0


async def wait_until_given_up(watch: Watchdog) -> str:
    """Wait for a future that never completes. Return the reason for the end of the wait."""
    exchange = asyncio.current_task()
    assert exchange is not None
    try:
        await asyncio.wait_for(asyncio.shield(asyncio.get_running_loop().create_future()), GUARD)
    except TimeoutError:
        return "nobody gave up"
    except asyncio.CancelledError:
        exchange.uncancel()
    finally:
        watch.stop()
    return watch.reason


@pytest.mark.parametrize("streams", [True, False])
@in_virtual_time
async def test_from_the_first_content_on_the_shorter_limit_holds(streams: bool) -> None:
    async def ping() -> None:
        return

    never = asyncio.Event().wait
    watch = Watchdog(
        wait_disconnected=never, on_idle=ping if streams else None, first_byte_seconds=LONG, idle_seconds=SHORT
    )
    watch.begin_upstream_call()
    await asyncio.sleep(2 * FIRST_CHECK_DELAY_SECONDS)  # so that the next look is planned for the first byte's limit
    watch.note_content()
    assert await wait_until_given_up(watch) == "upstream silent"


@pytest.mark.parametrize("accepts_data", [False, True])
@in_virtual_time
async def test_a_client_that_reads_nothing_of_one_piece_is_given_up(accepts_data: bool) -> None:
    never = asyncio.Event().wait
    watch = Watchdog(
        wait_disconnected=never, on_idle=None, first_byte_seconds=SHORT, idle_seconds=SHORT, write_seconds=10 * SHORT
    )
    watch.begin_write()
    if not accepts_data:
        assert await wait_until_given_up(watch) == "gone"
        return
    for _ in range(60):
        await asyncio.sleep(SHORT / 2)
        watch.end_write()
        watch.begin_write()
    assert watch.reason == ""
    watch.stop()


@in_virtual_time
async def test_only_one_write_that_waits_for_ten_seconds_gives_up_the_place() -> None:
    given_up = list[float]()
    watch = Watchdog(wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=LONG, idle_seconds=LONG)
    watch.on_unread = lambda: given_up.append(watch.now())
    for _ in range(20):
        watch.begin_write()
        await asyncio.sleep(9)
        watch.end_write()
    assert given_up == []
    watch.begin_write()
    begun = watch.now()
    await asyncio.sleep(20)
    watch.stop()
    assert 10 <= given_up[0] - begun <= 15


@in_virtual_time
async def test_until_the_first_byte_the_longer_one_does() -> None:
    watch = Watchdog(wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=SHORT, idle_seconds=LONG)
    watch.begin_upstream_call()
    assert await wait_until_given_up(watch) == "upstream silent"


@needs_uvloop
def test_the_first_byte_may_arrive_when_the_next_look_of_uvloop_is_due() -> None:
    import uvloop

    async def give_up() -> str:
        watch = Watchdog(
            wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=0.0, idle_seconds=SHORT
        )
        watch.begin_upstream_call()
        watch.note_content()
        return await wait_until_given_up(watch)

    assert uvloop.run(give_up()) == "upstream silent"


def test_exchanges_that_share_the_timer_of_their_first_checks_are_all_given_up() -> None:
    checks = FirstChecks()

    async def exchange(begins_after: float, *, ends: bool) -> str:
        await asyncio.sleep(begins_after)
        watch = Watchdog(
            wait_disconnected=asyncio.Event().wait,
            on_idle=None,
            first_byte_seconds=SHORT,
            idle_seconds=SHORT,
            first_checks=checks,
        )
        watch.begin_upstream_call()
        if ends:
            watch.stop()
            return "ended"
        return await wait_until_given_up(watch)

    @in_virtual_time
    async def run_three() -> None:
        later = FIRST_CHECK_DELAY_SECONDS / 2
        ends = await asyncio.gather(exchange(0, ends=True), exchange(0, ends=False), exchange(later, ends=False))
        assert ends == ["ended", "upstream silent", "upstream silent"]

    run_three()
    run_three()  # the second event loop has no timer of the first one
