"""Command `models`: the model of each Claude tier, or the models of one provider, with limits and prices."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from fnmatch import fnmatch
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter
from msgspec import Struct, structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.commands import new_group
from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.cli.facts_update import FactsUpdate, reset_facts, update_facts
from anthropic_proxy.cli.output import Column, Output
from anthropic_proxy.console import formats
from anthropic_proxy.engine.exchange.provider_errors import (
    assign_base_url,
    describe_base_url_setting,
    describe_connection_advice,
    suggest_base_url,
)
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.hosts import find_missing_key, find_server_name, has_own_models
from anthropic_proxy.engine.providers.model_ids import ModelId
from anthropic_proxy.engine.providers.provider_models import ListedModel, has_model_list, query_chat_models
from anthropic_proxy.engine.routing.choices import find_preferred_provider
from anthropic_proxy.engine.routing.replacements import find_retirement
from anthropic_proxy.engine.routing.targets import find_capabilities
from anthropic_proxy.errors import (
    ConfigurationError,
    ProxyError,
    UpstreamRefused,
    build_extra_install_command,
    find_similar_choice,
    suggest_name,
)
from anthropic_proxy.gateway.money import format_price
from anthropic_proxy.gateway.prices.price_list import (
    PRICE_SOURCE,
    PriceList,
    Rates,
    describe_price_sources,
    find_published_window,
    has_price_package,
)
from anthropic_proxy.gateway.problems import find_problems
from anthropic_proxy.gateway.readiness import group_tier_mappings, name_target
from anthropic_proxy.gateway.services import Services, fetch_limits_of_model, fetch_model_lists, open_services
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.facts_file import list_facts

_PRICE_TITLES = ("in", "cached", "out, $/M tokens")
_MAX_PREFIXES = 2
_PRICES_TITLE = "$/M in / cached / out"
NO_PRICES = f"Prices need the package genai-prices:  {build_extra_install_command('prices')}"
"""Message that the package with the prices of models is not installed."""


models = new_group("models")
"""The command `models`, and `models update`."""


@models.default
def show_models(
    provider: Annotated[str | None, Parameter(completer=complete_providers)] = None, /, *, as_json: bool = False
) -> None:
    """Parameters
    ----------
    provider
        Provider to list, such as openai, or model, such as openai/gpt-4.1; by default the mapping of the Claude models.
    as_json
        Print one JSON object instead.
    """
    status = asyncio.run(_show_mapping(Output(), as_json) if provider is None else _show(Output(), provider, as_json))
    sys.exit(status)


@models.command
def update(
    source: str | None = None,
    /,
    *,
    older: bool = False,
    resets: Annotated[bool, Parameter(name="--reset")] = False,
    as_json: bool = False,
) -> None:
    """Replace what this installation knows about models: limits, features, prices, retirements.

    The file must have the signature of this product. Nothing else is fetched, and nothing unless you ask.

    Parameters
    ----------
    source
        File with newer facts, or its https address.
    older
        Accept a file that is older than the one in use.
    resets
        Return to the facts of this release instead.
    as_json
        Print one JSON object instead.
    """
    settings = load_command_settings(of_running_proxy=False)
    result = reset_facts(settings) if resets and source is None else update_facts(settings, source, older=older)
    _write_update(Output(), result, as_json=as_json)


def _write_update(output: Output, result: FactsUpdate, *, as_json: bool) -> None:
    if as_json:
        output.write_json(result)
        return
    for line in result.changes:
        output.write_line(f"  {line}")
    if result.changes:
        output.write_quiet("Prices are in US dollars per million tokens, if nothing else is said.")
    output.write_notice(result.text)


async def _show_mapping(output: Output, as_json: bool) -> int:
    """Print the model of each Claude tier, and the number of models of each provider. Return the exit status."""
    services = await open_services(load_command_settings(resolves_keys=True))
    try:
        tiers = await list_tier_groups(services)
        queried = [
            provider for provider in find_registry(services.settings) if is_queried_by_default(provider, services)
        ]
        offered = await asyncio.gather(*(query_provider(services, provider) for provider in queried))
    finally:
        await services.close()
    if as_json:
        output.write_json({"mapping": tiers, "providers": offered, "facts": list_facts(services.settings.facts)})
        return 0
    rows: list[_Row] = []
    for row in tiers:
        names = ", ".join(row.tiers) if output.is_terminal else " ".join(f"claude-{tier}-*" for tier in row.tiers)
        rows.append(([names, name_target(row.facts.model)], row.facts))
        if row.otherwise is not None:
            rows.append((["", f"else {name_target(row.otherwise.model)}"], row.otherwise))
        rows += [(["", f"then {fallback}"], "") for fallback in row.fallbacks]
    if offered and output.is_terminal:
        shown = [f"{models.provider}/…" for models in offered]
        prefixes = "  ".join(shown) if len(shown) <= _MAX_PREFIXES else f"{shown[0]}  and {len(shown) - 1} more"
        rows.append(([prefixes, "the requested model"], "as listed"))
    _write_models(output, ["Requested model", "Sent to"], rows, names_retired=False)  # their successors are named below
    if routes := services.settings.routes:
        verb = "comes" if len(routes) == 1 else "come"
        count = formats.plural(len(routes), "route")
        output.write_notice(f"{count} {verb} before this mapping:  anthropic-proxy routes list")
    output.write_problems(find_problems(services.settings, services.catalog, date.today()))
    if reached := [models for models in offered if not models.problem]:
        first, *others = reached
        counts = ", ".join([f"{len(models.models)} at {models.provider}" for models in others])
        output.write_notice(
            f"{formats.plural(len(first.models), 'model')} at {first.provider}{counts and ', ' + counts}:  "
            f"anthropic-proxy models {first.provider}"
        )
    for models in offered:
        if models.problem:
            output.write_notice(models.problem, "!")
        _write_left_out(output, models)
    _write_price_source(output, [row.facts for row in tiers], services.settings)
    return 0


async def _show(output: Output, name: str, as_json: bool) -> int:
    """Print the models of one provider (`openai`), or one model (`openai/gpt-4.1`). Return the exit status."""
    settings = load_command_settings(resolves_keys=True)
    provider, model = _require_provider(name, settings)
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
        _write_models(output, ["Model"], [([fact.model], fact) for fact in offered.models])
    price = offered.models[0].price if offered.models else None
    if price is not None and model and output.is_terminal:
        first = f"up to {min(price.long_contexts):,}" if price.long_contexts else "any"
        rows = [[first, *_list_amounts(price)]]
        rows += [[f"above {above:,}", *_list_amounts(longer)] for above, longer in price.long_contexts.items()]
        titles = ("In", "Cached", "Out", "Cache write", "1 h write", "Thinking")
        output.write_line()
        output.write_table([Column("Input tokens"), *(Column(title, is_number=True) for title in titles)], rows)
        searches = price.web_search_per_1000
        note = f" 1,000 web searches by the provider: {format_price(searches)}." if searches else ""
        output.write_quiet(f"US dollars per million tokens.{note} Source: {price.source}")
    if offered.problem:
        output.write_notice(offered.problem, "✕")
    if not model:
        _write_left_out(output, offered)
    if offered.source == "built-in" and offered.models and not model:
        output.write_notice(f"These are the models of {provider.title} that the proxy knows, not its own list.", "!")
    _write_price_source(output, offered.models, settings)
    return status


def _require_provider(name: str, settings: Settings) -> tuple[Provider, str]:
    """Return the provider and the model in `openai/gpt-4.1`. The model is "" for `openai`."""
    word, _, model = name.partition("/")
    provider = find_provider(word, settings)
    if provider is not None:
        return provider, model
    registry = find_registry(settings)
    lower = name.lower()
    prefixes = [row.prefix for row in registry]
    known = (
        (row.prefix, pattern.lower()) for row in registry for pattern in (*row.known_models, *row.model_id_patterns)
    )
    owner = next((prefix for prefix, pattern in known if fnmatch(lower, pattern)), "")
    if not owner and model and (similar := find_similar_choice(word.lower(), prefixes)):
        owner = similar
        lower = model
    meant = f"{owner}/{lower}" if owner else ""
    lead = "anthropic-proxy models "
    remedy = suggest_name("provider", word, prefixes, lead=lead, meant=meant, more=f"More:  {lead}--help")
    unknown = f'No provider has the prefix "{word}"' if model else f'There is no provider "{word}"'
    raise ConfigurationError(f"{unknown}. {remedy}", code="unknown-provider")


def _list_amounts(prices: "TokenPrices") -> list[str]:
    amounts = (prices.input, prices.cached_input, prices.output, prices.cache_write, prices.cache_write_1h)
    return [format_price(amount) for amount in (*amounts, prices.thinking)]


def _write_left_out(output: Output, models: "ProviderModels") -> None:
    if names := models.left_out:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        text = f"The list of {models.provider} has names that are left out: {names[0]}{more}."
        output.write_notice(text, "!")


def _write_price_source(output: Output, models: Sequence["ModelFacts"], settings: Settings) -> None:
    """Print origin and date of the price list on a terminal, or that one of `models` needs it and it is missing."""
    if not has_price_package():
        if any(fact.price is None for fact in models):
            output.write_notice(NO_PRICES, "!")
    elif models and output.is_terminal:
        listed = {fact.price.source for fact in models if fact.price and fact.price.is_of_server}
        known = ", else ".join([*sorted(listed), describe_price_sources(settings.facts)])
        output.write_quiet(f"Prices: {known}. A running proxy updates them with update_days of [price_list]")
        if listed:
            output.write_quiet("If a reply states its cost, the request has this cost.")


_Row: TypeAlias = "tuple[Sequence[str], ModelFacts | str]"
"""First cells of a row of models, and the model; or a text for all other cells."""


def _write_models(output: Output, titles: Sequence[str], rows: Sequence[_Row], *, names_retired: bool = True) -> None:
    """Write a table of models. `titles`: those of the first columns of each row. `names_retired`: on a terminal, name
    the retired models too, beside those with a later date.
    """
    window = Column("Context", is_number=True, is_optional=True)
    limit = Column("Output", is_number=True, is_optional=True)
    columns = [window, limit, *(Column(title, is_number=True) for title in _PRICE_TITLES)]
    if output.is_terminal:
        columns = [window, Column(_PRICES_TITLE), limit]
    cells = []
    retiring = dict[date, list[str]]()
    for first, facts in rows:
        day = None if isinstance(facts, str) else facts.retires_on
        if isinstance(facts, str) or facts.model.endswith("…"):  # the requested model itself
            row = [*first, *[facts if isinstance(facts, str) else "as listed"] * len(columns)]
        else:
            context, most = (
                "unknown" if value is None else f"{value:,}" if output.is_terminal else str(value)
                for value in (facts.max_input or facts.assumed_input, facts.max_output)
            )
            context += " (assumed)" if facts.assumed_input else ""
            prices = [describe_price(facts.price), most] if output.is_terminal else [most, *_price_cells(facts.price)]
            row = [*first, context, *prices]
            if day is not None:
                retiring.setdefault(day, []).append(facts.model)
        cells.append(row if output.is_terminal else [*row, str(day or "")])
    if not output.is_terminal:
        columns.append(Column("Retires"))
    output.write_table([*map(Column, titles), *columns], cells)
    if output.is_terminal:
        today = date.today()
        for day, names in sorted(retiring.items()):
            if names_retired or day > today:
                verb = "Retired" if day <= today else "Retires"
                output.write_line(f"  {output.mark('!')} {verb} on {day}: {', '.join(names)}")


def _price_cells(price: "ModelPrice | None") -> list[str]:
    """Return input, cached input and output price in dollars per million tokens: `2.00`, `free`, `unknown`."""
    if price is None or not any((price.input, price.cached_input, price.output)):
        return ["unknown" if price is None else "free"] * 3
    return [format_price(amount).removeprefix("$") for amount in (price.input, price.cached_input, price.output)]


def describe_price(price: "ModelPrice | None") -> str:
    """Return the prices of input, cached input and output per million tokens: `$2.00   $0.50   $8.00`, `free`."""
    cells = _price_cells(price)
    if cells[0] == cells[-1] and cells[0] in ("free", "unknown"):
        return cells[0]
    return "".join(f"{cell if cell == 'free' else f'${cell}':<8}" for cell in cells).rstrip()


LIST_TIMEOUT_SECONDS = 5.0
"""Maximum time in seconds of the query for the models of one provider. All providers are queried at the same time."""


class TokenPrices(Struct, frozen=True):
    """Prices of each kind of token in US dollars per million tokens."""

    input: float
    cached_input: float
    """Input tokens that the provider reads from its cache."""
    output: float
    cache_write: float
    """Input tokens that the provider writes to its cache."""
    cache_write_1h: float
    """Input tokens that are written to a cache for one hour."""
    thinking: float


class ModelPrice(TokenPrices, frozen=True, kw_only=True):
    source: str
    """Origin of the price: `genai-prices 0.2.3`, `anthropic-proxy.toml line 12`, `local`."""
    long_contexts: dict[int, TokenPrices] = {}
    """Number of input tokens → prices of requests with more input tokens."""
    web_search_per_1000: float | None = None
    """Price of 1,000 web searches by the provider, in US dollars. None: unknown."""
    is_of_server: bool = False
    """True if `source` is the model list of the server."""


class ModelFacts(Struct, frozen=True):
    """Limits and price of one model of a provider."""

    model: str
    """Model id with the prefix of the provider: `openai/gpt-4.1`. For a tier that is sent to Anthropic unchanged:
    `anthropic/claude-opus-…`; to a provider without a model: `my/`."""
    context_window: int | None = None
    """Maximum tokens of input and output together. None: unknown, here and in the next fields."""
    max_input: int | None = None
    """Maximum input tokens of one request: the size that a conversation can reach."""
    max_output: int | None = None
    price: ModelPrice | None = None
    retires_on: date | None = None
    """Date on which the provider stops or stopped serving the model. None: none is announced."""
    assumed_input: int | None = None
    """Input tokens that the proxy assumes for an unknown `max_input`. None: the limit is known, or no model is."""

    @property
    def is_free(self) -> bool:
        return self.price is not None and not self.price.input and not self.price.output


class TierGroup(Struct, frozen=True):
    """One or more Claude tiers (haiku, sonnet, opus, fable) that the same setting maps to the same model."""

    tiers: tuple[str, ...]
    facts: ModelFacts
    """Those of the model that replies to a conversation."""
    setting: str
    """What determines this model: `BIG_MODEL, .env line 4`, `route think: thinking`."""
    otherwise: ModelFacts | None = None
    """Those of the model that replies to requests that do not meet the route. None: there is no such route."""
    fallbacks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class ProviderModels(Struct, frozen=True):
    """Models in a provider's own list, or those that the proxy knows if there is no list."""

    provider: str
    """Prefix, such as `gemini`."""
    models: tuple[ModelFacts, ...]
    source: Literal["provider", "built-in"] = "provider"
    """`built-in`: the provider has no list or did not return it."""
    problem: str = ""
    """Message about the models for the user, such as a failed query or an unknown model. "": no problem."""
    left_out: tuple[str, ...] = ()
    """Names in the list that are not shown, because they are no `ModelId`, as text for people."""


async def list_tier_groups(services: Services) -> list[TierGroup]:
    """Return the model to which each Claude tier is mapped, with its limits and price."""
    await fetch_model_lists(services)  # a server may list a name that goes elsewhere
    groups = []
    for tiers, row in group_tier_mappings(services.settings, services.catalog):
        (target, reason), *others = row.replies
        facts = await _find_facts(services, target)
        otherwise = await _find_facts(services, others[0][0]) if others else None
        texts = tuple(problem.text for problem in row.problems)
        groups.append(TierGroup(tuple(tiers), facts, reason, otherwise, tuple(row.fallbacks), texts))
    return groups


async def query_provider(services: Services, provider: Provider) -> ProviderModels:
    """Request the model list of `provider`, and return its models with limits and prices.

    If the query fails, the models that the proxy knows are returned.
    """
    if provider.uses_installed_models:
        await services.catalog.refresh_listing(provider.name)
        installed = services.catalog.cached_model_ids(provider.name)
        if installed is None:
            address = services.settings.base_urls.get(provider.name, provider.base_url)
            problem = f"No server answers at {address} ({provider.base_url_variable}). Start Ollama with: ollama serve"
            return ProviderModels(provider.prefix, (), "built-in", problem)
        facts = [await _find_facts(services, f"{provider.prefix}/{name}") for name in installed]
        return ProviderModels(provider.prefix, tuple(facts))
    missing = find_missing_key(provider, services.settings)
    problem = missing.text if missing else ""
    if has_model_list(provider) and not problem:
        try:
            credential = services.credentials.next_credential(provider)
            send = services.transports[provider.name]
            odd: list[str] = []
            listed = await query_chat_models(
                provider, services.settings, send, credential, LIST_TIMEOUT_SECONDS, left_out=odd
            )
            return ProviderModels(provider.prefix, describe_models(services, provider, listed), left_out=tuple(odd))
        except ProxyError as error:
            problem = _explain_failed_query(error, provider, services.settings)
    catalog = provider.known_models if has_own_models(provider, services.settings) else ()
    names = dict.fromkeys((*catalog, *services.settings.extra_models.get(provider.name, ())))
    known = [ListedModel(ModelId(name)) for name in names if name not in provider.non_chat_models]
    if not known and not problem:
        problem = f"{provider.title} has no list of models. Request a model with the prefix of its provider."
    return ProviderModels(provider.prefix, describe_models(services, provider, known), "built-in", problem)


async def query_provider_model(services: Services, provider: Provider, name: str) -> ProviderModels:
    """Return a `ProviderModels` with the limits and price of the model `name` (without prefix).

    If the provider does not list `name`, the field `problem` explains this.
    """
    offered = await query_provider(services, provider)
    matched = tuple(fact for fact in offered.models if fact.model == f"{provider.prefix}/{name}")
    if not matched and provider.uses_installed_models:
        matched = tuple(fact for fact in offered.models if fact.model == f"{provider.prefix}/{name}:latest")
    if matched or offered.problem:
        return structs.replace(
            offered, models=matched or describe_models(services, provider, [ListedModel(ModelId(name))])
        )
    reason = provider.non_chat_models.get(name)
    cause = f"{provider.prefix}/{name} {reason} and does not support chat." if reason else ""
    problem = cause or f"{provider.prefix} does not list the model {name}."
    return structs.replace(
        offered, problem=f"{problem} Its chat models:  anthropic-proxy models {provider.prefix}", models=()
    )


def is_queried_by_default(provider: Provider, services: Services) -> bool:
    """Return True if the command `models` queries the model list of `provider` when the user names no provider.

    The provider must have a model list. It also needs a configured key, or a configured address that requires no key.
    Ollama needs no configured address if it is the preferred provider.
    """
    settings = services.settings
    if not provider.offered_to_users or not has_model_list(provider):
        return False
    if provider.uses_installed_models:
        preferred = find_preferred_provider(settings, services.catalog).name == provider.name
        return preferred or provider.name in settings.base_urls
    keyless = provider.name in settings.base_urls and not find_missing_key(provider, settings)
    return bool(settings.keys.get(provider.name)) or keyless


async def _find_facts(services: Services, target: str) -> ModelFacts:
    prefix, _, model = target.partition("/")
    provider = find_registry(services.settings).find_by_prefix(prefix)
    if provider is None or not model:
        return ModelFacts(target)
    await fetch_limits_of_model(services, provider.name, model)
    return describe_models(services, provider, [ListedModel(ModelId(model))])[0]


def describe_models(services: Services, provider: Provider, models: Sequence[ListedModel]) -> tuple[ModelFacts, ...]:
    """Return `models` in alphabetical order with limits, prices and dates of retirement.

    The limits are those that the proxy uses. Prices and dates in the list of the provider take precedence over those
    that the proxy knows, except your own prices.
    """
    settings = services.settings
    server = find_server_name(provider, settings)
    listed: dict[tuple[str, str], Mapping[str, float]] = {
        (server, model.id): model.prices for model in models if model.prices is not None
    }
    if listed:
        PRICE_SOURCE.replace_listed({server}, listed)
    prices = PriceList(settings)
    facts = []
    for model in models:
        known = find_capabilities(provider, model.id, settings, services.catalog)
        window = max_input = model.context_window
        max_output = known.effective_max_output
        if known.known:  # what the list of a server states is in them, if the proxy uses it
            window, max_input = known.context_window, known.effective_max_input
        else:
            max_output = max_output or model.max_output
            if window is None:
                window = max_input = find_published_window(provider, model.id, settings)
        retirement = find_retirement(provider, model.id)
        facts.append(
            ModelFacts(
                f"{provider.prefix}/{model.id}",
                window,
                max_input,
                max_output,
                _find_price(prices, provider, model.id),
                model.retires_on or (None if retirement is None else date.fromisoformat(retirement.retired_on)),
                None if max_input or provider.serves_claude else known.effective_max_input,
            )
        )
    return tuple(sorted(facts, key=lambda fact: fact.model.lower()))


def find_model_price(settings: Settings, name: str) -> ModelPrice | None:
    """Return the price of the model `name`, an id with prefix such as `openai/gpt-4.1`. None: the price is unknown."""
    prefix, _, model = name.partition("/")
    provider = find_registry(settings).find_by_prefix(prefix)
    return None if provider is None else _find_price(PriceList(settings), provider, model)


def _find_price(prices: PriceList, provider: Provider, model: str) -> ModelPrice | None:
    price = prices.find(provider, model)
    if price is None:
        return None
    longer = {above: TokenPrices(*_list_prices(rates)) for above, rates in price.long_contexts}
    search = None if price.web_search is None else float(price.web_search)
    return ModelPrice(
        *_list_prices(price.base),
        source=price.source,
        long_contexts=longer,
        web_search_per_1000=search,
        is_of_server=price.is_of_server,
    )


def _list_prices(rates: Rates) -> tuple[float, ...]:
    amounts = rates.input, rates.cache_read, rates.output, rates.cache_write, rates.cache_write_1h, rates.thinking
    return tuple(float(amount) for amount in amounts)


def _explain_failed_query(error: ProxyError, provider: Provider, settings: Settings) -> str:
    """Return a message that names the setting that causes the failure."""
    message = error.message.rstrip(".")
    rejects_key = isinstance(error, UpstreamRefused) and error.status in (401, 403)
    if rejects_key and (keys := settings.keys.get(provider.name)):
        return f"{message.replace('the key', f'the key {keys[0]}')}. It is set by {keys[0].origin}."
    prefixed = message if message.startswith(provider.prefix) else f"{provider.prefix}: {message}"
    described = describe_base_url_setting(provider, settings)
    if error.status in (401, 402, 403, 429) or not described:
        return f"{prefixed}."
    if error.status not in (404, 405):
        return f"{prefixed}.{describe_connection_advice(error, provider, settings) or described}"
    question, better = suggest_base_url(provider, settings)
    remedy = f" Try {assign_base_url(provider, settings, better)}" if better else ""
    return f"{prefixed}.{described} {question}{remedy}"


def find_provider(name: str, settings: Settings) -> Provider | None:
    """Return the provider that the user calls `name`, for example `google`, `gemini` or `GEMINI`.

    None means that there is no such provider.
    """
    word = name.lower().removesuffix("/")
    rows = find_registry(settings)
    return next((row for row in rows if word in (row.name, row.prefix, row.env_prefix.lower())), None)
