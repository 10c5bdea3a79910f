"""Circuit breakers, the retry budget and the queue for upstream calls."""

import json
from collections.abc import Callable

import pytest

from anthropic_proxy.engine.routing.health import MAX_OPEN_SECONDS, MIN_OPEN_SECONDS, CircuitBreakers
from anthropic_proxy.engine.wires.failures import build_upstream_error, decode_error_body
from anthropic_proxy.errors import (
    CircuitOpen,
    UnreadableReply,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.support.interleaving import interleave


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def unreachable() -> UpstreamUnreachable:
    return UpstreamUnreachable("groq: connection refused", provider="groq")


def open_breakers(clock: Clock) -> CircuitBreakers:
    breakers = CircuitBreakers(clock=clock)
    for _ in range(5):
        breakers.require_closed("groq", "local")
        breakers.record_failure("groq", unreachable(), "local")
    return breakers


def test_four_failures_in_a_row_open_no_circuit() -> None:
    breakers = CircuitBreakers(clock=Clock())
    for _ in range(3):
        for _ in range(4):
            breakers.record_failure("groq", unreachable(), "local")
        breakers.require_closed("groq", "local")
        breakers.record_success("groq", "local")


def test_an_upstream_that_fails_repeatedly_is_not_called_and_its_error_repeated() -> None:
    breakers = open_breakers(Clock())
    with pytest.raises(UpstreamError) as refused:
        breakers.require_closed("groq", "local")
    assert refused.value.status == 502
    assert refused.value.retry_after == 5
    assert (
        refused.value.message
        == "groq: connection refused. It failed 5 times in a row; the next call is allowed in 5 s."
    )
    assert not refused.value.retryable
    breakers.require_closed("openai", "local")


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_errors_of_a_request_or_a_key_do_not_count_against_the_upstream(status: int) -> None:
    breakers = CircuitBreakers(clock=Clock())
    for _ in range(10):
        breakers.record_failure("groq", UpstreamRefused("no", status=status), "local")
    breakers.require_closed("groq", "local")


def refused(status: int = 500) -> UpstreamRefused:
    return UpstreamRefused("groq: the request has failed", provider="groq", status=status)


OF_REQUESTS = [
    refused(),
    refused(504),
    UnreadableReply("groq: unreadable"),
    UpstreamProtocolError("groq: {"),
    UpstreamTimeout("groq: no data within 60 s"),
]


@pytest.mark.parametrize("failure", OF_REQUESTS)
def test_failures_that_a_request_can_cause_open_the_circuit_for_its_client(failure: UpstreamError) -> None:
    clock = Clock()
    breakers = CircuitBreakers(clock=clock)
    published: list[str] = []
    breakers.publish_to(lambda upstream, failure, seconds: published.append(failure))
    for _ in range(6):
        breakers.record_failure("groq", failure, "key_a")
    for _ in range(4):
        breakers.record_failure("groq", failure, "key_b")
    breakers.require_closed("groq", "key_b")
    breakers.require_closed("groq", "key_c")
    with pytest.raises(CircuitOpen):
        breakers.require_closed("groq", "key_a")
    shown = f"{failure.message}. Other clients are not concerned."
    assert breakers.list_open_circuits() == {"groq": (MIN_OPEN_SECONDS, shown)}
    assert breakers.open_circuit_count() == 0
    breakers.record_success("groq", "key_c")
    with pytest.raises(CircuitOpen):
        breakers.require_closed("groq", "key_a")
    clock.now += MIN_OPEN_SECONDS
    breakers.require_closed("groq", "key_a")
    with pytest.raises(CircuitOpen):
        breakers.require_closed("groq", "key_a")
    breakers.record_success("groq", "key_a")
    breakers.require_closed("groq", "key_a")
    assert breakers.list_open_circuits() == {}
    assert published == []


@pytest.mark.parametrize("failure", [unreachable(), refused(502), refused(503), refused(529)])
def test_an_upstream_that_is_not_available_is_called_for_no_client(failure: UpstreamError) -> None:
    clock = Clock()
    breakers = CircuitBreakers(clock=clock)
    for client in ("key_a", "key_a", "key_b", "key_c", "key_a"):
        breakers.require_closed("groq", "key_d")
        breakers.record_failure("groq", failure, client)
    assert breakers.list_open_circuits() == {"groq": (MIN_OPEN_SECONDS, failure.message)}
    assert breakers.open_circuit_count() == 1
    for client in ("key_a", "key_d"):
        with pytest.raises(CircuitOpen):
            breakers.require_closed("groq", client)
    clock.now += MIN_OPEN_SECONDS
    breakers.require_closed("groq", "key_d")
    with pytest.raises(CircuitOpen):
        breakers.require_closed("groq", "key_a")
    breakers.record_failure("groq", refused(), "key_d")
    breakers.require_closed("groq", "key_a")
    breakers.record_success("groq", "key_a")
    breakers.require_closed("groq", "key_b")


def test_a_failed_trial_doubles_the_cooldown_up_to_a_limit() -> None:
    clock = Clock()
    breakers = open_breakers(clock)
    rests = []
    for _ in range(8):
        clock.now += 1000
        breakers.require_closed("groq", "local")
        breakers.record_failure("groq", unreachable(), "local")
        with pytest.raises(UpstreamError) as refused:
            breakers.require_closed("groq", "local")
        rests.append(refused.value.retry_after)
    assert rests == [10, 20, 40, 60, 60, 60, 60, 60]


def test_a_failed_trial_of_a_circuit_that_another_worker_has_opened_blocks_the_next_call() -> None:
    clock = Clock()
    breakers = CircuitBreakers(clock=clock)
    breakers.open_circuit_from_peer("groq", unreachable(), 5.0)
    clock.now += 5
    breakers.require_closed("groq", "local")
    breakers.record_failure("groq", unreachable(), "local")
    with pytest.raises(CircuitOpen) as refused:
        breakers.require_closed("groq", "other")
    assert refused.value.retry_after == 10


def test_an_error_whose_text_alone_blames_the_request_neither_counts_nor_ends_a_row_of_failures() -> None:
    breakers = CircuitBreakers(clock=Clock())
    blamed = refused(400)
    blamed.stated_status = 502
    for failure in (*[unreachable()] * 4, blamed, blamed):
        breakers.record_failure("groq", failure, "local")
    breakers.require_closed("groq", "local")
    breakers.record_failure("groq", unreachable(), "local")
    with pytest.raises(CircuitOpen):
        breakers.require_closed("groq", "local")


def test_a_trial_whose_client_left_lets_the_next_one_try() -> None:
    clock = Clock()
    breakers = open_breakers(clock)
    clock.now += 5
    breakers.require_closed("groq", "local")
    breakers.release_trial("groq", "local")
    breakers.require_closed("groq", "local")


@pytest.mark.parametrize(("stated", "kept"), [(1, MIN_OPEN_SECONDS), (30, 30), (3_600, MAX_OPEN_SECONDS)])
def test_a_longer_wait_that_the_upstream_asked_for_is_kept_up_to_the_limit(stated: float, kept: float) -> None:
    breakers = CircuitBreakers(clock=Clock())
    for _ in range(5):
        breakers.record_failure("groq", UpstreamOverloaded("groq: busy", retry_after=stated), "local")
    with pytest.raises(UpstreamError) as refused:
        breakers.require_closed("groq", "local")
    assert refused.value.retry_after == kept


@pytest.mark.parametrize(
    ("headers", "message", "kept"),
    [
        ({"retry-after": "30"}, "Busy.", 30),
        ({}, "Try again in 30 s.", MIN_OPEN_SECONDS),  # it may be the text of a client
        ({"retry-after": "10"}, "Try again in 30 s.", 10),
    ],
)
def test_a_wait_that_only_the_text_of_an_error_names_keeps_no_circuit_open(
    headers: dict[str, str], message: str, kept: float
) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    breakers = CircuitBreakers(clock=Clock())
    for _ in range(5):
        breakers.record_failure("groq", build_upstream_error(decode_error_body(503, headers, body), "groq"), "key_a")
    assert breakers.list_open_circuits() == {"groq": (kept, f"groq: {message}")}


def test_a_page_lists_the_open_circuits_while_another_one_opens() -> None:
    def build() -> tuple[Callable[[], dict[str, tuple[float, str]]], Callable[[], None]]:
        breakers = CircuitBreakers(clock=Clock())
        _open_circuit(breakers, "groq api.groq.com")
        _open_circuit(breakers, "xai api.x.ai")
        return breakers.list_open_circuits, lambda: _open_circuit(breakers, "openai api.openai.com")

    found = [set(names) for names in interleave(build)]
    known = {"groq api.groq.com", "xai api.x.ai"}
    assert len(found) > 10
    assert all(names - {"openai api.openai.com"} == known for names in found)


def _open_circuit(breakers: CircuitBreakers, upstream: str) -> None:
    for _ in range(5):
        breakers.record_failure(upstream, unreachable(), "local")
