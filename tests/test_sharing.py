"""What one process learns is true for another one with the same settings, and only there."""

from collections.abc import Sequence

import pytest

from anthropic_proxy.errors import UpstreamError, UpstreamResting
from anthropic_proxy.routing.health import portion_of
from anthropic_proxy.routing.health.breakers import FAILURES_TO_OPEN, FIRST_REST_SECONDS
from anthropic_proxy.server.channel import Fact
from anthropic_proxy.sharing import share, take
from anthropic_proxy.wire.contract import Credential, UpstreamRequest
from tests.house import Answer, Town

KEYS = ("sk-first-0123456789abcdef", "sk-second-0123456789abcdef")
SETTINGS = {"OPENAI_API_KEY": ",".join(KEYS), "BIG_MODEL": "openai/new", "PREFERRED_PROVIDER": "openai"}
UPSTREAM = "openai api.openai.com"


def towns(number: int, **settings: str) -> list[Town]:
    return [Town(lambda *_: Answer(200, b"{}"), **{**SETTINGS, **settings}) for _ in range(number)]


def told_by(town: Town) -> list[Fact]:
    facts: list[Fact] = []
    share(town.house, facts.append)
    return facts


def take_all(town: Town, facts: Sequence[Fact]) -> None:
    for fact in facts:
        take(town.house, fact)


async def test_lessons_are_told_once_and_kept_where_the_addresses_are_the_same() -> None:
    teller, other = towns(2)
    (elsewhere,) = towns(1, OPENAI_BASE_URL="http://localhost:1/v1")
    facts, echo = told_by(teller), told_by(other)
    for _ in range(2):
        await teller.house.learned.remember("openai", "new", "temperature")
    take_all(other, facts)
    take_all(elsewhere, facts)
    assert await other.house.learned.find("openai", "new") == ("temperature",)
    assert await elsewhere.house.learned.find("openai", "new") == ()
    assert (len(facts), echo) == (1, [])


def fail(town: Town, times: int = FAILURES_TO_OPEN) -> None:
    for _ in range(times):
        town.house.breakers.failed(
            UPSTREAM, UpstreamError(f"openai: {KEYS[0]} is no key", status=529, kind="overloaded_error")
        )


async def test_an_upstream_that_fails_one_worker_is_left_alone_by_all_until_it_works_again() -> None:
    teller, other = towns(2)
    (mended,) = towns(1, OPENAI_API_KEY="sk-third-0123456789abcdef")
    facts = told_by(teller)
    fail(teller, FAILURES_TO_OPEN - 1)
    assert facts == []
    fail(teller, 1)
    assert [fact.seconds for fact in facts] == [FIRST_REST_SECONDS]
    assert KEYS[0] not in repr(facts), "what a provider says may hold a key"
    take_all(other, facts)
    take_all(mended, facts)
    assert mended.house.breakers.count_resting() == 0, "another key may mend it"
    with pytest.raises(UpstreamResting) as refused:
        other.house.breakers.admit(UPSTREAM)
    assert (refused.value.status, refused.value.kind) == (529, "overloaded_error")
    assert refused.value.message.startswith("openai failed with status 529. It failed 5 times in a row")
    teller.house.breakers.succeeded(UPSTREAM)
    take_all(other, facts)
    other.house.breakers.admit(UPSTREAM)


async def test_a_key_that_is_spent_rests_for_all_and_is_told_to_nobody() -> None:
    used: list[str] = []

    def street(_: str, request: UpstreamRequest, credential: Credential | None) -> Answer:
        assert credential is not None
        used.append(credential.value.removeprefix("Bearer "))
        return Answer(429 if used[-1] == KEYS[0] else 200, b'{"error": {"message": "spent"}}')

    teller, other = Town(street, **SETTINGS), Town(street, **SETTINGS)
    facts, echo = told_by(teller), told_by(other)
    await teller.ask()
    take_all(other, facts)
    await other.ask()
    assert used == [KEYS[0], KEYS[1], KEYS[1]]
    assert ([fact.kind for fact in facts], echo) == (["key"], [])
    assert not [key for key in KEYS if key in repr(facts)]


@pytest.mark.parametrize(("limit", "number"), [(100, 4), (5, 3), (2, 3), (1, 1)])
def test_a_limit_is_shared_out(limit: int, number: int) -> None:
    portions = [portion_of(limit, place, number) for place in range(number)]
    assert sum(portions) == max(limit, number)
    assert max(portions) - min(portions) <= 1
