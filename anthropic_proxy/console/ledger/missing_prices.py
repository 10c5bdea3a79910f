"""Requests with an unknown cost: the models that replied and have no price, and the lines that set one."""

from collections.abc import Sequence

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.queries import ModelSums
from anthropic_proxy.console.ledger.records import UsageSums, add_up
from anthropic_proxy.errors import build_extra_install_command, join_with_and
from anthropic_proxy.gateway.prices.price_list import PACKAGE, format_own_price, has_price_package
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

_MAX_NAMED = 3


class MissingPrices(Struct, frozen=True):
    text: str
    remedy: str
    lines: str
    """Lines for `anthropic-proxy.toml`, for each model that `text` names. "": all models have a price today."""
    command: str
    """Command that installs the price list. "": it is installed."""


def find_missing_prices(costs: ModelCosts, replied: Sequence[ModelSums]) -> MissingPrices | None:
    """`replied`: all models of a range that replied. None: all costs are known."""
    total = add_up(one.sums for one in replied)
    if not total.unknown_cost_requests:
        return None
    text = f"The cost of {count_unknown(total)} is unknown"
    unpriced = [
        one
        for one in sorted(replied, key=lambda one: -one.sums.unknown_cost_requests)
        if one.sums.unknown_cost_requests and costs.find_price(one.provider, one.model) is None
    ]
    if not unpriced:
        return MissingPrices(
            text + ": the price was set later, or the number of tokens or the price of a service tier is unknown.",
            "A cost is calculated when a request ends; a later price does not change it.",
            "",
            "",
        )
    models = [f"{costs.find_prefix(one.provider)}/{one.model}" for one in unpriced]
    named = models if len(models) <= _MAX_NAMED else models[: _MAX_NAMED - 1]
    others = [f"{len(models) - len(named)} other models"] if len(named) < len(models) else []
    verb, its = ("has", "its") if len(models) == 1 else ("have", "their")
    where = f" in {PACKAGE} for {its} address" if has_price_package() else ""
    return MissingPrices(
        f"{text}: {join_with_and([*map(escape_unprintable, named), *others])}, which replied, {verb} no price{where}.",
        f"add the prices of each model in dollars per million tokens to {CONFIG_FILE}, 0 for a server of your own. "
        f"The name can be a pattern: {models[0].partition('/')[0]}/*. Prices apply to later requests.",
        "\n".join(line for model in named for line in format_own_price(model)),
        "" if where else build_extra_install_command("prices"),
    )


def count_unknown(sums: UsageSums) -> str:
    """`3 of 5 requests`"""
    return f"{sums.unknown_cost_requests:,} of {formats.plural(sums.requests, 'request')}"
