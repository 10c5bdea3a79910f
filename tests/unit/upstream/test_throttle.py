"""The throttle of one provider, `requests_per_minute` of `[providers.NAME]`, in virtual time."""

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest

from anthropic_proxy.engine.engine import build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.transports import Throttle
from anthropic_proxy.engine.wires.contract import UpstreamRequest
from anthropic_proxy.errors import ProxyBusy
from anthropic_proxy.gateway.services import open_services, reserve_call
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from tests.support.http_server import Server, read_all, serving
from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_within_any_minute_only_so_many_calls_start_in_order() -> None:
    throttle, started, loop = Throttle("openai", 3, 600), list[tuple[int, float]](), asyncio.get_running_loop()

    async def call(number: int) -> None:
        await asyncio.sleep(number)
        await throttle.wait()
        started.append((number, loop.time()))

    await asyncio.gather(*(call(number) for number in range(8)))
    assert [(number, round(at)) for number, at in started] == [
        *((0, 0), (1, 1), (2, 2)),
        *((3, 60), (4, 61), (5, 62)),
        *((6, 120), (7, 121)),
    ]


@in_virtual_time
async def test_a_cancelled_call_gives_its_place_to_the_next_one() -> None:
    throttle, loop = Throttle("openai", 1, 600), asyncio.get_running_loop()
    await throttle.wait()
    first, second = asyncio.create_task(throttle.wait()), asyncio.create_task(throttle.wait())
    await asyncio.sleep(5)
    first.cancel()
    await second
    assert (first.cancelled(), round(loop.time())) == (True, 60)


@in_virtual_time
async def test_a_call_that_would_wait_too_long_is_rejected_at_once() -> None:
    throttle, loop = Throttle("openai", 2, 100), asyncio.get_running_loop()
    await throttle.wait()
    await asyncio.sleep(10)
    await throttle.wait()
    waiting = [asyncio.create_task(throttle.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ProxyBusy) as raised:  # it would start at 120 s
        await throttle.wait()
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
    throttles = [Throttle("openai", 3, 600) for _ in range(4)]
    for throttle in throttles:
        throttle.reserve = partial(reserve_call, store)

    async def call(throttle: Throttle) -> None:
        await throttle.wait()
        started.append(loop.time())

    await asyncio.gather(*(call(throttle) for throttle in throttles * 2))
    assert [round(at / 60) for at in started] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert all(later - earlier >= 60 for earlier, later in zip(started, started[3:], strict=False))


@in_virtual_time
async def test_a_call_that_others_hold_up_for_too_long_is_rejected() -> None:
    first, second = Throttle("openai", 1, 20), Throttle("openai", 1, 20)
    first.reserve = second.reserve = partial(reserve_call, MemoryStore(clock=asyncio.get_running_loop().time))
    await first.wait()
    with pytest.raises(ProxyBusy) as raised:
        await second.wait()
    assert (raised.value.message, round(raised.value.retry_after or 0)) == (
        "The calls per minute to openai are limited to 1 (requests_per_minute of [providers.openai]). Try again later.",
        60,
    )


@in_virtual_time
async def test_a_call_has_a_shorter_limit_of_its_own() -> None:
    throttle, loop = Throttle("openai", 1, 600), asyncio.get_running_loop()
    await throttle.wait(5)
    await asyncio.sleep(54)
    with pytest.raises(ProxyBusy) as raised:
        await throttle.wait(5)
    assert raised.value.retry_after == 1.0
    await asyncio.sleep(1)
    await throttle.wait(5)
    assert round(loop.time()) == 60


@in_virtual_time
async def test_a_call_does_not_join_a_queue_that_other_processes_hold_up() -> None:
    first, second = Throttle("openai", 1, 600), Throttle("openai", 1, 600)
    first.reserve = second.reserve = partial(reserve_call, MemoryStore(clock=asyncio.get_running_loop().time))
    await first.wait()
    waiting = asyncio.create_task(second.wait())
    await asyncio.sleep(0)
    with pytest.raises(ProxyBusy):
        await second.wait(5)
    await waiting


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


async def test_only_calls_to_the_provider_of_the_table_wait(tmp_path: Path) -> None:
    async def answer(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    (tmp_path / CONFIG_FILE).write_text("[providers.openai]\nrequests_per_minute = 3\n")
    settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    request, store = UpstreamRequest(path="/x", body=b"", method="GET", is_throttled=True), MemoryStore()
    async with serving(answer) as (server, port):
        workers = [await open_services(settings, shared_store=store) for _ in range(2)]
        for name, count in (("groq", 5), ("openai", 1), ("openai", 2)):
            send = workers[count % 2].transports[name]
            for _ in range(count):
                assert await read_all(await send(f"http://127.0.0.1:{port}", request, None)) == b"ok"  # type: ignore[arg-type]
        for worker in workers:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await worker.transports["openai"](f"http://127.0.0.1:{port}", request, None)
            await worker.close()
    assert len(server.heads) == 8
