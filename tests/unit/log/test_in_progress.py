"""The running requests: as the supervisor reads them in shared memory, and as a reload waits for them."""

import asyncio

from anthropic_proxy.gateway.telemetry.requests import (
    SHARED_MEMORY_BYTES,
    RunningRequests,
    describe_requests,
    read_heartbeat_count,
)
from anthropic_proxy.plugins import Client, Receipt


def receipt_of(request_id: str, method: str = "POST", path: str = "/v1/messages") -> Receipt:
    return Receipt(request_id=request_id, client=Client(), started_at=0.0, method=method, path=path)


def shared() -> tuple[RunningRequests, memoryview]:
    running, memory = RunningRequests(), memoryview(bytearray(SHARED_MEMORY_BYTES))
    running.share(memory)
    return running, memory


def name(running: RunningRequests, number: int, model: str) -> None:
    running.name_model(number, model)
    for receipt in running.receipts():
        if receipt.request_id == f"req_{number}":
            receipt.requested_model = model


def test_requests_are_described_alike_by_their_process_and_from_shared_memory() -> None:
    running, memory = shared()

    def described() -> str:
        assert describe_requests(memory) == running.describe()
        return running.describe()

    assert described() == ""
    first, second = running.begin(receipt_of("req_1")), running.begin(receipt_of("req_2"))
    name(running, second, "claude-sonnet-4-5")
    assert described() == "POST /v1/messages req_2 for claude-sonnet-4-5, POST /v1/messages req_1"
    running.end(first)
    third = running.begin(receipt_of("req_3", "GET", "/"))
    assert described() == "GET / req_3, POST /v1/messages req_2 for claude-sonnet-4-5"
    running.end(second)
    running.end(third)
    assert described() == ""


def test_more_requests_than_slots_are_left_out_of_the_shared_memory() -> None:
    running, memory = shared()
    numbers = [running.begin(receipt_of(f"req_{number}", path="/" + "x" * 5_000)) for number in range(1, 101)]
    for number in numbers:
        running.name_model(number, "\ud800é" * 5_000)
    assert describe_requests(memory).endswith(" and 29 more")
    assert running.describe().endswith(" and 97 more")
    assert f"POST /{'x' * 79} req_100 for ?é" in describe_requests(memory)
    for number in numbers[:-1]:
        running.end(number)
    running.name_model(numbers[0], "x")
    assert describe_requests(memory) == f"POST /{'x' * 79} req_100 for {'?é' * 26}?�"
    running.end(numbers[-1])
    assert describe_requests(memory) == running.describe() == ""


def test_a_request_in_a_used_slot_has_no_model_of_another() -> None:
    running, memory = shared()
    for number in range(40):
        one = running.begin(receipt_of(f"req_{number}", "GET", "/"))
        running.name_model(one, "a-model")
        running.end(one)
    running.begin(receipt_of("req_last", "GET", "/"))
    assert describe_requests(memory) == "GET / req_last"


def test_heartbeats_are_counted() -> None:
    running, memory = shared()
    assert read_heartbeat_count(memory) == 0
    for _ in range(300):
        running.write_heartbeat()
    assert read_heartbeat_count(memory) == 300


async def test_a_reload_waits_for_the_requests_before_it_only() -> None:
    running = RunningRequests()
    first, second = running.begin(receipt_of("req_1")), running.begin(receipt_of("req_2"))
    waiting = asyncio.create_task(running.wait_until_ended())
    await asyncio.sleep(0)
    later = running.begin(receipt_of("req_3"))
    for number in (second, first):
        assert not waiting.done()
        running.end(number)
        await asyncio.sleep(0)
    await waiting
    assert running.count == 1
    running.end(later)
    await running.wait_until_ended()
