"""Facts that policies receive about a request, also about one that is relayed without a complete decoding."""

from collections.abc import Awaitable, Callable

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.admission import settled_admission
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.tokens import TokenScale
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.plugins import AdmissionRequest, Client, FurtherCall, Headers, Receipt, Settle, UpstreamAttempt
from tests.support.harness import FakeResponse, ProxyHarness, new_client_request

TEXT = "Count these words. " * 2_000
PROVIDERS = {
    "PREFERRED_PROVIDER": "anthropic",
    "ANTHROPIC_API_KEY": "sk-ant-one-0123456789",
    "OPENAI_API_KEY": "sk-one-0123456789",
}


class Recorder:
    """A policy that keeps the facts about a request."""

    def __init__(self) -> None:
        self.requests: list[AdmissionRequest] = []
        self.estimates: list[int] = []

    async def identify(self, headers: Headers) -> Client | None:
        return None

    async def admit(self, request: AdmissionRequest) -> None:
        self.requests.append(request)
        self.estimates.append(request.estimate_input_tokens())


async def describe(**fields: object) -> tuple[AdmissionRequest, int]:
    proxy, policy = ProxyHarness(lambda *_: FakeResponse(400, b"{}"), **PROVIDERS), Recorder()
    proxy.services = structs.replace(proxy.services, policies=(policy,))
    await proxy.post(**{"text": TEXT, "max_tokens": 16, **fields})
    return policy.requests[0], policy.estimates[0]


async def test_a_relay_is_admitted_with_the_tokens_of_its_messages_and_its_maximum() -> None:
    relayed, relayed_tokens = await describe(model="anthropic/claude-sonnet-4-5")
    translated, translated_tokens = await describe(model="openai/gpt-4.1-mini")
    assert min(relayed_tokens, translated_tokens) > len(TEXT) / 8
    assert [target.max_output_tokens for target in (*relayed.targets, *translated.targets)] == [16, 16]


async def test_a_relay_that_only_its_provider_can_decode_counts_by_its_size() -> None:
    _, tokens = await describe(model="anthropic/claude-sonnet-4-5", temperature="warm")
    assert tokens > len(TEXT) / 8


async def test_an_invalid_maximum_reserves_no_negative_amount() -> None:
    request, _ = await describe(model="anthropic/claude-sonnet-4-5", max_tokens=-5_000)
    assert [target.max_output_tokens for target in request.targets] == [0]


async def test_the_model_of_an_alias_is_the_one_that_it_names() -> None:
    request, _ = await describe(model="claude-openai/gpt-4.1-mini[1m]")
    assert (request.model, request.normalized_model) == ("claude-openai/gpt-4.1-mini[1m]", "openai/gpt-4.1-mini")
    assert request.mapped_model == "openai/gpt-4.1-mini"


async def test_a_claude_model_with_the_prefix_of_anthropic_is_the_one_that_is_mapped() -> None:
    request, _ = await describe(model="anthropic/claude-sonnet-4-5[1m]")
    assert (request.normalized_model, request.mapped_model) == ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5")
    request, _ = await describe(model="anthropic/other")
    assert (request.normalized_model, request.mapped_model) == ("anthropic/other", "anthropic/other")


class Settler:
    """A policy that admits every request, and calls `settle` at its end."""

    def __init__(self, settle: Settle) -> None:
        self._settle = settle

    async def identify(self, headers: Headers) -> Client | None:
        return None

    async def admit(self, request: AdmissionRequest) -> Settle:
        return self._settle


def _fail(receipt: Receipt) -> None:
    raise LookupError("no such budget")


async def _post_message(proxy: ProxyHarness) -> None:
    await proxy.post(model="openai/gpt-4.1-mini")
    assert [receipt.status for receipt in proxy.receipts] == [400]


async def _count_tokens(proxy: ProxyHarness) -> None:
    with settled_admission(proxy.services, new_client_request(b"{}")) as admission:
        await admission.admit_without_model()


@pytest.mark.parametrize("request_of", [_post_message, _count_tokens])
async def test_the_end_of_a_request_reaches_all_policies_although_one_fails(
    request_of: Callable[[ProxyHarness], Awaitable[None]],
) -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(400, b"{}"), **PROVIDERS)
    settled: list[Receipt] = []
    proxy.services = structs.replace(
        proxy.services, policies=(Settler(settled.append), Settler(_fail), Settler(settled.append))
    )
    await request_of(proxy)
    assert len(settled) == 2
    assert "LookupError: no such budget" in proxy.log.getvalue()


class Counter(Settler):
    """A policy that admits every request and further call, and counts the calls."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.calls: list[str] = []

    async def admit(self, request: AdmissionRequest) -> Settle:
        async def count(further: FurtherCall) -> None:
            self.calls.append(further.target.model)

        request.further_calls.append(count)
        return await super().admit(request)


class Denier(Settler):
    """A policy that denies the models of one plan."""

    async def admit(self, request: AdmissionRequest) -> Settle:
        if request.targets[0].model == "gpt-4.1":
            raise PermissionDenied("not this model", code="key-models")
        return await super().admit(request)


@pytest.mark.parametrize(
    ("used", "expected"), [({"input_tokens": 5}, 1), ({"cache_read_tokens": 5}, 1), ({"output_tokens": 5}, 1), ({}, 0)]
)
async def test_a_further_call_of_the_second_plan_is_admitted_once_if_a_call_was_billed(
    used: dict[str, int], expected: int
) -> None:
    proxy, counter = ProxyHarness(lambda *_: FakeResponse(400, b"{}"), **PROVIDERS), Counter()
    settled: list[Receipt] = []
    proxy.services = structs.replace(proxy.services, policies=(counter, Denier(settled.append)))
    names = ("openai/gpt-4.1", "openai/gpt-4.1-mini")
    plans = [build_plan(RoutingQuery(name), proxy.services.settings, proxy.services.catalog) for name in names]
    incoming = new_client_request(b"{}")
    with settled_admission(proxy.services, incoming) as admission:
        request = MessagesRequest(model="claude-opus-5", messages=[])
        plan = await admission.admit_plan(request, plans, is_limit_query=False)
        assert plan is plans[1]
        incoming.receipt.attempts.append(UpstreamAttempt(provider="openai", model="m", offset_seconds=0.0, **used))
        await admission.admit_further_call(plan.targets[0], request, TokenScale())
    assert counter.calls == ["gpt-4.1-mini"] * expected
    assert len(settled) == 1
