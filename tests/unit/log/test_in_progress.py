"""Records of running requests that a process writes in advance, and their readers in other processes."""

from anthropic_proxy.gateway.telemetry.log.in_progress import (
    SHARED_MEMORY_BYTES,
    SharedRequestTable,
    describe_requests,
    read_heartbeat_count,
)


def test_requests_are_described_from_shared_memory() -> None:
    board = memoryview(bytearray(SHARED_MEMORY_BYTES))
    ours = SharedRequestTable()
    ours.use_shared_memory(board)
    assert describe_requests(board) == ""
    first = ours.add_request("req_1", "POST", "/v1/messages")
    second = ours.add_request("req_2", "POST", "/v1/messages")
    ours.set_model(second, "claude-sonnet-4-5")
    assert describe_requests(board) == "POST /v1/messages req_2 for claude-sonnet-4-5, POST /v1/messages req_1"
    ours.remove_request(first)
    third = ours.add_request("req_3", "GET", "/")
    assert describe_requests(board) == "GET / req_3, POST /v1/messages req_2 for claude-sonnet-4-5"
    ours.remove_request(second)
    ours.remove_request(third)
    assert describe_requests(board) == ""


def test_more_requests_than_slots_are_left_out() -> None:
    ours = SharedRequestTable()
    numbers = [ours.add_request(f"req_{number}", "POST", "/" + "x" * 5_000) for number in range(100)]
    for number in numbers:
        ours.set_model(number, "\ud800é" * 5_000)
    assert ours.describe().endswith(" and 29 more")
    assert f"POST /{'x' * 79} req_99 for ?é" in ours.describe()
    for number in numbers[:-1]:
        ours.remove_request(number)
    ours.set_model(numbers[0], "x")
    assert ours.describe() == f"POST /{'x' * 79} req_99 for {'?é' * 26}?�"
    ours.remove_request(numbers[-1])
    assert ours.describe() == ""


def test_a_request_in_a_used_slot_has_no_model_of_another() -> None:
    ours = SharedRequestTable()
    for number in range(40):
        one = ours.add_request(f"req_{number}", "GET", "/")
        ours.set_model(one, "a-model")
        ours.remove_request(one)
    ours.add_request("req_last", "GET", "/")
    assert ours.describe() == "GET / req_last"


def test_heartbeats_are_counted() -> None:
    board = memoryview(bytearray(SHARED_MEMORY_BYTES))
    ours = SharedRequestTable(board)
    assert read_heartbeat_count(board) == 0
    for _ in range(300):
        ours.write_heartbeat()
    assert read_heartbeat_count(board) == 300
