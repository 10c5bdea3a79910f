"""Prices of the models that a route with `balance = "cost"` compares, to call the cheapest one first.

The prices come from `[prices]` in the configuration file or from the package `genai-prices`.
`find_typical_request_prices` returns them. `require_known_prices` rejects a configuration with an unknown price.
"""

from collections.abc import Iterator, Mapping

from anthropic_proxy.engine.options import ConfiguredRoute
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.router import RoutingQuery, Target, build_route
from anthropic_proxy.errors import ClientError, ConfigurationError, build_extra_install_command
from anthropic_proxy.gateway.prices.price_list import PriceList, TokenCounts
from anthropic_proxy.gateway.prices.updates import find_price_source, has_price_package
from anthropic_proxy.gateway.settings import Settings

EXTRA = "prices"
_TYPICAL = TokenCounts(input_tokens=2_000, cache_read_tokens=18_000, output_tokens=1_000)
"""Token counts of the request for which prices are compared: a long conversation, mostly in the provider's cache."""


def find_typical_request_prices(settings: Settings) -> Mapping[str, float]:
    """Models without a known price are absent."""
    find_price_source(settings.data_directory).reload_if_changed()
    prices = PriceList(settings)
    found: dict[str, float] = {}
    for _, target in _list_targets(settings):
        price = prices.find(target.provider, target.model)
        if price is not None:
            found[_name(target)] = price.calculate_cost(_TYPICAL)
    return found


def require_known_prices(settings: Settings) -> None:
    """Raise `ConfigurationError` for the models of routes with `balance = "cost"` whose price is unknown."""
    prices, messages = find_typical_request_prices(settings), []
    for rule, target in _list_targets(settings):
        name = _name(target)
        if name not in prices:
            place, table = rule.origin.replace(" line ", ", line "), f'[prices."{name}"]'
            install = (
                "" if has_price_package() else f", or install the price list:  {build_extra_install_command(EXTRA)}"
            )
            messages.append(
                f'The route "{rule.name}" ({place}) has balance = "cost", but {name} has no known price. '
                f"Add {table} with input and output to anthropic-proxy.toml{install or '.'}"
            )
    if messages:
        raise ConfigurationError(*messages, code="route-invalid")


def _list_targets(settings: Settings) -> Iterator[tuple[ConfiguredRoute, Target]]:
    """Targets that cannot serve requests are left out."""
    for rule in settings.routes:
        if rule.balance == "cost":
            try:
                targets = build_route(RoutingQuery("claude", rule=rule), settings, Catalog()).targets
            except ClientError:
                continue  # the start-up summary contains the error
            for target in targets:
                yield rule, target


def _name(target: Target) -> str:
    return f"{target.provider.prefix}/{target.model}"
