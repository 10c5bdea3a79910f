"""Knowledge learned by one process is valid for another one with the same settings, and only there."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from anthropic_proxy.engine.messages.loaded_tools import PLACEHOLDER_NAME
from anthropic_proxy.engine.routing.call_limits import slots_per_worker
from anthropic_proxy.engine.routing.health import FAILURES_TO_OPEN, MIN_OPEN_SECONDS
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import CircuitOpen, UpstreamError
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.workers.ipc import SharedObservation
from anthropic_proxy.gateway.workers.link import apply_observation, register_publisher
from tests.support.harness import FakeResponse, ProxyHarness

KEYS = ("sk-first-0123456789abcdef", "sk-second-0123456789abcdef")
SETTINGS = {"OPENAI_API_KEY": ",".join(KEYS), "BIG_MODEL": "openai/new", "PREFERRED_PROVIDER": "openai"}
CIRCUIT_STATE = "openai api.openai.com"


def towns(number: int, **settings: str) -> list[ProxyHarness]:
    return [ProxyHarness(lambda *_: FakeResponse(200, b"{}"), **{**SETTINGS, **settings}) for _ in range(number)]


def observations_of(proxy: ProxyHarness) -> list[SharedObservation]:
    facts: list[SharedObservation] = []
    register_publisher(proxy.services, facts.append)
    return facts


def apply_all(proxy: ProxyHarness, facts: Sequence[SharedObservation]) -> None:
    for fact in facts:
        apply_observation(proxy.services, fact)


async def test_lessons_are_sent_once_and_kept_for_equal_addresses() -> None:
    teller, other = towns(2)
    (elsewhere,) = towns(1, OPENAI_BASE_URL="http://localhost:1/v1")
    facts, echo = observations_of(teller), observations_of(other)
    for _ in range(2):
        teller.services.observations.store_adaptation("openai", "new", "temperature", "local")
    apply_all(other, facts)
    apply_all(elsewhere, facts)
    assert other.services.observations.find_adaptations("openai", "new", "local") == ("temperature",)
    assert elsewhere.services.observations.find_adaptations("openai", "new", "local") == ()
    assert (len(facts), echo) == (1, [])


async def test_lessons_are_valid_after_a_change_of_another_provider(tmp_path: Path) -> None:
    """The hub sends them also to workers that start after the change."""
    (tmp_path / CONFIG_FILE).write_text('[providers.table]\nbase_url = "http://localhost:1/v1"')
    (teller,) = towns(1)
    facts = observations_of(teller)
    teller.services.observations.store_adaptation("openai", "new", "temperature", "local")
    fail(teller)
    later = ProxyHarness(lambda *_: FakeResponse(200, b"{}"), env_file=str(tmp_path / ".env"), **SETTINGS)
    apply_all(later, facts)
    assert later.services.observations.find_adaptations("openai", "new", "local") == ("temperature",)
    assert later.services.circuit_breakers.open_circuit_count() == 1


@pytest.mark.parametrize("change", ["headers = {x-mode = 'b'}", "body = {mode = 'b'}"])
async def test_lessons_are_not_valid_with_other_headers_or_body_fields(tmp_path: Path, change: str) -> None:
    proxies = []
    for lines in ("headers = {x-mode = 'a'}", change):
        (tmp_path / CONFIG_FILE).write_text(f"[providers.openai]\n{lines}")
        env_file = str(tmp_path / ".env")
        proxies.append(ProxyHarness(lambda *_: FakeResponse(200, b"{}"), env_file=env_file, **SETTINGS))
    teller, other = proxies
    facts = observations_of(teller)
    teller.services.observations.store_adaptation("openai", "new", "temperature", "local")
    apply_all(other, facts)
    assert other.services.observations.find_adaptations("openai", "new", "local") == ()


@pytest.mark.parametrize(("host", "count"), [("api.openai.com", 1), ("api.cerebras.ai", 0)])
async def test_the_places_of_tools_are_sent_only_for_models_whose_loaded_tools_are_not_listed(
    host: str, count: int
) -> None:
    (teller,) = towns(1, OPENAI_BASE_URL=f"https://{host}/v1")
    facts = observations_of(teller)
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("ToolSearch", PLACEHOLDER_NAME)]
    for _ in range(2):
        await teller.post(tools=tools, headers={"x-claude-code-session-id": "s"})
    assert len(facts) == count


def fail(proxy: ProxyHarness, times: int = FAILURES_TO_OPEN) -> None:
    for _ in range(times):
        proxy.services.circuit_breakers.record_failure(
            CIRCUIT_STATE, UpstreamError(f"openai: {KEYS[0]} is no key", status=529, kind="overloaded_error"), "local"
        )


async def test_an_upstream_that_fails_one_worker_is_left_alone_by_all_until_it_works_again() -> None:
    teller, other = towns(2)
    (mended,) = towns(1, OPENAI_API_KEY="sk-third-0123456789abcdef")
    facts = observations_of(teller)
    fail(teller, FAILURES_TO_OPEN - 1)
    assert facts == []
    fail(teller, 1)
    assert [fact.lifetime_seconds for fact in facts] == [MIN_OPEN_SECONDS]
    assert KEYS[0] not in repr(facts), "what a provider says may hold a key"
    apply_all(other, facts)
    apply_all(mended, facts)
    assert mended.services.circuit_breakers.open_circuit_count() == 0, "another key may mend it"
    with pytest.raises(CircuitOpen) as refused:
        other.services.circuit_breakers.require_closed(CIRCUIT_STATE, "local")
    assert (refused.value.status, refused.value.error_type) == (529, "overloaded_error")
    assert refused.value.message.startswith("openai failed with status 529. It failed 5 times in a row")
    teller.services.circuit_breakers.record_success(CIRCUIT_STATE, "local")
    apply_all(other, facts)
    other.services.circuit_breakers.require_closed(CIRCUIT_STATE, "local")


async def test_a_spent_key_is_paused_for_all_and_never_sent() -> None:
    used: list[str] = []

    def upstream(_: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        used.append(credential.value.removeprefix("Bearer "))
        return FakeResponse(429 if used[-1] == KEYS[0] else 200, b'{"error": {"message": "spent"}}')

    teller, other = ProxyHarness(upstream, **SETTINGS), ProxyHarness(upstream, **SETTINGS)
    facts, echo = observations_of(teller), observations_of(other)
    await teller.post()
    apply_all(other, facts)
    await other.post()
    assert used == [KEYS[0], KEYS[1], KEYS[1]]
    assert ([fact.kind for fact in facts], echo) == (["key"], [])
    assert not [key for key in KEYS if key in repr(facts)]


@pytest.mark.parametrize(("limit", "number"), [(100, 4), (5, 3), (2, 3), (1, 1)])
def test_a_limit_is_shared_out(limit: int, number: int) -> None:
    portions = [slots_per_worker(limit, place, number) for place in range(number)]
    assert sum(portions) == max(limit, number)
    assert max(portions) - min(portions) <= 1
