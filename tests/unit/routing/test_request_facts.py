"""Facts about requests that threads compute: a long computation does not delay those of other requests."""

import threading
from collections.abc import Callable

from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.routing.routes import RequestFacts

_TIMEOUT_SECONDS = 60


def test_a_long_token_count_in_a_thread_does_not_delay_the_counts_of_other_requests() -> None:
    counting, ready = threading.Event(), threading.Event()

    def count_slowly(_: MessagesRequest) -> int:
        counting.set()
        return 1_000_000 if ready.wait(_TIMEOUT_SECONDS) else 0

    large, small = _new_facts(count_slowly), _new_facts(lambda _: 5)
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(large.input_tokens))
    thread.start()
    assert counting.wait(_TIMEOUT_SECONDS)
    other = threading.Thread(target=lambda: counts.append(small.input_tokens))
    other.start()
    other.join(_TIMEOUT_SECONDS / 10)
    ready.set()
    thread.join()
    other.join()
    assert counts == [5, 1_000_000]


def _new_facts(count_tokens: Callable[[MessagesRequest], int]) -> RequestFacts:
    request = MessagesRequest(model="claude-opus-5-5", messages=[])
    return RequestFacts(
        request, model="", tier="", headers={}, client=Client(name=""), now=0.0, count_tokens=count_tokens
    )
