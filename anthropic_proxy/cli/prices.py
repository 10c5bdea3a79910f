"""Command `prices update`: stores a newer price list, and prints the changed prices of the configured models.

A running proxy uses the stored list for its next requests.
"""

import asyncio
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import App as Commands
from cyclopts import Parameter
from msgspec import structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.command_table import COMMANDS
from anthropic_proxy.cli.models import ModelPrice, describe_price, find_model_price
from anthropic_proxy.cli.output import Column, Output
from anthropic_proxy.engine.routing.router import RoutingQuery, build_route, list_tier_mappings
from anthropic_proxy.errors import ClientError, UpstreamError
from anthropic_proxy.gateway.plugin_gateway import send_http
from anthropic_proxy.gateway.prices.updates import (
    MAX_PRICE_BYTES,
    InvalidPrices,
    OlderPrices,
    describe_update_failure,
    download_prices,
    find_price_list_url,
    find_price_source,
    format_date,
    read_price_list,
    record_update_success,
    require_price_directory,
    store_new_prices,
)
from anthropic_proxy.gateway.services import Services, open_services
from anthropic_proxy.gateway.settings import Settings

prices = Commands(name="prices", help_epilogue=COMMANDS["prices"].show_examples())
"""Group of the commands `prices …`."""
_Prices = Mapping[str, "ModelPrice | None"]
"""Model id with prefix → price. None: the price is unknown."""


@prices.command
def update(
    *,
    source: Annotated[str, Parameter(name="--from")] = "",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Download the newest price list, check it, and store it for this user. Costs of earlier requests do not change.

    Exit status: 0 the list was stored, or is older than the prices in use; 1 it is not valid or cannot be downloaded.

    Parameters
    ----------
    source
        URL or file of the list; by default PRICE_UPDATE_URL, or the address at which genai-prices publishes it.
    as_json
        Print the result as one JSON object.
    """
    sys.exit(asyncio.run(_update(load_command_settings(), source, as_json)))


async def _update(settings: Settings, source: str, as_json: bool) -> int:
    """Store the price list at `source`, print the changes, and return the exit status."""
    directory = require_price_directory(settings)
    origin, output = source or find_price_list_url(settings), Output()
    services = await open_services(settings)
    try:
        before = _list_prices(services)
        if origin.startswith(("http://", "https://")):
            content = await download_prices(
                lambda url: send_http(services, "GET", url, max_bytes=MAX_PRICE_BYTES), origin
            )
        else:
            content = read_price_list(Path(origin))
        result = store_new_prices(directory, content, origin, date.today())
        record_update_success(directory)
        find_price_source(directory).reload_if_changed()
        after = _list_prices(services)
    except OlderPrices as error:
        output.write_notice(describe_update_failure(error, origin, directory), "!", "warn")
        return 0
    except (InvalidPrices, UpstreamError) as error:
        output.write_notice(describe_update_failure(error, origin, directory), "✕", "error")
        return 1
    finally:
        await services.close()

    stored = result.stored
    changed = [name for name in after if _amounts(before.get(name)) != _amounts(after[name])]
    if as_json:
        output.write_json(
            {
                "updated_on": stored.updated_on,
                "dated_on": stored.dated_on,
                "origin": stored.origin,
                "providers": result.provider_count,
                "models": result.model_count,
                "changed": [{"model": name, "old": before.get(name), "new": after[name]} for name in changed],
            }
        )
        return 0
    if changed:
        rows = [(name, describe_price(before.get(name)), describe_price(after[name])) for name in changed]
        output.write_table([Column("Model"), Column("Old $/M in / cached / out"), Column("New")], rows)
    kept = sum(1 for name in after if name not in changed)
    output.write_notice(
        f"Stored the prices of {result.model_count:,} models of {result.provider_count} providers, "
        f"dated {format_date(stored.dated_on)}, from {stored.origin}.",
        "✓",
        "ok",
    )
    output.write_notice(
        f"Configured models with changed prices: {len(changed)}, unchanged: {kept}. "
        "A running proxy uses the new prices for its next requests. Stored costs do not change."
    )
    return 0


def _list_prices(services: Services) -> _Prices:
    rows = list_tier_mappings(services.settings, services.catalog)
    names = [name for row in rows for name in (row.target, *row.fallbacks) if "…" not in name]
    for rule in services.settings.routes:
        try:
            route = build_route(RoutingQuery("claude", rule=rule), services.settings, services.catalog)
        except ClientError:
            continue  # the command `routes list` contains the error
        names += [f"{target.provider.prefix}/{target.model}" for target in route.targets]
    return {name: find_model_price(services.settings, name) for name in dict.fromkeys(names)}


def _amounts(price: ModelPrice | None) -> object:
    """Return all amounts of a price, without its source, to compare two prices."""
    return None if price is None else structs.replace(price, source="")
