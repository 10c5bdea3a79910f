"""A pause of the instances, while Redis runs, is no failure of Redis: limits stay exact, and no request is rejected."""

import asyncio
import signal
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.support.redis import find_redis, running_redis
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for_async

pytestmark = pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")

INSTANCES = 4
REQUESTS = 2_000
PER_MINUTE = 700
PAUSE_SECONDS = 1.3
"""Longer than the time in which Redis has to reply."""
ADMIN = "admin-canary0123456789abcdef01234567"
BODY = {"model": "demo/demo", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}


def test_a_pause_of_all_instances_during_a_burst_admits_exactly_the_limit(tmp_path: Path) -> None:
    with running_redis() as redis, ExitStack() as stack:
        settings = {
            "REDIS_URL": redis.url,
            "VIRTUAL_KEYS": "true",
            "ADMIN_API_KEY": ADMIN,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{tmp_path}/keys.sqlite3",
            "PYTHONASYNCIODEBUG": "",  # it would report the pause
        }
        instances = []
        for number in range(INSTANCES):
            folder = tmp_path / f"instance-{number}"
            folder.mkdir()
            failure = {"REDIS_FAILURE": ("open", "closed")[number % 2]}
            instances.append(stack.enter_context(running_proxy(folder, settings | failure)))
        statuses = asyncio.run(asyncio.wait_for(send_burst(instances), 2 * WAIT_SECONDS))
        warnings = [line for instance in instances for line in instance.log.splitlines() if "Redis at" in line]
    assert warnings == []
    assert statuses == {200: PER_MINUTE, 429: REQUESTS - PER_MINUTE}


async def send_burst(instances: list[Proxy]) -> Counter[int]:
    """Send all requests at once, and stop all instances after the first replies. Return the number of each status."""
    statuses: Counter[int] = Counter()
    has_replies = asyncio.Event()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=400)) as session:
        created = {"name": "burst", "requests_per_minute": PER_MINUTE}
        async with session.post(
            f"{instances[0].url}/admin/keys", json=created, headers={"x-api-key": ADMIN}
        ) as response:
            assert response.status == 200, await response.text()
            headers = {"x-api-key": (await response.json())["key"]}

        async def send(number: int) -> None:
            url = f"{instances[number % INSTANCES].url}/v1/messages"
            async with session.post(url, json=BODY, headers=headers) as response:
                await response.read()
                statuses[response.status] += 1
            if statuses.total() >= REQUESTS // 20:
                has_replies.set()

        async def request_status(url: str) -> int:
            async with session.get(f"{url}/v1/models", headers=headers) as response:
                return response.status

        for instance in instances:
            await wait_for_async(partial(request_status, instance.url), lambda status: status == 200)
        requests = asyncio.gather(*(send(number) for number in range(REQUESTS)))
        await has_replies.wait()
        for instance in instances:
            instance.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(PAUSE_SECONDS)
        for instance in instances:
            instance.process.send_signal(signal.SIGCONT)
        await requests
    return statuses
