"""Calls of models for one request: those of the proxy, and those within a provider.

Costs, budgets and sums by model are made from this list, so that each has the tokens of each model under its own name.
"""

from msgspec import Struct

from anthropic_proxy.engine.hooks import Receipt, UpstreamAttempt
from anthropic_proxy.engine.messages.deltas import OF_REPLY, BilledUsage, TokenCounts
from anthropic_proxy.engine.providers.model_ids import is_id_of_model
from anthropic_proxy.engine.service_tiers import normalize_region, normalize_service_tier


class ModelCall(Struct, frozen=True):
    """A call of one model, by the proxy or within a provider."""

    tokens: TokenCounts
    provider: str = ""
    """Name of the provider. "": that of the receipt."""
    model: str = ""
    """"": that of the receipt."""
    searches: int = 0
    tier: str = ""
    """Service tier as `normalize_service_tier` returns it. "": the normal tier."""
    region: str = ""
    """Region as `normalize_region` returns it. "": no certain one."""
    stated_cost: int = 0
    kind: str = ""
    """`ModelUsage.kind`."""
    called_model: str = ""
    """Model that the proxy has called, if the provider has called another one, `model`. "": `model` itself."""

    @property
    def is_other_model(self) -> bool:
        return bool(self.called_model)

    @property
    def is_empty(self) -> bool:
        return not self.searches and not self.tokens.all_tokens


def list_calls(receipt: Receipt) -> list[ModelCall]:
    if len(receipt.attempts) < 2:
        return _divide_call(receipt, "", "", receipt.model)
    return list_calls_of_attempts(receipt)


def list_calls_of_attempts(receipt: Receipt) -> list[ModelCall]:
    return [call for one in receipt.attempts for call in list_calls_of_attempt(one)]


def list_calls_of_attempt(attempt: UpstreamAttempt) -> list[ModelCall]:
    return _divide_call(attempt, attempt.provider, attempt.model, attempt.model)


def _divide_call(usage: BilledUsage, provider: str, model: str, own_model: str) -> list[ModelCall]:
    """Return a call of the proxy without those within the provider, and these."""
    tier, region = normalize_service_tier(usage.service_tier), normalize_region(usage.region)
    if not usage.iterations:
        whole = ModelCall(usage, provider, model, usage.billed_searches, tier, region, usage.stated_cost)
        return [] if whole.is_empty else [whole]
    calls = [ModelCall(usage.count_without_iterations(), provider, model, usage.billed_searches, tier, region)]
    for one in usage.iterations:
        is_other = bool(one.model) and not is_id_of_model(one.model, own_model)
        calls.append(
            ModelCall(
                one,
                provider,
                one.model if is_other else model,
                tier=tier,
                region=region,
                kind=one.kind if is_other or one.kind not in OF_REPLY else "",
                called_model=own_model if is_other else "",
            )
        )
    return [call for call in calls if not call.is_empty]
