"""Limits of virtual keys on several instances: a budget and a rate, also while Redis is stopped, and a budget without
Redis, also while PostgreSQL is stopped.
"""

import asyncio
import time
from collections.abc import Sequence
from itertools import count

import httpx2 as httpx
from msgspec import Struct

from tests.fleet.accounts import read_journals
from tests.fleet.clients import send_once
from tests.fleet.programs import THIS_VERSION, Instance, Version
from tests.fleet.setup import Fleet, running_fleet
from tests.support.waiting import WAIT_SECONDS, wait_for

INSTANCES = 4
CLIENTS = 200
BUDGET_TOKENS = 60_000
LARGE_BUDGET_TOKENS = 400_000
"""Budget that lasts longer than an interruption of Redis."""
MAX_TOKENS = 300
REQUESTS_PER_MINUTE = 600
RATE_CLIENTS = 24
TOLERANCE = 0.01
"""Allowed deviation of a rate."""
_POLL_SECONDS = 0.2
_RUN_SECONDS = 120.0
"""Maximum time to use up a budget."""
_numbers = count(500_000)
"""Numbers of sessions, above those of `tests.fleet.clients`."""


class Reply(Struct, frozen=True):
    """One reply to a client."""

    session: str
    started_at: float
    """Monotonic seconds."""
    ended_at: float
    status: int


class Limits:
    """One run. `seconds`: duration of each rate test, at least a minute. `outage_seconds`: time without Redis."""

    def __init__(self, seconds: float, outage_seconds: float) -> None:
        self._seconds = seconds
        self._outage_seconds = outage_seconds
        self.problems: list[str] = []

    def run(self) -> None:
        """Test a budget without Redis; a budget and a rate with Redis; then both with an interruption of Redis for each
        policy.
        """
        with running_fleet(INSTANCES, {"VIRTUAL_KEYS": "true", "REDIS_URL": ""}) as fleet:
            self.test_budget(fleet, "budget without Redis", BUDGET_TOKENS)
            self.test_budget(fleet, "PostgreSQL stopped", LARGE_BUDGET_TOKENS, self._outage_seconds)
        with running_fleet(INSTANCES, {"VIRTUAL_KEYS": "true"}) as fleet:
            self.test_budget(fleet, "budget", BUDGET_TOKENS)
            self.test_budget(fleet, "budget for a model", BUDGET_TOKENS // 2, models=" for openai/gpt-4.1-m*")
            self._test_rate(fleet, "rate")
            self._test_with_outage(fleet, "Redis stopped, REDIS_FAILURE=open")
        with running_fleet(INSTANCES, {"VIRTUAL_KEYS": "true", "REDIS_FAILURE": "closed"}) as fleet:
            self._test_with_outage(fleet, "Redis stopped, REDIS_FAILURE=closed")

    def _test_with_outage(self, fleet: Fleet, title: str) -> None:
        self.test_budget(fleet, title, LARGE_BUDGET_TOKENS, self._outage_seconds)
        self._test_rate(fleet, title, self._outage_seconds)

    def test_budget(
        self,
        fleet: Fleet,
        title: str,
        budget: int,
        outage_seconds: float = 0,
        *,
        is_used_up: bool = True,
        models: str = "",
    ) -> None:
        """Let many clients use up a budget at once, and compare it with the tokens that the providers sent.

        `is_used_up`: False: an earlier version may leave a remainder. `models`: end of the text of the budget.
        """
        key = create_key(fleet, fleet.instances, "--budget", f"{budget}tokens/total{models}")
        replies = asyncio.run(_send_until(fleet, key, CLIENTS, _RUN_SECONDS, outage_seconds, ends_at_budget=True))
        sessions = {reply.session for reply in replies}
        sent = read_journals([provider.journal.exchanges for provider in fleet.providers])
        used = [tokens.input + tokens.output for session, tokens in sent.items() if session in sessions]
        spent, in_flight = sum(used), CLIENTS * (max(used, default=0) + MAX_TOKENS)
        kinds = {status: sum(reply.status == status for reply in replies) for status in (200, 429, 529)}
        print(f"{title}: {spent:,} tokens of {budget:,}; replies by status: {kinds}", flush=True)
        if spent > budget + in_flight:
            self.problems.append(f"{title}: {spent} tokens exceed the budget and the amount in flight, {in_flight}")
        minimum = budget - MAX_TOKENS if is_used_up else 0
        if not outage_seconds and not minimum < spent < budget + MAX_TOKENS:
            self.problems.append(f"{title}: {spent} tokens differ by more than one request from {budget}")
        if unexpected := {reply.status for reply in replies} - {200, 429, 529}:
            self.problems.append(f"{title}: unexpected statuses {unexpected}")

    def _test_rate(self, fleet: Fleet, title: str, outage_seconds: float = 0) -> None:
        """Let clients send as fast as they can, and count the admitted requests.

        With `REDIS_FAILURE=closed` the proxy rejects requests while Redis is stopped: the count may then be smaller.
        """
        _wait_for_redis(fleet)
        key = create_key(fleet, fleet.instances, "--rpm", str(REQUESTS_PER_MINUTE))
        replies = asyncio.run(
            _send_until(fleet, key, RATE_CLIENTS, self._seconds, outage_seconds, ends_at_budget=False)
        )
        admitted = sorted(reply.ended_at for reply in replies if reply.status == 200)
        latency = max(reply.ended_at - reply.started_at for reply in replies)
        window = 60.0 - latency  # requests were admitted at some time between their start and their end
        maximum = _count_in_window(admitted, window)
        minutes = int(self._seconds // 60)
        print(
            f"{title}: {len(admitted):,} of {len(replies):,} requests in {self._seconds:g} s; "
            f"at most {maximum} in {window:.1f} s, limit {REQUESTS_PER_MINUTE} in 60 s",
            flush=True,
        )
        # without Redis, instances know results of different times: requests of these moments come on top
        excess = RATE_CLIENTS if outage_seconds else REQUESTS_PER_MINUTE * TOLERANCE
        if maximum > REQUESTS_PER_MINUTE + excess:
            self.problems.append(f"{title}: {maximum} requests in {window:.1f} s")
        served_seconds = 60 * minutes - (outage_seconds if fleet.settings.get("REDIS_FAILURE") == "closed" else 0)
        if len(admitted) < REQUESTS_PER_MINUTE / 60 * served_seconds * (1 - TOLERANCE):
            self.problems.append(f"{title}: only {len(admitted)} requests in {self._seconds:g} s")


def create_key(fleet: Fleet, instances: Sequence[Instance], *options: str, version: Version = THIS_VERSION) -> str:
    """Create a virtual key by a version of the program, and wait until some instances accept it."""
    key = fleet.run_command("keys", "create", f"client-{next(_numbers)}", *options, version=version)
    headers = {"x-api-key": key}
    for instance in instances:
        url = f"http://{instance.address}/v1/models"
        wait_for(lambda url=url: send_once("GET", url, headers=headers), lambda reply: reply.status_code == 200)
    return key


def _wait_for_redis(fleet: Fleet) -> None:
    """Wait until no instance keeps to its share any longer after an earlier interruption."""
    for instance in fleet.instances:
        wait_for(
            lambda url=f"http://{instance.address}/health": send_once("GET", url).json(),
            lambda health: health["redis"]["available"],
        )


def _count_in_window(times: Sequence[float], seconds: float) -> int:
    maximum = start = 0
    for end, time_ in enumerate(times):
        while times[start] <= time_ - seconds:
            start += 1
        maximum = max(maximum, end - start + 1)
    return maximum


async def _send_until(
    fleet: Fleet, key: str, clients: int, seconds: float, outage_seconds: float, *, ends_at_budget: bool
) -> list[Reply]:
    """Send requests with several clients for some time, also after rejections. Return all replies.

    `outage_seconds`: duration for which the server that counts the limits is stopped, one second after the start.
    `ends_at_budget`: True if a client ends when the proxy replies that the budget is used up.
    """
    replies: list[Reply] = []
    deadline = time.monotonic() + seconds

    async def work(client: httpx.AsyncClient) -> None:
        while time.monotonic() < deadline:
            response = await _send(client, replies)
            if ends_at_budget and response.headers.get("x-should-retry") == "false":
                return
            if response.status_code != 200:
                await asyncio.sleep(_POLL_SECONDS)

    async with _new_client(fleet, key, clients) as client:
        tasks = [asyncio.create_task(work(client)) for _ in range(clients)]
        if outage_seconds:
            server = fleet.redis if fleet.settings["REDIS_URL"] else fleet.postgres
            await asyncio.sleep(1)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(outage_seconds)
            await asyncio.to_thread(server.start)
        await asyncio.gather(*tasks)
    return replies


def _new_client(fleet: Fleet, key: str, connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    headers = {"x-api-key": key}
    return httpx.AsyncClient(base_url=fleet.url, timeout=WAIT_SECONDS, trust_env=False, limits=limits, headers=headers)


async def _send(client: httpx.AsyncClient, replies: list[Reply]) -> httpx.Response:
    """Send a short request, and note its reply."""
    session = f"job-{next(_numbers):06d}"
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": MAX_TOKENS,
        "system": f"This is {session}.",
        "messages": [{"role": "user", "content": "Count to 40"}],
    }
    started_at = time.monotonic()
    response = await client.post("/v1/messages", json=body)
    replies.append(Reply(session, started_at, time.monotonic(), response.status_code))
    return response
