"""Clients of the fleet: mixed requests, each with a session of its own, and a record of each result."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import httpx2 as httpx
from msgspec import Struct

from tests.support.machine_pauses import unpaused_time
from tests.support.waiting import WAIT_SECONDS

INSTANCE_HEADER = "x-fleet-instance"
"""Response header of nginx with the address of the instance that replied."""
_CANCEL_SHARE = 0.1
_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
_FAULTS = ("rate after=0", "server", "overloaded", "reset", "gateway")
_PROMPTS = ("Count to {n}", "Say exactly: Über den Wolken ✓", "Search the web for brie")


def send_once(method: str, url: str, **options: Any) -> httpx.Response:
    """Send a request, and wait for its reply as long as for every state."""
    return httpx.request(method, url, trust_env=False, timeout=WAIT_SECONDS, **options)


class Result(Struct):
    """One client request and its end."""

    session: str
    """Session id that identifies the request in the journals of the providers and in the ledger."""
    started_at: float
    """Seconds of `unpaused_time`."""
    ended_at: float = 0.0
    kind: str = ""
    """`complete`, `cancelled` (by the client), `status 502`, `error event` or `broken`."""
    fails: bool = False
    """True if the providers fail this request on purpose, and the reply may be an error status."""
    instance: str = ""
    """Address of the instance. "": no response arrived."""
    detail: str = ""


class Crowd:
    """Clients that send requests until they are stopped. One seed gives one sequence of requests."""

    def __init__(self, url: str, seed: int, headers: dict[str, str]) -> None:
        self.results: list[Result] = []
        self._url = url
        self._headers = headers
        self._random = Random(seed)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End each client after its current request."""
        self._stopping.set()

    async def work(self, clients: int) -> None:
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(
            base_url=self._url, timeout=WAIT_SECONDS, trust_env=False, limits=limits, headers=self._headers
        ) as client:
            await asyncio.gather(*(self._send_until_stopped(client) for _ in range(clients)))

    async def _send_until_stopped(self, client: httpx.AsyncClient) -> None:
        while not self._stopping.is_set():
            result = Result(f"job-{len(self.results):06d}", unpaused_time())
            self.results.append(result)
            body = self._new_body(result.session)
            result.fails = "[fault:" in body["messages"][0]["content"]
            leaves = self._random.random() < _CANCEL_SHARE
            try:
                async with asyncio.timeout(self._random.choice((0.01, 0.05, 0.2)) if leaves else None):
                    await self._send(client, body, result)
            except TimeoutError:
                result.kind = "cancelled"
            except (httpx.HTTPError, OSError) as error:
                result.kind, result.detail = "broken", repr(error)
            result.ended_at = unpaused_time()

    def _new_body(self, session: str) -> dict[str, Any]:
        prompt = self._random.choice(_PROMPTS).format(n=self._random.choice((5, 60, 300)))
        if self._random.random() < 0.2:
            number = int(session.removeprefix("job-"))  # makes the fault of each request a different one
            prompt += f"\n[fault:{self._random.choice(_FAULTS)} times={self._random.choice((1, 1, 2))} job={number}]"
        tools = [_SEARCH] if "Search" in prompt else []
        return {
            "model": "claude-haiku-4-5",
            "max_tokens": 2_000,
            "stream": self._random.random() < 0.8,
            "system": f"This is {session}.",
            "messages": [{"role": "user", "content": prompt}],
            **({"tools": tools} if tools else {}),
        }

    async def _send(self, client: httpx.AsyncClient, body: dict[str, Any], result: Result) -> None:
        headers = {"x-claude-code-session-id": result.session}
        async with client.stream("POST", "/v1/messages", json=body, headers=headers) as response:
            result.instance = response.headers.get(INSTANCE_HEADER, "")
            received = await response.aread()
        if response.status_code != 200:
            result.kind, result.detail = f"status {response.status_code}", received[:300].decode("utf-8", "replace")
        elif b"event: error" in received:
            result.kind, result.detail = "error event", received[-300:].decode("utf-8", "replace")
        else:
            is_whole = not body["stream"] or b"event: message_stop" in received
            result.kind = "complete" if is_whole else "broken"


def describe(results: Sequence[Result]) -> str:
    """Return the number of results of each kind: `812 complete, 90 cancelled`."""
    kinds = sorted({result.kind for result in results})
    return ", ".join(f"{sum(result.kind == kind for result in results):,} {kind}" for kind in kinds)
