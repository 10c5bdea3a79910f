"""The golden scenarios as seats for an input: a real request, a real target, every quirk of every dialect."""

from functools import cache
from itertools import count

from msgspec import structs

from anthropic_proxy.engine.wires.calls import Call, RelayCall
from anthropic_proxy.errors import ProxyError
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.provider_replies.messages import MESSAGE_STREAMS

WIRES = ("openai_chat", "openai_responses", "gemini", "ollama", "anthropic")
MAX_SEED_BYTES = 16 * 1024


@cache
def folders_of(wire: str) -> tuple[str, ...]:
    return tuple(sorted(folder.name for folder in find_cases(wire)))


@cache
def scenario_of(wire: str, name: str) -> GoldenCase:
    return GoldenCase(find_cases(wire, name)[0])


@cache
def _call_of(wire: str, name: str) -> Call | None:
    scenario = scenario_of(wire, name)
    try:
        call = scenario.call()
        scenario.target.wire.encode_request(call)
    except ProxyError:  # some scenarios show a refusal, by which no upstream is asked
        return None
    return call


@cache
def playable(wire: str) -> tuple[str, ...]:
    return tuple(name for name in folders_of(wire) if _call_of(wire, name) is not None)


def call_of(wire: str, name: str) -> Call:
    call = _call_of(wire, name)
    assert call is not None
    if isinstance(call, RelayCall):
        return call
    numbers = count(1)
    return structs.replace(call, new_id=lambda prefix: f"{prefix}{next(numbers):022d}")


def complete_replies(wire: str) -> list[bytes]:
    scenarios = [scenario_of(wire, name) for name in playable(wire)]
    found = [scenario.upstream for scenario in scenarios if scenario.upstream and "status" not in scenario.fields]
    return [*found, *MESSAGE_STREAMS.values()] if wire == "anthropic" else found
