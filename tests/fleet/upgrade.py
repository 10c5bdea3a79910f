"""A rolling upgrade: an instance of an earlier commit and one of this code on one PostgreSQL and one Redis.

The earlier instance creates the tables. The other one starts under load, migrates them, and both serve requests. Then
the earlier instance stops. The ledger and a budget that both count are compared with the token counts of the providers.
"""

import asyncio
import subprocess
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from bench.pair import checked_out, find_python
from tests.fleet.clients import Crowd
from tests.fleet.limits import Limits, create_key
from tests.fleet.outages import CLIENTS, FLUSH_SECONDS, judge
from tests.fleet.programs import Version
from tests.fleet.setup import Fleet, running_fleet
from tests.support.paths import ROOT

BUDGET_TOKENS = 15_000
MIGRATIONS = "anthropic_proxy/console/ledger/migrations.py"
_STEP = '^    "00'
"""Beginning of a line with a migration."""


class Upgrade:
    """One run. `revision`: commit of the earlier instance; "": the newest one before the latest migration."""

    def __init__(self, seconds: float, revision: str) -> None:
        self._seconds = seconds
        self._revision = revision or f"{_git('log', '-1', f'-G{_STEP}', '--format=%H', '--', MIGRATIONS)}^"
        self.problems: list[str] = []

    def run(self) -> None:
        print(f"from {_git('log', '-1', '--format=%h %s', self._revision)}", flush=True)
        with tempfile.TemporaryDirectory(prefix="upgrade-") as folder, checked_out(self._revision, Path(folder)) as old:
            version = Version(old, find_python(old))
            with running_fleet(2, {"VIRTUAL_KEYS": "true"}, first=version) as fleet:
                self._upgrade(fleet, version)

    def _upgrade(self, fleet: Fleet, version: Version) -> None:
        before, after = fleet.instances
        key = create_key(fleet, [before], version=version)
        crowd = Crowd(fleet.url, 1, {"x-api-key": key})
        asyncio.run(self._work(crowd, fleet))
        after.stop()
        self.problems += judge(crowd, fleet, {})
        served = Counter(result.instance for result in crowd.results if result.kind == "complete")
        counts = [served[instance.address] for instance in fleet.instances]
        print(f"complete replies: {counts[0]:,} of the earlier instance, {counts[1]:,} of this code")
        if not all(counts):
            self.problems.append(f"an instance served nothing: {counts}")

    async def _work(self, crowd: Crowd, fleet: Fleet) -> None:
        before, after = fleet.instances
        work, limits = asyncio.create_task(crowd.work(CLIENTS)), Limits(0, 0)
        await asyncio.sleep(self._seconds / 3)
        print(f"{len(crowd.results):,} requests: an instance of this code starts", flush=True)
        after.start()
        await asyncio.to_thread(after.wait_until_ready)
        await asyncio.sleep(self._seconds / 3)
        test_budget = partial(limits.test_budget, is_used_up=False)
        await asyncio.to_thread(test_budget, fleet, "a budget on both", BUDGET_TOKENS)
        print(f"{len(crowd.results):,} requests: the earlier instance stops", flush=True)
        await asyncio.to_thread(before.stop)
        await asyncio.sleep(self._seconds / 3)
        crowd.stop()
        async with asyncio.timeout(120):
            await work
        await asyncio.to_thread(time.sleep, FLUSH_SECONDS)
        self.problems += limits.problems


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()
