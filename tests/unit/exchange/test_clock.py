"""The clock of the machine is set while a request runs."""

import time

import pytest
from msgspec import structs

from tests.support.harness import FakeResponse
from tests.support.tool_loop import Script, proxy, reply, text


@pytest.mark.parametrize("hours", [-2, 9_600])
async def test_a_change_of_the_clock_changes_no_duration(hours: int) -> None:
    moved = 0.0

    class Moving(Script):
        def __call__(self, *arguments: object) -> FakeResponse:
            nonlocal moved
            moved = hours * 3600.0
            return super().__call__(*arguments)  # type: ignore[arg-type]

    harness = proxy(Moving(reply(text("So."))))
    harness.services = structs.replace(harness.services, clock=lambda: time.time() + moved)
    before = time.monotonic()
    receipt = (await harness.post()).receipt
    passed = time.monotonic() - before
    (attempt,) = receipt.attempts
    times = [receipt.duration_seconds, receipt.first_token_seconds, attempt.offset_seconds, attempt.duration_seconds]
    assert all(seconds is not None and 0 <= seconds <= passed for seconds in times)
    assert all(0 <= at - receipt.started_at <= passed for _, _, at, _ in receipt.blocks)
