"""Request bodies that arrive in fragments, late, never, or too large."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from anthropic_proxy.errors import ProxyBusy, RequestTimeout, RequestTooLarge
from anthropic_proxy.gateway.server.asgi import BodyMemory, read_body
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.services import Services
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.virtual_time import in_virtual_time

Message = MutableMapping[str, Any]


def sends(*messages: Message | None) -> Callable[[], Awaitable[Message]]:
    """Return a `receive` with these messages, one per call. After None or the last message it never returns."""
    waiting = iter(messages)

    async def receive() -> Message:
        message = next(waiting, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        return message

    return receive


def piece(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def new_services(**settings: str) -> Services:
    return ProxyHarness(lambda *_: FakeResponse(200), **settings).services


def new_memory(services: Services | None = None, client: str = "ann") -> BodyMemory:
    return BodyMemory(services or new_services(), client)


async def test_a_body_without_a_length_may_not_grow_for_ever() -> None:
    quarter = piece(b"x" * (MAX_REQUEST_BYTES // 4), more=True)
    with pytest.raises(RequestTooLarge):
        await read_body(sends(*[quarter] * 5), new_memory())


@in_virtual_time
async def test_a_body_that_does_not_come_is_given_up() -> None:
    for messages in ([None], [piece(b"half", more=True), None]):
        with pytest.raises(RequestTimeout):
            await read_body(sends(*messages), new_memory(), read_timeout_seconds=0.01)


@in_virtual_time
async def test_a_body_that_drips_is_given_up() -> None:
    left = iter(range(1_000))

    async def receive() -> Message:
        await asyncio.sleep(0.001)
        return piece(b"x", more=next(left, None) is not None)

    with pytest.raises(RequestTimeout):
        await read_body(receive, new_memory(), read_timeout_seconds=10, body_timeout_seconds=0.05)


LARGEST = b"x" * MAX_REQUEST_BYTES
LENGTH = str(MAX_REQUEST_BYTES)
USUAL = b"x" * (1 << 20)
REFUSAL = (
    "The bodies of other requests need the part of the 128 MB for bodies of this size (MAX_BODY_MEMORY_MB). Try again "
    "in a moment."
)


async def hold_all(services: Services) -> list[BodyMemory]:
    """Return the memory of three of the largest bodies, of which 96 of 128 MB have room."""
    held = [new_memory(services, client) for client in ("ann", "ann", "bob")]
    for memory in held:
        assert await read_body(sends(piece(LARGEST)), memory, LENGTH) == LARGEST
    return held


@in_virtual_time
async def test_large_bodies_wait_until_others_are_no_longer_needed() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    held = await hold_all(services)
    fourth = asyncio.create_task(read_body(sends(piece(LARGEST)), new_memory(services, "carol"), LENGTH))
    small = await read_body(sends(piece(b"{}")), new_memory(services), "2")
    usual = await read_body(sends(piece(USUAL)), new_memory(services), str(len(USUAL)))
    await asyncio.sleep(20)
    assert (small, usual, fourth.done()) == (b"{}", USUAL, False)
    held[0].free(MAX_REQUEST_BYTES)
    held[0].release()  # at the end of the request, once more
    assert await fourth == LARGEST
    with pytest.raises(ProxyBusy) as refused:
        await read_body(sends(piece(LARGEST)), new_memory(services, "dave"), LENGTH)
    assert (refused.value.status, refused.value.message) == (529, REFUSAL)


@in_virtual_time
async def test_a_body_without_a_length_has_the_memory_of_its_size_only() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    half, quarter = b"x" * (MAX_REQUEST_BYTES // 2), b"x" * (MAX_REQUEST_BYTES // 4)
    for _ in range(3):
        assert await read_body(sends(piece(quarter, more=True), piece(quarter)), new_memory(services)) == half
    with pytest.raises(ProxyBusy):
        await read_body(sends(piece(half, more=True)), new_memory(services))


@in_virtual_time
@pytest.mark.parametrize("size", [len(USUAL), MAX_REQUEST_BYTES])
async def test_bodies_of_all_sizes_wait_for_the_memory_of_their_kind(size: int) -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    places = (32 << 20) if size == len(USUAL) else (96 << 20)
    for number in range(places // size):
        body = await read_body(sends(piece(b"x" * size)), new_memory(services, f"key {number}"), str(size))
        assert len(body) == size
    with pytest.raises(ProxyBusy):
        await read_body(sends(piece(b"x" * size)), new_memory(services), str(size))


@in_virtual_time
async def test_the_wait_for_memory_is_no_slowness_of_the_client() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    held = [new_memory(services, f"key {number}") for number in range(8)]
    for memory in held:
        await memory.grow(4 << 20)  # all of the part of usual bodies
    pieces = [piece(b"x" * 100_000, more=True) for _ in range(3)]

    async def receive() -> Message:
        await asyncio.sleep(0.1)
        return pieces.pop() if pieces else piece(b"x")

    body = asyncio.create_task(read_body(receive, new_memory(services, "ann")))
    other = asyncio.create_task(read_body(sends(piece(USUAL)), new_memory(services, "bob"), str(len(USUAL))))
    await asyncio.sleep(20)
    for memory in held[:2]:
        memory.release()
    assert len(await body) == 300_001
    other.cancel()


@in_virtual_time
async def test_what_has_memory_never_waits_for_more_of_the_same_part() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    ann, bob, carol = (new_memory(services, client) for client in ("ann", "bob", "carol"))
    for memory in (ann, bob, carol):
        await memory.grow(30 << 20)  # 90 of 96 MB
    await ann.count_read(2 << 20)
    await bob.count_read(4 << 20)  # no more than the largest body needs
    dave = new_memory(services, "dave")
    await dave.grow(1 << 20)
    waiting = asyncio.create_task(dave.count_read(32 << 20))
    await asyncio.sleep(1)
    with pytest.raises(ProxyBusy):
        await carol.count_read(2 << 20)
    assert (ann.size, bob.size, carol.size, dave.size) == (32 << 20, 32 << 20, 30 << 20, 1 << 20)
    ann.release()
    await waiting
    assert (dave.size, services.body_memory[1].acquire_free("eve", 32 << 20)) == (32 << 20, True)


@in_virtual_time
async def test_a_slow_body_gives_its_memory_to_those_who_wait() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")

    async def drip() -> Message:
        await asyncio.sleep(10)
        return piece(b"x", more=True)

    async def upload(client: str) -> bytes:
        memory = new_memory(services, client)
        try:
            return await read_body(drip, memory, LENGTH)
        finally:
            memory.release()

    slow = [asyncio.create_task(upload(client)) for client in ("ann", "ann", "bob")]
    await asyncio.sleep(60)
    assert not any(task.done() for task in slow), "nobody waits"
    body = b"x" * (8 << 20)
    assert await read_body(sends(piece(body)), new_memory(services, "carol"), str(len(body))) == body
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RequestTimeout}


async def test_a_body_beyond_the_limit_of_its_route_needs_no_memory() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    memory = new_memory(services)
    with pytest.raises(RequestTooLarge) as refused:
        await read_body(sends(piece(b"x", more=True)), memory, LENGTH, max_bytes=65_536)
    assert (str(refused.value), memory.size) == ("The body is larger than 65,536 bytes.", 0)
    with pytest.raises(RequestTooLarge):
        await read_body(sends(*[piece(b"x" * 40_000, more=True)] * 2), memory, max_bytes=65_536)
    assert memory.size == 0


@in_virtual_time
async def test_what_is_read_for_a_request_waits_for_the_memory_of_large_bodies() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    held = await hold_all(services)
    small = new_memory(services, "carol")
    waiting = asyncio.create_task(small.count_read(MAX_REQUEST_BYTES // 2))
    await small.count_read(1_000)
    await asyncio.sleep(20)
    assert not waiting.done()
    held[0].release()
    await waiting
    await small.count_read(MAX_REQUEST_BYTES // 4)  # less, for another target
    await small.count_read(MAX_REQUEST_BYTES * 2)  # with its body, a request has at most the size of the largest body
    with pytest.raises(ProxyBusy):
        await new_memory(services, "dave").count_read(MAX_REQUEST_BYTES // 2)
    small.free(0)
    await new_memory(services, "dave").count_read(MAX_REQUEST_BYTES)
    assert held[1].size == MAX_REQUEST_BYTES
    await held[1].count_read(MAX_REQUEST_BYTES)
    assert held[1].size == MAX_REQUEST_BYTES


async def test_a_usual_body_with_documents_has_its_memory_in_the_part_of_large_ones() -> None:
    services = new_services(MAX_BODY_MEMORY_MB="128")
    _, usual, larger = services.body_memory
    memory = new_memory(services)
    await read_body(sends(piece(USUAL)), memory, str(len(USUAL)))
    for read in (1 << 20, 3 << 20):
        await memory.count_read(read)
        assert (usual.count_before("nobody"), larger.count_before("nobody")) == (0, len(USUAL) + read)
    memory.free(len(USUAL))
    assert larger.count_before("nobody") == 0
    await memory.count_read(1 << 20)  # for the next call within the reply
    assert larger.count_before("nobody") == 1 << 20
    memory.release()
    assert larger.count_before("nobody") == 0
