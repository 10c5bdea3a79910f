"""Outages under load: an instance is killed, another is replaced, Redis and PostgreSQL restart."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping

from tests.fleet.accounts import compare, count_missing, read_journals, read_ledger
from tests.fleet.clients import Crowd, describe
from tests.fleet.setup import Fleet, running_fleet
from tests.support.machine_pauses import unpaused_time

CLIENTS = 24
FLUSH_SECONDS = 3.0
"""Time after the last reply in which the writers store their last rows."""
LOST_SECONDS = 1.5
"""Rows of a killed instance that ended so long before the kill must be stored."""


class Outages:
    """One run."""

    def __init__(self, seconds: float, instances: int, seed: int) -> None:
        self._seconds = seconds
        self._count = instances
        self._seed = seed
        self.problems: list[str] = []
        self._kills: dict[str, float] = {}
        """Address of a killed instance → time of the kill (`unpaused_time`)."""

    def run(self) -> None:
        """Send requests through all outages, and compare the results with the ledger and the providers."""
        print(f"seed {self._seed}, {self._seconds:g} s, {self._count} instances, {CLIENTS} clients", flush=True)
        with running_fleet(self._count, {}) as fleet:
            crowd = Crowd(fleet.url, self._seed, {})
            asyncio.run(self._work(crowd, fleet))
            time.sleep(FLUSH_SECONDS)
            for instance in fleet.instances:
                instance.stop()
            self.problems += judge(crowd, fleet, self._kills)

    def _schedule(self, fleet: Fleet) -> list[tuple[str, Callable[[], None]]]:
        """Return the outages, in order and at equal intervals."""
        instances, redis, postgres = fleet.instances, fleet.redis, fleet.postgres

        def kill() -> None:
            self._kills[instances[1].address] = unpaused_time()
            instances[1].stop(signal.SIGKILL)

        def replace() -> None:
            instances[0].stop()
            instances[0].start()

        def restart_redis() -> None:
            redis.stop()
            redis.start()

        return [
            ("an instance is killed", kill),
            ("it starts again", instances[1].start),
            ("Redis restarts", restart_redis),
            ("PostgreSQL stops", postgres.stop),
            ("it starts again", postgres.start),
            ("an instance is replaced", replace),
        ]

    async def _work(self, crowd: Crowd, fleet: Fleet) -> None:
        work, schedule = asyncio.create_task(crowd.work(CLIENTS)), self._schedule(fleet)
        for instance in fleet.instances:
            await asyncio.to_thread(instance.wait_until_stored)
        for name, change in schedule:
            await asyncio.sleep(self._seconds / (len(schedule) + 1))
            print(f"{len(crowd.results):,} requests: {name}", flush=True)
            await asyncio.to_thread(change)
        await asyncio.sleep(self._seconds / (len(schedule) + 1))
        crowd.stop()
        async with asyncio.timeout(120):
            await work


def judge(crowd: Crowd, fleet: Fleet, kills: Mapping[str, float]) -> list[str]:
    """Compare the results of clients with the ledger and the providers. Return the differences, one line each.

    `kills`: address of a killed instance → time of the kill (`unpaused_time`).
    """
    print(f"{len(crowd.results):,} requests: {describe(crowd.results)}")
    ledger = read_ledger(fleet.postgres.url)
    sent = read_journals([provider.journal.exchanges for provider in fleet.providers])
    excused = {
        result.session
        for result in crowd.results
        if (killed_at := kills.get(result.instance)) and result.ended_at - killed_at > -LOST_SECONDS
    }
    problems = compare(crowd.results, sent, ledger, excused)
    print(f"the ledger has {len(ledger.rows):,} requests with {ledger.total}; without a row:")
    print(f"  {dict(count_missing(crowd.results, ledger))}")
    for result in crowd.results:
        if result.kind in ("complete", "cancelled") or (result.fails and result.kind.startswith("status")):
            continue
        if any(abs(result.ended_at - killed_at) < LOST_SECONDS for killed_at in kills.values()):
            continue
        problems.append(f"{result.session}: {result.kind} {result.detail}")
    for provider in fleet.providers:
        problems += map(str, provider.journal.violations())
    for instance in fleet.instances:
        log = instance.log_file.read_text("utf-8")
        if "Traceback" in log:
            problems.append(log[log.find("Traceback") - 300 :][:3_000])
    return problems
