"""Records that a process writes about itself in advance, and what another one reads of them."""

from anthropic_proxy.log.in_progress import BOARD_BYTES, InProgress, count_beats, describe_requests


def test_requests_are_described_from_shared_memory() -> None:
    board = memoryview(bytearray(BOARD_BYTES))
    ours = InProgress()
    ours.share(board)
    assert describe_requests(board) == ""
    first = ours.begin("req_1", "POST", "/v1/messages")
    second = ours.begin("req_2", "POST", "/v1/messages")
    ours.name(second, "claude-sonnet-4-5")
    assert describe_requests(board) == "POST /v1/messages req_2 for claude-sonnet-4-5, POST /v1/messages req_1"
    ours.end(first)
    third = ours.begin("req_3", "GET", "/")
    assert describe_requests(board) == "GET / req_3, POST /v1/messages req_2 for claude-sonnet-4-5"
    ours.end(second)
    ours.end(third)
    assert describe_requests(board) == ""


def test_more_requests_than_slots_are_left_out() -> None:
    ours = InProgress()
    numbers = [ours.begin(f"req_{number}", "POST", "/" + "x" * 5_000) for number in range(100)]
    for number in numbers:
        ours.name(number, "\ud800é" * 5_000)
    assert ours.describe().endswith(" and 29 more")
    assert f"POST /{'x' * 79} req_99 for ?é" in ours.describe()
    for number in numbers[:-1]:
        ours.end(number)
    ours.name(numbers[0], "x")
    assert ours.describe() == f"POST /{'x' * 79} req_99 for {'?é' * 26}?�"
    ours.end(numbers[-1])
    assert ours.describe() == ""


def test_a_request_in_a_used_slot_has_no_model_of_another() -> None:
    ours = InProgress()
    for number in range(40):
        one = ours.begin(f"req_{number}", "GET", "/")
        ours.name(one, "a-model")
        ours.end(one)
    ours.begin("req_last", "GET", "/")
    assert ours.describe() == "GET / req_last"


def test_heartbeats_are_counted() -> None:
    board = memoryview(bytearray(BOARD_BYTES))
    ours = InProgress(board)
    assert count_beats(board) == 0
    for _ in range(300):
        ours.beat()
    assert count_beats(board) == 300
