"""The throttle of one provider, `requests_per_minute` of `[providers.NAME]`, in virtual time."""

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest

from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.routing.call_limits import Throttle
from anthropic_proxy.errors import ProxyBusy
from anthropic_proxy.gateway.services import open_services, reserve_call
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from tests.support.http_server import Server, serving
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_within_any_minute_only_so_many_calls_start_in_order() -> None:
    throttle, started, loop = Throttle("openai", 3, 600), list[tuple[int, float]](), asyncio.get_running_loop()

    async def call(number: int) -> None:
        await asyncio.sleep(number)
        await throttle.wait("ann")
        started.append((number, loop.time()))

    await asyncio.gather(*(call(number) for number in range(8)))
    assert [(number, round(at)) for number, at in started] == [
        *((0, 0), (1, 1), (2, 2)),
        *((3, 60), (4, 61), (5, 62)),
        *((6, 120), (7, 121)),
    ]


@in_virtual_time
async def test_clients_have_turns() -> None:
    throttle, started, loop = Throttle("openai", 1, 600), list[str](), asyncio.get_running_loop()

    async def call(name: str) -> None:
        await throttle.wait(name[:3], name[3:4])
        started.append(f"{name} {round(loop.time())}")

    tasks = []
    for name in ("ann", "annx1", "annx2", "annx3", "anny4", "bob5", "bob6"):
        tasks.append(asyncio.create_task(call(name)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert started == ["ann 0", "annx1 60", "annx2 120", "bob5 180", "anny4 240", "bob6 300", "annx3 360"]


@in_virtual_time
async def test_one_client_with_many_calls_refuses_none_of_another() -> None:
    throttle, loop = Throttle("openai", 1, 190), asyncio.get_running_loop()
    await throttle.wait("ann")
    waiting = [asyncio.create_task(throttle.wait("ann")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(ProxyBusy) as raised:
        await throttle.wait("ann")
    assert raised.value.retry_after == 50.0
    await throttle.wait("bob")
    assert round(loop.time()) == 180
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [type(None), type(None), ProxyBusy]
    assert round(loop.time()) == 180


@in_virtual_time
async def test_a_cancelled_call_gives_its_place_to_the_next_one() -> None:
    throttle, loop = Throttle("openai", 1, 600), asyncio.get_running_loop()
    await throttle.wait("ann")
    first, second = asyncio.create_task(throttle.wait("ann")), asyncio.create_task(throttle.wait("ann"))
    await asyncio.sleep(5)
    first.cancel()
    await second
    assert (first.cancelled(), round(loop.time())) == (True, 60)


@in_virtual_time
async def test_a_call_that_would_wait_too_long_is_rejected_at_once() -> None:
    throttle, loop = Throttle("openai", 2, 100), asyncio.get_running_loop()
    await throttle.wait("ann")
    await asyncio.sleep(10)
    await throttle.wait("ann")
    waiting = [asyncio.create_task(throttle.wait("ann")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ProxyBusy) as raised:  # it would start at 120 s
        await throttle.wait("ann")
    assert raised.value.message == (
        "The calls per minute to openai are limited to 2 (requests_per_minute of [providers.openai]), and 2 calls are "
        "already queued. Try again later."
    )
    assert (raised.value.status, raised.value.code, raised.value.retry_after) == (529, "provider-throttle", 10.0)
    await asyncio.gather(*waiting)
    assert round(loop.time()) == 70


@in_virtual_time
async def test_processes_with_a_common_store_have_one_limit() -> None:
    loop, started = asyncio.get_running_loop(), list[float]()
    store = MemoryStore(clock=loop.time)
    throttles = [Throttle("openai", 3, 600, partial(reserve_call, store)) for _ in range(4)]

    async def call(throttle: Throttle) -> None:
        await throttle.wait("ann")
        started.append(loop.time())

    await asyncio.gather(*(call(throttle) for throttle in throttles * 2))
    assert [round(at / 60) for at in started] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert all(later - earlier >= 60 for earlier, later in zip(started, started[3:], strict=False))


@in_virtual_time
async def test_a_call_that_others_hold_up_for_too_long_is_rejected() -> None:
    reserve = partial(reserve_call, MemoryStore(clock=asyncio.get_running_loop().time))
    first, second = Throttle("openai", 1, 20, reserve), Throttle("openai", 1, 20, reserve)
    await first.wait("ann")
    with pytest.raises(ProxyBusy) as raised:
        await second.wait("ann")
    assert (raised.value.message, round(raised.value.retry_after or 0)) == (
        "The calls per minute to openai are limited to 1 (requests_per_minute of [providers.openai]). Try again later.",
        60,
    )


@in_virtual_time
async def test_a_call_has_a_shorter_limit_of_its_own() -> None:
    throttle, loop = Throttle("openai", 1, 600), asyncio.get_running_loop()
    await throttle.wait("ann", max_seconds=5)
    await asyncio.sleep(54)
    with pytest.raises(ProxyBusy) as raised:
        await throttle.wait("ann", max_seconds=5)
    assert raised.value.retry_after == 1.0
    await asyncio.sleep(1)
    await throttle.wait("ann", max_seconds=5)
    assert round(loop.time()) == 60


@in_virtual_time
async def test_a_call_has_no_longer_limit_than_the_throttle() -> None:
    throttle = Throttle("openai", 1, 30)
    await throttle.wait("ann")
    with pytest.raises(ProxyBusy) as raised:
        await throttle.wait("ann", max_seconds=600)
    assert (raised.value.retry_after, asyncio.get_running_loop().time()) == (30, 0)


@in_virtual_time
async def test_a_call_does_not_join_a_queue_that_other_processes_hold_up() -> None:
    reserve = partial(reserve_call, MemoryStore(clock=asyncio.get_running_loop().time))
    first, second = Throttle("openai", 1, 600, reserve), Throttle("openai", 1, 600, reserve)
    await first.wait("ann")
    waiting = asyncio.create_task(second.wait("ann"))
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ProxyBusy):
        await second.wait("ann", max_seconds=5)
    assert asyncio.get_running_loop().time() == began
    await waiting


@in_virtual_time
@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("max_seconds", [None, 5])
async def test_calls_at_once_beyond_the_limit_are_rejected_at_once(is_shared: bool, max_seconds: float | None) -> None:
    loop = asyncio.get_running_loop()
    store = MemoryStore(clock=loop.time)

    async def reserve(name: str, limit: int) -> float:
        await asyncio.sleep(0.001)  # the store is in another process
        return await reserve_call(store, name, limit)

    throttle = Throttle("openai", 10, 20, reserve if is_shared else None)
    calls = await asyncio.gather(
        *(throttle.wait("ann", max_seconds=max_seconds) for _ in range(14)), return_exceptions=True
    )
    assert [type(call) for call in calls] == [type(None)] * 10 + [ProxyBusy] * 4
    assert loop.time() < 0.1


@in_virtual_time
async def test_a_call_behind_one_with_more_time_ends_in_its_own() -> None:
    loop = asyncio.get_running_loop()
    store = MemoryStore(clock=loop.time)

    async def reserve(name: str, limit: int) -> float:
        await asyncio.sleep(0.001)
        return await reserve_call(store, name, limit)

    first, second = Throttle("openai", 2, 600, reserve), Throttle("openai", 2, 600, reserve)
    await first.wait("ann")
    await first.wait("ann")
    patient, other = asyncio.create_task(second.wait("ann")), asyncio.create_task(second.wait("ann", max_seconds=5))
    with pytest.raises(ProxyBusy) as raised:
        await other
    assert (round(loop.time()), round(raised.value.retry_after or 0)) == (5, 55)
    await patient
    assert round(loop.time()) == 60


CONFIGURATION = """
[providers.first]
base_url = "http://127.0.0.1:{}/v1"
requests_per_minute = 1

[providers.second]
base_url = "http://127.0.0.1:{}/v1"

[[routes]]
name = "both"
targets = ["first/m", "second/m"]
"""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "variables"),
    [("both", {}), ("claude-opus-5-5", {"MODEL_OPUS": "first/m", "FALLBACK_OPUS": "second/m"})],
)
async def test_a_throttled_target_leaves_the_request_to_the_next_one_at_once(
    tmp_path: Path, model: str, variables: dict[str, str], stream: bool
) -> None:
    events = [{"choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]}]
    reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]}
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    content_type, body = ("text/event-stream", text) if stream else ("application/json", json.dumps(reply))

    async def answer(_: Server, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(f"{head}{body}".encode())

    async with serving(answer) as (first, port), serving(answer) as (second, other_port):
        (tmp_path / CONFIG_FILE).write_text(CONFIGURATION.format(port, other_port))
        variables = {**variables, "UPSTREAM_FIRST_BYTE_TIMEOUT": "600"}
        engine = build_engine(load_settings(variables, PROVIDERS, env_file=str(tmp_path / ".env")))
        failed = []
        for _ in range(3):
            request = {
                "model": model,
                "max_tokens": 9,
                "messages": [{"role": "user", "content": "x"}],
                "stream": stream,
            }
            async with asyncio.timeout(20):
                sent = await send_request(engine, json.dumps(request).encode(), {})
                assert sent.status == 200
                assert b"hello" in b"".join([piece async for piece in sent.body])
            failed.append(dict(sent.headers).get("x-proxy-failed-attempts"))
        await engine.close()
    assert failed == [None, "first throttled", "first throttled"]
    assert (len(first.heads), len(second.heads)) == (1, 2)


REPLY = json.dumps({"choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]})


async def answer_messages(_: Server, writer: asyncio.StreamWriter) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(REPLY)}\r\n\r\n"
    writer.write(f"{head}{REPLY}".encode())


async def ask(engine: Engine, model: str) -> tuple[int, bytes]:
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    sent = await send_request(engine, json.dumps(body).encode(), {})
    return sent.status, b"".join([piece async for piece in sent.body])


def load(folder: Path, port: int, seconds: float, **limits: int) -> Settings:
    tables = [
        f'[providers.{name}]\nbase_url = "http://127.0.0.1:{port}/v1"\n'
        + f"requests_per_minute = {limit}\n" * (limit > 0)
        for name, limit in limits.items()
    ]
    (folder / CONFIG_FILE).write_text("\n".join(tables))
    return load_settings({"UPSTREAM_FIRST_BYTE_TIMEOUT": str(seconds)}, PROVIDERS, env_file=str(folder / ".env"))


async def test_workers_have_one_limit_for_the_provider_of_the_table(tmp_path: Path) -> None:
    store = MemoryStore()
    async with serving(answer_messages) as (server, port):
        settings = load(tmp_path, port, 20, first=3, second=0)
        workers = [await open_services(settings, shared_store=store) for _ in range(2)]
        async with asyncio.timeout(8):
            asked = [ask(workers[number % 2], model) for number in range(6) for model in ("first/m", "second/m")]
            replies = await asyncio.gather(*asked)
        for worker in workers:
            await worker.close()
    limited, unlimited = replies[::2], replies[1::2]
    assert sorted(status for status, _ in limited) == [200, 200, 200, 529, 529, 529]
    assert [status for status, _ in unlimited] == [200] * 6
    message = "The calls per minute to first are limited to 3 (requests_per_minute of [providers.first])"
    assert all(message.encode() in body for status, body in limited if status == 529)
    assert len(server.heads) == 9


async def test_a_reload_with_another_limit_remembers_the_calls_of_the_minute(tmp_path: Path) -> None:
    async with serving(answer_messages) as (_, port):
        services = await open_services(load(tmp_path, port, 20, first=2))
        assert [(await ask(services, "first/m"))[0] for _ in range(3)] == [200, 200, 529]
        reloaded = await open_services(load(tmp_path, port, 20, first=3), previous=services)
        assert [(await ask(reloaded, "first/m"))[0] for _ in range(2)] == [200, 529]
        await services.close()
        await reloaded.close()


@pytest.mark.parametrize("limit", [2, 0])
@in_virtual_time
async def test_a_reload_with_a_higher_limit_or_none_wakes_the_queued_calls(limit: int, tmp_path: Path) -> None:
    loop, started = asyncio.get_running_loop(), list[float]()

    async def answer(server: Server, writer: asyncio.StreamWriter) -> None:
        started.append(loop.time())
        await answer_messages(server, writer)

    async with serving(answer) as (_, port):
        services = await open_services(load(tmp_path, port, 300, first=1))
        calls = [asyncio.create_task(ask(services, "first/m")) for _ in range(3)]
        await asyncio.sleep(20)
        reloaded = await open_services(load(tmp_path, port, 300, first=limit), previous=services)
        assert [status for status, _ in await asyncio.gather(*calls)] == [200] * 3
        await services.close()
        await reloaded.close()
    assert [round(at) for at in started] == ([0, 20, 60] if limit else [0, 20, 20])


@in_virtual_time
async def test_the_time_in_the_queue_is_not_that_of_the_provider(tmp_path: Path) -> None:
    loop, started = asyncio.get_running_loop(), list[float]()

    async def answer(server: Server, writer: asyncio.StreamWriter) -> None:
        started.append(loop.time())
        await asyncio.sleep(70)
        await answer_messages(server, writer)

    async with serving(answer) as (_, port):
        engine = build_engine(load(tmp_path, port, 100, first=1))
        first = asyncio.create_task(ask(engine, "first/m"))
        await asyncio.sleep(15)
        assert [(await ask(engine, "first/m"))[0], (await first)[0]] == [200, 200]
        await engine.close()
    assert [round(at) for at in started] == [0, 60]
