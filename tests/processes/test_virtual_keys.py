"""Virtual keys on a server with several workers: budgets are shared, and a revocation reaches all of them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.secret_canaries import find_leaks
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for_async

CLIENTS = 200
BUDGET_TOKENS = 20_000
ADMIN = "admin-canary0123456789abcdef01234567"
TEXT = "Number 4711, item 0815; code 12345. " * 10
"""Text of which the estimate is higher than the count of the demo, so that only the last request exceeds a budget."""
ASKED = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": TEXT}]}


async def administer(session: aiohttp.ClientSession, path: str, body: object) -> Any:
    async with session.post(f"/admin/keys{path}", json=body, headers={"x-api-key": ADMIN}) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def use_up(session: aiohttp.ClientSession, key: str) -> tuple[int, int]:
    """Send requests until the budget is used up. Return the used tokens, and the highest number of one request."""
    used, highest = 0, 0
    while True:
        async with session.post("/v1/messages", json=ASKED, headers={"x-api-key": key}) as response:
            reply = await response.json()
            if response.status == 429 and response.headers.get("x-should-retry") == "false":
                assert reply["error"]["message"].startswith("The key 'ci' has used up its budget of 20,000 tokens")
                return used, highest
            if response.status == 200:
                tokens = reply["usage"]["input_tokens"] + reply["usage"]["output_tokens"]
                used, highest = used + tokens, max(highest, tokens)
        await asyncio.sleep(0)


@pytest.mark.slow
def test_clients_of_all_workers_share_a_budget_and_a_revocation(tmp_path: Path) -> None:
    settings = {
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "SERVE_DEMO": "true",
        "LOG_LEVEL": "error",
        "DATABASE_URL": f"sqlite:///{tmp_path}/keys.sqlite3",
    }
    with running_proxy(tmp_path, settings, ("-m", "anthropic_proxy", "serve", "--workers", "2")) as proxy:
        key = asyncio.run(asyncio.wait_for(use_keys(proxy), 2 * WAIT_SECONDS))
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert find_leaks(file.read_bytes(), [key, key[6:46]]) == [], file


async def use_keys(proxy: Proxy) -> str:
    """Use up the budget of a key by concurrent clients, revoke it, and return it."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(proxy.url, connector=connector) as session:
        budgets = [{"amount": BUDGET_TOKENS, "unit": "tokens", "period": "total"}]
        created = await administer(session, "", {"name": "ci", "budgets": budgets})
        key: str = created["key"]
        await wait_for_status(session, key, 200)
        results = await asyncio.gather(*(use_up(session, key) for _ in range(CLIENTS)))
        used, highest = sum(tokens for tokens, _ in results), max(tokens for _, tokens in results)
        assert BUDGET_TOKENS <= used <= BUDGET_TOKENS + highest
        await administer(session, f"/{created['id']}/revoke", {})
        await wait_for_status(session, key, 401)
        return key


async def wait_for_status(session: aiohttp.ClientSession, key: str, status: int) -> None:
    """Wait until all workers answer with a status: 20 new connections in a row."""

    async def request_statuses() -> list[tuple[int, str]]:
        replies = []
        for _ in range(20):
            headers = {"x-api-key": key, "connection": "close"}
            async with session.get("/v1/models", headers=headers) as response:
                replies.append((response.status, await response.text()))
                json.loads(replies[-1][1])
                if response.status != status:
                    break
        return replies

    await wait_for_async(request_statuses, lambda replies: [reply[0] for reply in replies] == [status] * 20)
