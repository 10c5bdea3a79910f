"""Four processes with 200 tasks each reserve at the same time: never more than the maximum."""

import asyncio
import os
import subprocess
import sys

import pytest

from anthropic_proxy.plugins import Limit
from tests.support.paths import ROOT
from tests.support.redis import find_redis, running_redis
from tests.support.stores import REDIS_VARIABLE, Clock, open_store
from tests.support.waiting import WAIT_SECONDS

LIMITS = (
    Limit("rate", "rate", 1, 500, 600.0),
    Limit("streams", "concurrency", 1, 450),
    Limit("budget", "amount", 7, 7 * 430 + 6, 3600.0),
)


async def reserve_many(prefix: str) -> int:
    """Return the number of successful reservations of 200 concurrent tasks."""
    async with open_store("redis", Clock(), prefix) as store:
        done = await asyncio.gather(*(store.reserve(LIMITS) for _ in range(200)))
    return sum(each.is_held for each in done)


@pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")
def test_four_processes_never_reserve_more_than_the_maximum() -> None:
    with running_redis() as server:
        environment = {**os.environ, REDIS_VARIABLE: server.url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.redis_server.test_processes", "limits"]
        running = [subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)]
        counts = [int(process.communicate(timeout=WAIT_SECONDS)[0]) for process in running]
    assert sum(counts) == 430


if __name__ == "__main__":
    print(asyncio.run(reserve_many(sys.argv[1])))
