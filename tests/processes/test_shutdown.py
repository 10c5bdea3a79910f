"""The server ends: no reply is torn, no process is left, and the exit status reports success."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.event_grammar import check_bytes
from tests.support.fakes.server import Running
from tests.support.platform_marks import KILL
from tests.support.process_checks import (
    MESSAGES,
    METRICS,
    ask,
    children_of,
    events_of,
    is_alive,
    is_refused,
    port_of,
    serve,
    total,
)
from tests.support.raw_http import Answer, exchange, post, read_answer
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for, wait_for_async

WORKERS = [1, 2]
SHORT, LONG, WHOLE, WAITING = (
    ask("Count to 30 [fault:stall seconds=1]", stream=True),
    ask("Count to 30 [fault:stall seconds=600]", stream=True),
    ask("Say exactly: never [fault:late seconds=600]"),
    ask("Say exactly: never [fault:late seconds=600]", stream=True),
)


async def answers_of(proxy: Proxy, *bodies: object) -> list[Answer]:
    received = await asyncio.gather(*(exchange(port_of(proxy), post(MESSAGES, body)) for body in bodies))
    return [read_answer(answer) for answer in received]


async def ask_amid(openai: Running, proxy: Proxy, sign: int, *bodies: object, times: int = 1) -> list[Answer]:
    """Send these requests at once, then the signal, and return the responses.

    At the signal, the provider has received all requests, and the clients have the text before each stall. The next
    signal is sent when the server has closed its socket because of the one before, and when each `SHORT` has ended.
    """
    before, port = len(openai.journal.exchanges), port_of(proxy)
    received = [bytearray() for _ in bodies]
    pairs = zip(bodies, received, strict=True)
    asking = asyncio.gather(*(exchange(port, post(MESSAGES, body), received=own) for body, own in pairs))
    await wait_for_async(lambda: len(openai.journal.exchanges) >= before + len(bodies))
    begun = [own for body, own in zip(bodies, received, strict=True) if body in (SHORT, LONG)]
    await wait_for_async(lambda: [bytes(own) for own in begun if b"text_delta" not in own], lambda missing: not missing)
    short = [own for body, own in zip(bodies, received, strict=True) if body is SHORT]
    for number in range(times):
        if number:
            await asyncio.to_thread(wait_for, lambda: is_refused(port))
            await wait_for_async(lambda: all(read_answer(bytes(own)).whole for own in short))
        proxy.process.send_signal(sign)
    return [read_answer(answer) for answer in await asking]


@pytest.mark.parametrize(("workers", "sign"), [(1, signal.SIGTERM), (2, signal.SIGTERM), (1, signal.SIGINT)])
async def test_a_signal_amid_100_replies_tears_none(
    openai: Running, settings: dict[str, str], tmp_path: Path, workers: int, sign: int
) -> None:
    with running_proxy(tmp_path, {**settings, "STOP_TIMEOUT": "3600"}, serve(workers)) as proxy:
        bodies = [SHORT] * 50 + [LONG] * 40 + [WHOLE] * 5 + [WAITING] * 5
        answers = await ask_amid(openai, proxy, sign, *bodies, times=2)
        assert await asyncio.to_thread(proxy.process.wait, WAIT_SECONDS) == 0
        log = proxy.log
    assert all(answer.whole for answer in answers)
    for answer in answers[:90]:
        assert answer.status == 200
        assert check_bytes(answer.body) == []
    assert {events_of(answer)[-1] for answer in answers[:50]} == {"message_stop"}
    assert {events_of(answer)[-1] for answer in answers[50:90]} == {"error"}
    assert all(b"text_delta" in answer.body for answer in answers[50:90])
    # a stream that waits for long begins with pings, so on a busy machine its end is an event
    begun = [answer for answer in answers[95:] if answer.status == 200]
    assert {events_of(answer)[-1] for answer in begun} <= {"error"}
    for answer in [each for each in answers[90:] if each not in begun]:
        assert answer.status == 503
        assert answer.json["type"] == "error"
        assert b"retry-after: 1\r\n" in answer.head
    assert "Traceback" not in log
    assert log.splitlines()[-1] == "Stopped."
    assert log.count("Stopped.") == 1


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(("stop_timeout", "times"), [("3600", 2), ("1", 1)], ids=["a second signal", "the timeout"])
async def test_the_end_of_the_stop_tears_nothing(
    openai: Running, settings: dict[str, str], tmp_path: Path, workers: int, stop_timeout: str, times: int
) -> None:
    with running_proxy(tmp_path, {**settings, "STOP_TIMEOUT": stop_timeout}, serve(workers)) as proxy:
        (answer,) = await ask_amid(openai, proxy, signal.SIGTERM, LONG, times=times)
        assert await asyncio.to_thread(proxy.process.wait, WAIT_SECONDS) == 0
    assert answer.whole
    assert check_bytes(answer.body) == []
    assert events_of(answer)[-1] == "error"


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
async def test_the_readiness_ends_before_the_server_refuses_connections(
    openai: Running, settings: dict[str, str], tmp_path: Path, workers: int
) -> None:
    """The order of a stop behind a load balancer: 503 at /readyz, requests still served, then the end."""
    with running_proxy(tmp_path, {**settings, "DRAIN_DELAY": "600", "STOP_TIMEOUT": "5"}, serve(workers)) as proxy:
        client = proxy.client()
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "checks": {"server": "ok"}})
        assert (client.get("/livez").json(), client.get("/version").json()["name"]) == (
            {"status": "ok"},
            "anthropic-proxy",
        )
        running = asyncio.create_task(asyncio.to_thread(client.post, MESSAGES, json=SHORT))
        await wait_for_async(lambda: len(openai.journal.exchanges) > 0)
        proxy.process.send_signal(signal.SIGTERM)
        assert "event: message_stop" in (await running).text
        await wait_for_async(lambda: proxy.client().get("/readyz").status_code == 503)
        draining = proxy.client().get("/readyz")
        assert draining.json() == {"status": "draining", "checks": {"server": "draining"}}
        assert (draining.headers["connection"], draining.headers["cache-control"]) == ("close", "no-store")
        assert proxy.client().get("/livez").status_code == 200
        (late,) = await answers_of(proxy, ask("Count to 3", stream=True))
        assert (late.status, events_of(late)[-1]) == (200, "message_stop")
        assert b"connection: close" in late.head
        proxy.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(proxy.process.wait, WAIT_SECONDS) == 0
    if workers == 1:
        assert "Stopping in 600 s (DRAIN_DELAY). Requests are accepted meanwhile; /readyz is 503." in proxy.log


@pytest.mark.parametrize("workers", WORKERS)
async def test_who_comes_while_it_stops_is_not_let_in(
    openai: Running, settings: dict[str, str], tmp_path: Path, workers: int
) -> None:
    with running_proxy(tmp_path, {**settings, "STOP_TIMEOUT": "3600"}, serve(workers)) as proxy:
        asking = asyncio.create_task(ask_amid(openai, proxy, signal.SIGTERM, LONG))
        await asyncio.to_thread(wait_for, lambda: is_refused(port_of(proxy)))
        assert not asking.done()
        proxy.process.send_signal(signal.SIGTERM)
        await asking


@pytest.mark.parametrize("workers", WORKERS)
async def test_who_had_come_before_the_signal_is_served(
    openai: Running, settings: dict[str, str], tmp_path: Path, workers: int
) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running_proxy(tmp_path, settings, serve(workers)) as proxy:
        clients = []
        for _ in range(150):
            client = socket.create_connection(("127.0.0.1", port_of(proxy)), timeout=WAIT_SECONDS)
            client.sendall(request)
            clients.append(client)
        proxy.process.send_signal(signal.SIGTERM)
        answers = [await asyncio.to_thread(client.recv, 15) for client in clients]
        for client in clients:
            client.close()
        assert await asyncio.to_thread(proxy.process.wait, WAIT_SECONDS) == 0
    assert answers == [b"HTTP/1.1 200 OK"] * len(clients)


@pytest.mark.parametrize(
    "command", [serve(3), ("-m", "anthropic_proxy", "serve", "--reload")], ids=["workers", "reload"]
)
def test_no_worker_outlives_the_process_in_front_of_it(
    settings: dict[str, str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    with running_proxy(tmp_path, settings, command) as proxy:
        workers = children_of(proxy.process.pid)
        assert workers
        proxy.process.kill()
        wait_for(lambda: not any(is_alive(worker) for worker in workers))


def test_a_worker_that_dies_is_replaced(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, settings, serve(2)) as proxy:
        wait_for(lambda: len(children_of(proxy.process.pid)) == 2)
        before = set(children_of(proxy.process.pid))
        for worker in before:
            os.kill(worker, KILL)
        wait_for(lambda: len(set(children_of(proxy.process.pid)) - before) == 2)
        assert proxy.client().get("/health").status_code == 200
        wait_for(lambda: proxy.log.count("ended by signal 9") == 2)
        assert proxy.stop() == 0


def test_a_signal_to_the_whole_group_is_one_signal(openai: Running, settings: dict[str, str], tmp_path: Path) -> None:
    """As a terminal sends SIGINT, and a service manager SIGTERM, to every process of a server."""
    with running_proxy(tmp_path, {**settings, "STOP_TIMEOUT": "20"}, serve(2)) as proxy:
        # a worker that does not serve yet ends at SIGINT, and is replaced
        wait_for(lambda: total(proxy.client().get(METRICS), "anthropic_proxy_workers") == 2)

        async def stop_all() -> list[Answer]:
            workers = children_of(proxy.process.pid)
            for worker in workers:
                os.kill(worker, signal.SIGINT)
            before = len(openai.journal.exchanges)
            asking = asyncio.create_task(answers_of(proxy, *[SHORT] * 6))
            await wait_for_async(lambda: len(openai.journal.exchanges) >= before + 6)
            for process in (proxy.process.pid, *workers):
                os.kill(process, signal.SIGTERM)
            return await asking

        answers = asyncio.run(stop_all())
        assert {events_of(answer)[-1] for answer in answers} == {"message_stop"}
        assert proxy.process.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize("module", ["server:app", "app.main:app"])
async def test_under_another_server_streams_end_properly_too(
    openai: Running, settings: dict[str, str], tmp_path: Path, module: str
) -> None:
    command = ("-m", "uvicorn", module, "--port", "{port}", "--timeout-graceful-shutdown", "1")
    with running_proxy(tmp_path, settings, command) as proxy:
        answers = await ask_amid(openai, proxy, signal.SIGTERM, LONG, WHOLE)
        await asyncio.to_thread(proxy.process.wait, WAIT_SECONDS)
        log = proxy.log
    assert [answer.whole for answer in answers] == [True, True]
    assert events_of(answers[0])[-1] == "error"
    assert answers[1].status == 503
    assert "Traceback" not in log
