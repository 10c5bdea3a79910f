"""Several workers are one server: their counts are added, and facts learned by one are known to the others."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web

from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.platform_marks import HAS_SIGHUP, KILL, needs_job_control
from tests.support.process_checks import (
    MESSAGES,
    METRICS,
    ask,
    children_of,
    clients_of,
    port_of,
    serve,
    total,
    workers_of,
)
from tests.support.raw_http import exchange, post, read_answer
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

REPLY = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
TEMPERATURE = {
    "message": "Unsupported parameter: 'temperature'",
    "param": "temperature",
    "code": "unsupported_parameter",
}
SERVERS = pytest.mark.parametrize(
    ("option", "count"), [(("--workers", "2"), 2), (("--reload",), 1)], ids=["workers", "reload of code"]
)
"""Options of `serve` that start worker processes, with the number of workers."""
SPENT, FRESH = "sk-spent-0123456789abcdef", "sk-fresh-0123456789abcdef"


class Refusing:
    """A provider that takes no temperature, and with one spent key among its keys."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        """The statuses that it answered, in order."""

    async def answer(self, request: web.Request, raw: bytes, _: RequestLog) -> web.Response:
        refused = "temperature" in json.loads(raw)
        spent = request.headers["authorization"].endswith(SPENT)
        self.statuses.append(status := 429 if spent else 400 if refused else 200)
        content: dict[str, Any] = (
            REPLY if status == 200 else {"error": TEMPERATURE if refused else {"message": "spent"}}
        )
        return web.json_response(content, status=status, headers={"retry-after": "600"} if spent else {})

    @contextmanager
    def serving(self) -> Iterator[dict[str, str]]:
        with serving(new_application(self.answer, RequestLog())) as running:
            yield {"OPENAI_API_KEY": FRESH, "OPENAI_BASE_URL": f"{running.url}/v1", "PREFERRED_PROVIDER": "openai"}


def end(proxy: Proxy, worker: int, sign: int) -> None:
    """End a worker, and wait until another one has taken its place."""
    os.kill(worker, sign)
    wait_for(lambda: worker not in (now := workers_of(proxy)) and len(now) == 2)


def ask_often(client: httpx.Client, times: int, **fields: Any) -> None:
    for _ in range(times):
        assert client.post(MESSAGES, json=ask("Say exactly: counted", **fields)).status_code == 200


def read_all(client: httpx.Client) -> httpx.Response:
    """Return a page for which every worker has counted: on a busy machine one may not get round to it in time."""
    return wait_for(lambda: client.get(METRICS), lambda page: total(page, "anthropic_proxy_workers_unresponsive") == 0)


def counted(client: httpx.Client, **labels: str) -> float:
    return total(read_all(client), "anthropic_proxy_requests_total", **labels)


def test_every_worker_reports_the_counts_of_all(openai: Running, settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, settings, serve(2)) as proxy:
        clients = clients_of(proxy)
        for times, client in enumerate(clients.values(), 3):
            ask_often(client, times)
            ask_often(client, times, stream=True)
        for client in clients.values():
            page = read_all(client)
            assert total(page, "anthropic_proxy_requests_total") == 14
            assert total(page, "anthropic_proxy_request_duration_seconds_count", stream="true") == 7
            assert total(page, "anthropic_proxy_workers") == 2
            assert total(page, "anthropic_proxy_requests_in_flight") == 0


def test_what_a_worker_has_counted_outlives_it(openai: Running, settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, settings, serve(2)) as proxy:
        (stopped, first), (killed, second) = clients_of(proxy).items()
        ask_often(second, 3)
        ask_often(first, 4)
        end(proxy, stopped, signal.SIGTERM)  # it has had no time to report but at its end
        assert counted(second) == 7
        spent = total(read_all(second), "process_cpu_seconds_total")
        end(proxy, killed, KILL)
        if HAS_SIGHUP:
            proxy.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "Settings reloaded" in proxy.log)
        for times, client in enumerate(clients_of(proxy).values(), 1):
            ask_often(client, 1)
            assert counted(client, status="200", outcome="end_turn") == 7 + times
            assert total(read_all(client), "process_cpu_seconds_total") >= spent


@needs_job_control
def test_a_worker_that_does_not_answer_holds_up_nobody(
    openai: Running, settings: dict[str, str], tmp_path: Path
) -> None:
    unwatched = {**settings, "PYTHONASYNCIODEBUG": ""}  # whatever the worker is at when it is stopped takes too long
    with running_proxy(tmp_path, unwatched, serve(2)) as proxy:
        (worker, client), (_, other) = clients_of(proxy).items()
        ask_often(client, 2)
        assert counted(other) == 2
        os.kill(worker, signal.SIGSTOP)
        try:
            page = other.get(METRICS)
            assert total(page, "anthropic_proxy_workers_unresponsive") == 1
            assert total(page, "anthropic_proxy_requests_total") == 2
        finally:
            os.kill(worker, signal.SIGCONT)
        ask_often(client, 1)
        assert counted(client) == counted(other) == 3


def test_what_one_worker_learns_spares_the_others_their_failures(tmp_path: Path) -> None:
    provider = Refusing()
    with provider.serving() as settings, running_proxy(tmp_path, settings, serve(2)) as proxy:
        clients = clients_of(proxy)
        for client in clients.values():
            ask_often(client, 1, temperature=0.5)
            read_all(client)  # whatever was learned before a count, all know after it
        assert provider.statuses == [400, 200, 200]
        end(proxy, next(iter(clients)), KILL)
        for client in clients_of(proxy).values():
            ask_often(client, 1, temperature=0.5)
        assert provider.statuses == [400, 200, 200, 200, 200], "also who is started later"


def test_a_key_that_one_worker_found_spent_rests_for_all(tmp_path: Path) -> None:
    provider = Refusing()
    with provider.serving() as settings:
        keys = {**settings, "OPENAI_API_KEY": f"{SPENT},{FRESH}"}
        with running_proxy(tmp_path, keys, serve(2)) as proxy:
            for client in clients_of(proxy).values():
                ask_often(client, 3)
                assert total(read_all(client), "anthropic_proxy_keys_in_cooldown") == 1
    assert provider.statuses == [429, 200, 200, 200, 200, 200, 200]


async def test_the_limit_of_calls_holds_for_all_workers_together(tmp_path: Path) -> None:
    active_calls, max_active = 0, 0

    async def answer(*_: object) -> web.Response:
        nonlocal active_calls, max_active
        active_calls += 1
        max_active = max(max_active, active_calls)
        await asyncio.sleep(0.05)
        active_calls -= 1
        return web.json_response(REPLY)

    with serving(new_application(answer, RequestLog())) as running:
        settings = {"OPENAI_API_KEY": FRESH, "OPENAI_BASE_URL": f"{running.url}/v1", "MAX_UPSTREAM_CALLS": "2"}
        with running_proxy(tmp_path, settings, serve(2)) as proxy:
            request = post(MESSAGES, ask("hello"), {"Connection": "close"})
            received = await asyncio.gather(*(exchange(port_of(proxy), request) for _ in range(12)))
            assert "MAX_UPSTREAM_CALLS=2: at most 1 at once in each worker." in proxy.log
    assert {read_answer(answer).status for answer in received} <= {200, 529}
    assert max_active <= 2


@SERVERS
def test_workers_import_nothing_from_the_current_directory(
    option: tuple[str, ...], count: int, settings: dict[str, str], tmp_path: Path
) -> None:
    """Started like the installed command: the directory of the command is the first in the module search path."""
    command = tmp_path / "bin" / "anthropic-proxy.py"
    command.parent.mkdir()
    command.write_text("from anthropic_proxy.__main__ import main\nif __name__ == '__main__':\n    main()\n")
    current = tmp_path / "current"
    current.mkdir()
    (current / "multiprocessing.py").write_text("print('imported from the current directory', flush=True)\n")
    with running_proxy(current, settings, (str(command), "serve", *option)) as proxy:
        wait_for(lambda: len(children_of(proxy.process.pid)) >= count)
        assert proxy.client().get("/health").status_code == 200
        assert proxy.stop() == 0
    assert "imported from the current directory" not in proxy.log


@SERVERS
def test_a_key_command_of_a_worker_may_import_modules_beside_it(
    option: tuple[str, ...], count: int, settings: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sibling.py").write_text(f"KEY = '{settings['OPENAI_API_KEY']}'\n")
    (tmp_path / "key.py").write_text("import sibling\nprint(sibling.KEY)\n")
    (tmp_path / "anthropic-proxy.toml").write_text(
        f'[providers.vllm]\nbase_url = "{settings["OPENAI_BASE_URL"]}"\n'
        f"api_key = {{ command = {json.dumps([sys.executable, 'key.py'])} }}\n"
    )
    with running_proxy(tmp_path, settings, ("-m", "anthropic_proxy", "serve", *option)) as proxy:
        for client in clients_of(proxy, count).values():
            reply = client.post(MESSAGES, json=ask("Say exactly: hello", model="vllm/gpt-4.1"))
            assert reply.status_code == 200, reply.text
