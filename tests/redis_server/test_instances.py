"""Two servers with one Redis know the facts of each other, also a later one, and after a restart of Redis."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.command_line import run_command
from tests.support.fakes.server import RequestLog, new_application, serving
from tests.support.process_checks import MESSAGES, METRICS, ask, total
from tests.support.redis import RedisServer, find_redis, running_redis
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for
from tests.support.webhook import running_webhook

pytestmark = pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")

REPLY = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
TEMPERATURE = {"message": "Unsupported parameter: 'temperature'", "code": "unsupported_parameter"}
SPENT, FRESH = "sk-spent-0123456789abcdef", "sk-fresh-0123456789abcdef"


class Provider:
    """A provider that accepts no temperature, has one spent key, and fails completely while `is_down`."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.is_down = False

    async def answer(self, request: web.Request, raw: bytes, _: RequestLog) -> web.Response:
        refused = "temperature" in json.loads(raw)
        spent = request.headers["authorization"].endswith(SPENT)
        self.statuses.append(status := 503 if self.is_down else 429 if spent else 400 if refused else 200)
        content: dict[str, Any] = (
            REPLY if status == 200 else {"error": TEMPERATURE if status == 400 else {"message": "no"}}
        )
        return web.json_response(content, status=status, headers={"retry-after": "600"} if spent else {})

    @contextmanager
    def serving(self) -> Iterator[dict[str, str]]:
        with serving(new_application(self.answer, RequestLog())) as running:
            yield {
                "OPENAI_API_KEY": f"{SPENT},{FRESH}",
                "OPENAI_BASE_URL": f"{running.url}/v1",
                "PREFERRED_PROVIDER": "openai",
            }


def wait_for_total(proxy: Proxy, name: str, expected: int) -> None:
    """Wait until a metric has a value."""
    client = proxy.client()
    wait_for(lambda: client.get(METRICS), lambda page: total(page, name) == expected)


def wait_for_shared(redis: RedisServer, fact: str) -> None:
    """Wait until a process has stored a fact for all others, which it does some time after it has learned it."""
    wait_for(lambda: redis.command("HVALS", "{anthropic-proxy}:observations:"), lambda stored: fact in stored)


def send(proxy: Proxy, **fields: Any) -> int:
    """Send a request and return the status."""
    return proxy.client().post(MESSAGES, json=ask("hello", **fields)).status_code


def read_circuits_after_failure(failing: Proxy, observed: Proxy) -> float:
    """Return the number of open circuits of a proxy after one more failure of another one, as a circuit soon ends."""
    assert send(failing) in {502, 503, 529}
    return total(observed.client().get(METRICS), "anthropic_proxy_open_circuits")


def folders(parent: Path) -> list[Path]:
    found = [parent / name for name in ("first", "second")]
    for folder in found:
        folder.mkdir()
    return found


def test_instances_share_the_calls_per_minute_of_a_provider(tmp_path: Path) -> None:
    provider, parents = Provider(), folders(tmp_path)
    with running_redis() as redis, provider.serving() as settings:
        shared = {**settings, "OPENAI_API_KEY": FRESH, "REDIS_URL": redis.url, "UPSTREAM_FIRST_BYTE_TIMEOUT": "60"}
        for folder in parents:
            (folder / "anthropic-proxy.toml").write_text("[providers.openai]\nrequests_per_minute = 5\n")
        with running_proxy(parents[0], shared) as first, running_proxy(parents[1], shared) as second:
            statuses = [send(proxy) for proxy in (first, second, first, first, second, first, second)]
    assert statuses == [200, 200, 200, 200, 200, 529, 529]
    assert provider.statuses == [200] * 5


def test_instances_share_facts_and_survive_a_restart_of_redis(tmp_path: Path) -> None:
    provider, (first, second) = Provider(), folders(tmp_path)
    with running_redis() as redis, provider.serving() as settings:
        shared = {**settings, "REDIS_URL": redis.url}
        with running_proxy(first, shared) as early:
            assert send(early, temperature=0.5) == 200
            assert provider.statuses == [429, 400, 200]
            for fact in ('"kind":"key"', "temperature"):
                wait_for_shared(redis, fact)
            with running_proxy(second, shared) as late:
                wait_for_total(late, "anthropic_proxy_keys_in_cooldown", 1)  # it has loaded all that was stored
                assert send(late, temperature=0.5) == 200
                assert provider.statuses == [429, 400, 200, 200], "neither the spent key nor the temperature is sent"
                wait_for_total(late, "anthropic_proxy_redis_up", 1)
                redis.kill()
                for proxy in (early, late):
                    wait_for_total(proxy, "anthropic_proxy_redis_up", 0)
                    assert proxy.client().get("/health").json()["redis"]["available"] is False
                    assert proxy.client().get("/readyz").json()["checks"] == {
                        "server": "ok",
                        "redis": "unavailable, limits are approximated",
                    }
                    wait_for(lambda proxy=proxy: f"Redis at 127.0.0.1:{redis.port} cannot be reached: " in proxy.log)
                    assert send(proxy) == 200
                redis.start()
                for proxy in (early, late):
                    wait_for_total(proxy, "anthropic_proxy_redis_up", 1)
                provider.is_down = True
                for proxy in (early, late):
                    wait_for(lambda proxy=proxy: read_circuits_after_failure(early, proxy), lambda count: count == 1)


def test_instances_send_one_report_about_a_budget(tmp_path: Path) -> None:
    parents = folders(tmp_path)
    with running_redis() as redis, running_webhook(503) as webhook:
        shared = {
            "SERVE_DEMO": "true",
            "VIRTUAL_KEYS": "true",
            "REDIS_URL": redis.url,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
        }
        for folder in parents:
            (folder / "anthropic-proxy.toml").write_text(f'[alerts]\nurl = "{webhook.url}"\n')
        budget = ("--budget", "100tokens/day soft")
        key = run_command("keys", "create", "ci", *budget, directory=parents[0], settings=shared).stdout.strip()
        with running_proxy(parents[0], shared) as first, running_proxy(parents[1], shared) as second:
            for proxy in (first, second) * 12:
                body = ask("hello", model="demo/demo")
                reply = proxy.client().post(MESSAGES, json=body, headers={"x-api-key": key})
                assert reply.status_code == 200, reply.text
            wait_for(lambda: sorted(one["threshold"] for one in webhook.accepted), lambda sent: sent == [80, 100])
            # another process may send a report before the one that has stored it writes its line
            wait_for(lambda: (first.log + second.log).count(" % of its budget"), lambda count: count >= 2)
            assert first.stop() == second.stop() == 0
            logs = first.log + second.log
    assert [logs.count(f"has used {share} % of its budget") for share in (80, 100)] == [1, 1]
    assert len(webhook.received) == 3
    assert len({one["id"] for one in webhook.received}) == 2
