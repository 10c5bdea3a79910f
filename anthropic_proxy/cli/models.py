"""Command `models`: the model of each Claude tier, or the models of one provider, with limits and prices.

`describe_price` returns the prices of a model as text.
"""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.installation import build_extra_install_command
from anthropic_proxy.money import format_price

if TYPE_CHECKING:
    from anthropic_proxy.cli.model_overview import ModelFacts, ModelPrice, ProviderModels, TokenPrices
    from anthropic_proxy.cli.output import Column, Output
    from anthropic_proxy.routing.providers import Provider
    from anthropic_proxy.settings import Settings

_PRICE_TITLES = ("in", "cached", "out, $/M tokens")
_PRICES_TITLE = "$/M in / cached / out"
NO_PRICES = f"Prices need the package genai-prices:  {build_extra_install_command('prices')}"
"""Message that the package with the prices of models is not installed."""


def models(
    provider: Annotated[str | None, Parameter(completer=complete_providers)] = None,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Show the model that each Claude model is sent to, or the models of a provider, with limits and prices.

    Parameters
    ----------
    provider
        Provider to list, such as openai, or model, such as openai/gpt-4.1; by default the mapping of the Claude models.
    as_json
        Print one JSON object instead.
    """
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415  # --help needs none of it

    status = asyncio.run(_show_mapping(Output(), as_json) if provider is None else _show(Output(), provider, as_json))
    sys.exit(status)


async def _show_mapping(output: "Output", as_json: bool) -> int:
    """Print the model of each Claude tier, and the number of models of each provider. Return the exit status.

    `as_json`: print one JSON object instead.
    """
    from anthropic_proxy.cli.model_overview import list_tier_groups, query_all_providers  # noqa: PLC0415
    from anthropic_proxy.services import open_services  # noqa: PLC0415

    services = await open_services(load_command_settings(resolves_keys=True))
    try:
        tiers, offered = await list_tier_groups(services), await query_all_providers(services)
    finally:
        await services.close()
    if as_json:
        output.write_json({"mapping": tiers, "providers": offered})
        return 0
    columns, rows = _columns(output, "Requested model", "Sent to"), []
    for row in tiers:
        rows.append([_name_tiers(row.tiers, is_short=output.is_terminal), row.facts.model, *_cells(output, row.facts)])
        rows += [["", f"then {fallback}", *[""] * (len(columns) - 2)] for fallback in row.fallbacks]
    if offered and output.is_terminal:
        prefixes = "  ".join(f"{models.provider}/…" for models in offered)
        rows.append([prefixes, "the requested model", *["as listed"] * (len(columns) - 2)])
    output.write_table(columns, rows)
    for problem in dict.fromkeys(problem for row in tiers for problem in row.problems):
        output.write_notice(problem, "✕", "error")
    _write_counts(output, offered, services.settings)
    return 0


async def _show(output: "Output", name: str, as_json: bool) -> int:
    """Print the models of one provider, or one model. Return the exit status: 1 if the models are not available.

    `name`: `openai` or `openai/gpt-4.1`. `as_json`: print one JSON object instead.
    """
    from anthropic_proxy.cli.model_overview import find_provider, query_provider, query_provider_model  # noqa: PLC0415
    from anthropic_proxy.routing.providers import find_registry  # noqa: PLC0415
    from anthropic_proxy.services import open_services  # noqa: PLC0415

    settings = load_command_settings(resolves_keys=True)
    word, _, model = name.partition("/")
    provider = find_provider(word, settings)
    if provider is None:
        raise _unknown_provider(name, find_registry(settings))
    services = await open_services(settings)
    try:
        offered = await (
            query_provider_model(services, provider, model) if model else query_provider(services, provider)
        )
    finally:
        await services.close()
    status = 1 if offered.problem else 0
    if as_json:
        output.write_json(offered)
        return status
    if offered.models:
        output.write_table(_columns(output, "Model"), [(fact.model, *_cells(output, fact)) for fact in offered.models])
    if offered.models and model and output.is_terminal:
        _write_price(output, offered.models[0].price)
    if offered.problem:
        output.write_notice(offered.problem, "✕", "error")
    if offered.source == "built-in" and offered.models and not model:
        output.write_notice(
            f"These are the models of {provider.title} that the proxy knows, not its own list.", "!", "warn"
        )
    _write_price_source(output, settings if offered.models else None)
    return status


def _write_price(output: "Output", price: "ModelPrice | None") -> None:
    """Print all prices of one model with their source: each kind of token, long contexts and web searches."""
    from anthropic_proxy.cli.output import Column  # noqa: PLC0415

    if price is None:
        return
    output.write_line()
    titles = ("Input tokens", "In", "Cached", "Out", "Cache write", "1 h write", "Thinking")
    rows = [["any" if not price.long_contexts else f"up to {min(price.long_contexts):,}", *_list_amounts(price)]]
    rows += [[f"above {above:,}", *_list_amounts(longer)] for above, longer in price.long_contexts.items()]
    output.write_table([Column(titles[0]), *(Column(title, True) for title in titles[1:])], rows)
    searches = price.web_search_per_1000
    note = f" 1,000 web searches by the provider: {format_price(searches)}." if searches else ""
    output.write_line(output.paint(f"  US dollars per million tokens.{note} Source: {price.source}", "quiet"))


def _list_amounts(prices: "TokenPrices") -> list[str]:
    amounts = (prices.input, prices.cached_input, prices.output, prices.cache_write, prices.cache_write_1h)
    return [format_price(amount) for amount in (*amounts, prices.thinking)]


def _write_price_source(output: "Output", settings: "Settings | None") -> None:
    """Print origin and date of the price list on a terminal, or that it is not installed or not valid.

    `settings`: None: nothing with a price was printed.
    """
    from anthropic_proxy.ledger.price_updates import (  # noqa: PLC0415
        describe_price_list,
        find_price_source,
        has_price_package,
    )

    if not has_price_package():
        output.write_notice(NO_PRICES, "!", "warn")
    elif settings is not None:
        described = describe_price_list(settings.data_directory)
        if output.is_terminal:
            text = f"  {described}. Newer prices:  anthropic-proxy prices update"
            output.write_line(output.paint(text, "quiet"))
        if problem := find_price_source(settings.data_directory).problem:
            output.write_notice(problem, "!", "warn")


def _unknown_provider(name: str, rows: "Iterable[Provider]") -> ConfigurationError:
    from fnmatch import fnmatch  # noqa: PLC0415

    from anthropic_proxy.settings.values import find_similar_choice  # noqa: PLC0415

    prefixes, model = [row.prefix for row in rows], name.lower()
    known = ((row.prefix, pattern.lower()) for row in rows for pattern in (*row.known_models, *row.model_id_patterns))
    owner = next((prefix for prefix, pattern in known if fnmatch(model, pattern)), "")
    nearest = f"{owner}/{model}" if owner else find_similar_choice(model, prefixes)
    return ConfigurationError(
        f'There is no provider "{name}". The providers are: {", ".join(prefixes)}. '
        + (f"Did you mean:  anthropic-proxy models {nearest}" if nearest else "More:  anthropic-proxy models --help")
    )


def _columns(output: "Output", *titles: str) -> Sequence["Column"]:
    from anthropic_proxy.cli.output import Column  # noqa: PLC0415

    names, limits = [Column(title) for title in titles], [Column("Context", True), Column("Output", True)]
    prices = [Column(_PRICES_TITLE)] if output.is_terminal else [Column(title, True) for title in _PRICE_TITLES]
    return [*names, *limits, *prices]


def _cells(output: "Output", facts: "ModelFacts") -> Sequence[str]:
    """Return the texts for limits and prices of a model, the table cells after its name."""
    if facts.model.endswith("…"):  # the requested model itself
        return ["as listed"] * (3 if output.is_terminal else 5)
    limits = [_number(value, output.is_terminal) for value in (facts.context_window, facts.max_output)]
    return [*limits, *([describe_price(facts.price)] if output.is_terminal else _price_cells(facts.price))]


def _number(value: int | None, is_grouped: bool) -> str:
    return "unknown" if value is None else f"{value:,}" if is_grouped else str(value)


def _price_cells(price: "ModelPrice | None") -> list[str]:
    """Return input, cached input and output price as texts in dollars per million tokens: `2.00`, `free`, `unknown`.

    They are separate columns, if the output is a pipe.
    """
    if price is None or not any((price.input, price.cached_input, price.output)):
        return ["unknown" if price is None else "free"] * 3
    return [format_price(amount).removeprefix("$") for amount in (price.input, price.cached_input, price.output)]


def describe_price(price: "ModelPrice | None") -> str:
    """Return the prices of input, cached input and output as one text: `$2.00   $0.50   $8.00`.

    Prices are in dollars per million tokens. None: `unknown`. All prices 0: `free`.
    """
    cells = _price_cells(price)
    if cells[0] == cells[-1] and cells[0] in ("free", "unknown"):
        return cells[0]
    return "".join(f"{cell if cell == 'free' else f'${cell}':<8}" for cell in cells).rstrip()


def _name_tiers(tiers: Sequence[str], *, is_short: bool) -> str:
    """Return the requested ids of tiers: `claude-sonnet-* claude-opus-*`, short `claude-sonnet-*  -opus-*  …`."""
    if not is_short:
        return " ".join(f"claude-{tier}-*" for tier in tiers)
    shown = "  ".join(f"-{tier}-*" for tier in tiers[:2])
    return f"claude{shown}{'  …' if len(tiers) > 2 else ''}"


def _write_counts(output: "Output", offered: Sequence["ProviderModels"], settings: "Settings") -> None:
    """Print the number of models of each provider, failed queries, and the origin of the prices."""

    reached = [row for row in offered if not row.problem]
    if reached:
        first, *others = reached
        counts = ", ".join([f"{len(row.models)} at {row.provider}" for row in others])
        output.write_notice(
            f"{len(first.models)} models at {first.provider}{counts and ', ' + counts}:  "
            f"anthropic-proxy models {first.provider}"
        )
    for row in offered:
        if row.problem:
            output.write_notice(row.problem, "!", "warn")
    _write_price_source(output, settings)
