"""Look-ups of host names while a name server is silent. The resolver of the operating system is replaced."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from anthropic_proxy.engine.upstream.http import names
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.http.names import MAX_RUNNING_LOOKUPS, NameLookups
from anthropic_proxy.engine.upstream.http.url import parse_url
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import UpstreamUnreachable
from tests.support.bound_requests import bound
from tests.support.http_server import Server, read_all, serving
from tests.support.messages import exactly
from tests.support.waiting import wait_for, wait_for_async

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
SILENT_NAMES = 40
"""More than the threads of any pool of an event loop."""


@pytest.fixture
def event_loop_policy(each_event_loop_policy: asyncio.AbstractEventLoopPolicy) -> asyncio.AbstractEventLoopPolicy:
    return each_event_loop_policy


class Resolver:
    """Resolver with one name server, which is silent about `*.silent.test` until `release`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answers = {"living.test": "127.0.0.1"}
        self.ended: Counter[str] = Counter()
        self._released = threading.Event()
        self._real = socket.getaddrinfo

    def look_up(self, host: str, port: Any, *arguments: Any, flags: int = 0, **others: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return self._real(host, port, *arguments, flags=flags, **others)
        self.asked[host] += 1
        if host.endswith(".silent.test"):
            self._released.wait()
            self.ended[host] += 1
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self._real(self.answers[host], port, *arguments, flags=socket.AI_NUMERICHOST, **others)

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    yield made
    made.release()
    wait_for(lambda: [thread for thread in threading.enumerate() if thread.name == "names"], lambda found: not found)


async def send_ok(_: Server, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")


async def ask(upstream: HttpTransport, host: str, port: int) -> bytes:
    return await read_all(await upstream.send(bound(f"http://{host}:{port}", UpstreamRequest(path="/x", body=b""))))


async def test_silent_names_do_not_stop_other_hosts(resolver: Resolver) -> None:
    async with serving(send_ok) as (_, port):
        upstream = HttpTransport(60)
        dead = [asyncio.create_task(ask(upstream, f"n{n}.silent.test", port)) for n in range(SILENT_NAMES)]
        await wait_for_async(lambda: len(resolver.asked), lambda count: count == SILENT_NAMES)
        for host in ("127.0.0.1", "localhost", "LOCALHOST.", "ollama.localhost", "living.test"):
            assert await ask(upstream, host, port) == b"ok"
        assert set(resolver.asked) - {f"n{n}.silent.test" for n in range(SILENT_NAMES)} == {"living.test"}
        for task in dead:
            task.cancel()
        await asyncio.gather(*dead, return_exceptions=True)
        await upstream.close()


async def test_each_attempt_waits_for_the_one_look_up_of_its_name(resolver: Resolver) -> None:
    async with serving(send_ok) as (_, port):
        upstream, hasty = HttpTransport(60), HttpTransport(0.05)
        reason = f"no server responds at http://one.silent.test:{port} (no connection in time)"
        for _ in range(3):
            with pytest.raises(UpstreamUnreachable, match=exactly(reason)):
                await ask(hasty, "one.silent.test", port)
        waiting = [asyncio.create_task(ask(upstream, "one.silent.test", port)) for _ in range(3)]
        assert await ask(upstream, "127.0.0.1", port) == b"ok"
        assert resolver.asked["one.silent.test"] == 1
        resolver.answers["one.silent.test"] = "127.0.0.1"
        resolver.release()
        assert await asyncio.gather(*waiting) == [b"ok"] * 3
        assert resolver.asked["one.silent.test"] == 1
        assert await ask(hasty, "one.silent.test", port) == b"ok"
        assert resolver.asked["one.silent.test"] == 2
        await upstream.close()
        await hasty.close()


async def test_a_name_that_hangs_for_long_fails_at_once(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_LOOKUP_SECONDS", 0.0)
    upstream = HttpTransport(60)
    reason = "no server responds at http://one.silent.test (the look-up of the host name has no answer)"
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable, match=exactly(reason)):
            await ask(upstream, "one.silent.test", 80)
    assert resolver.asked["one.silent.test"] == 1
    await upstream.close()


async def test_a_name_is_looked_up_again_after_the_system_had_no_thread_for_it(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with serving(send_ok) as (_, port):
        upstream = HttpTransport(60)
        reason = f"no server responds at http://living.test:{port} (no thread for the look-up of the host name)"
        with monkeypatch.context() as change:
            change.setattr(threading.Thread, "start", refuse)
            with pytest.raises(UpstreamUnreachable, match=exactly(reason)):
                await ask(upstream, "living.test", port)
        assert await ask(upstream, "living.test", port) == b"ok"
        await upstream.close()


async def test_the_number_of_look_ups_has_a_limit(resolver: Resolver) -> None:
    found = NameLookups()
    waiting = [asyncio.create_task(found.find_addresses(f"n{n}.silent.test", 80)) for n in range(MAX_RUNNING_LOOKUPS)]
    await wait_for_async(lambda: len(resolver.asked), lambda count: count == MAX_RUNNING_LOOKUPS)
    with pytest.raises(OSError, match=exactly("the name server has not answered for 256 other hosts")):
        await found.find_addresses("living.test", 80)
    assert [info[4] for info in await found.find_addresses("10.0.0.1", 80)] == [("10.0.0.1", 80)]
    resolver.release()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [info[4] for info in await found.find_addresses("living.test", 80)] == [("127.0.0.1", 80)]


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://127.0.0.1", [("127.0.0.1", 80)]),
        ("http://2130706433:81", [("127.0.0.1", 81)]),
        ("http://[::1]:81", [("::1", 81, 0, 0)]),
        ("http://localhost", [("127.0.0.1", 80), ("::1", 80, 0, 0)]),
        ("http://a.b.localhost:82", [("127.0.0.1", 82), ("::1", 82, 0, 0)]),
    ],
)
async def test_these_hosts_are_not_looked_up(resolver: Resolver, url: str, addresses: list[Any]) -> None:
    origin = parse_url(url).origin
    assert [info[4] for info in await NameLookups().find_addresses(origin.host, origin.port)] == addresses
    assert not resolver.asked


@pytest.mark.skipif(not hasattr(socket, "if_nametoindex"), reason="platform: no names of network interfaces")
async def test_an_address_with_a_zone_is_not_looked_up(resolver: Resolver) -> None:
    number, name = socket.if_nameindex()[0]
    origin = parse_url(f"http://[fe80::1%25{name}]:81").origin
    assert (origin.host, origin.host_header) == (f"fe80::1%{name}", "[fe80::1]:81")
    infos = await NameLookups().find_addresses(origin.host, origin.port)
    assert [(info[4][1], info[4][3]) for info in infos] == [(81, number)]
    assert not resolver.asked
