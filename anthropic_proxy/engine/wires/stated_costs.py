"""Costs that a provider states in the token counts of a reply."""

from contextlib import suppress

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.models.raw_json import ABSENT, is_present
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS

_TICKS = 10_000_000_000
_TRUE, _FALSE = Raw(b"true"), Raw(b"false")
_MAX_DOLLARS = 1_000
"""A larger amount has another meaning."""


class StatedCost(Struct, gc=False):
    """Fields of `usage` with the cost of a call: of OpenRouter in US dollars over Chat Completions
    (openrouter.ai/docs/use-cases/usage-accounting, read 2026-11-26) and Responses (simonw/llm-openrouter pull 60), and
    of xAI over both (docs.x.ai/developers/cost-tracking, read 2026-11-27).
    """

    cost: Raw = ABSENT
    """Other vendors have an object here, which is not read."""
    is_byok: Raw = ABSENT
    """True if another vendor bills the call to the user's own key at OpenRouter. `cost` is then only the fee of
    OpenRouter, also 0 (tailcallhq/forgecode issue 1641)."""
    cost_details: Raw = ABSENT
    """Its `upstream_inference_cost` is what that vendor bills. Other calls repeat `cost` there, or have null."""

    cost_in_usd_ticks: Raw = ABSENT
    """xAI: ten thousand millions of ticks are one US dollar. Discounts and searches are included."""

    def read_nano_dollars(self) -> int | None:
        """Return what the user pays for the call. None: the provider states no usable amount."""
        if self.cost is self.cost_details is self.cost_in_usd_ticks is ABSENT:  # most vendors
            return None
        charged, own = _read_amount(self.cost), 0.0
        if self.is_byok != _FALSE and is_present(self.cost_details):
            with suppress(*DECODE_ERRORS):
                own = _read_amount(_decode_details(self.cost_details).upstream_inference_cost)
        dollars = charged or _read_amount(self.cost_in_usd_ticks) / _TICKS
        if self.is_byok == _TRUE:
            dollars = charged + own if own else 0
        elif own > charged:  # replies before the field `is_byok`
            dollars = charged + own
        return round(dollars * 1_000_000_000) if 0 < dollars <= _MAX_DOLLARS else None


class _Details(Struct, gc=False):
    upstream_inference_cost: Raw = ABSENT


_decode_details = msgspec.json.Decoder(_Details).decode


def _read_amount(amount: Raw) -> float:
    """0: no number, or a negative one."""
    if is_present(amount):
        with suppress(*DECODE_ERRORS):
            return max(msgspec.json.decode(amount, type=float), 0.0)
    return 0.0
