"""The models that `init` offers: those of a server, sorted and described, and the proposed ones."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import takewhile

from anthropic_proxy.cli.init.answers import ChosenProvider
from anthropic_proxy.cli.init.probe import choose_installed_models
from anthropic_proxy.cli.models import ModelFacts, find_model_price
from anthropic_proxy.console import formats
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.catalog import MIN_SESSION_TOKENS
from anthropic_proxy.engine.routing.replacements import find_retirement
from anthropic_proxy.gateway.money import format_price

_SMALL = compile_later(r"(?:^|[^a-z])(?:mini|flash|lite|small|nano|haiku|air|fast|turbo)(?:[^a-z]|$)")
"""Words by which vendors name the small models of a family."""
_MIN_FAMILY_CHARACTERS = 3
"""Number of characters with which the names of two models of a family begin alike."""
NOTICE_DAYS = 180
"""A model that retires within this number of days is marked, listed last and not proposed."""
_SUCCESSOR_SHARE = 0.25
"""Share of the price of a model below which its successor is too small to be proposed in its place."""
_DATED = compile_later(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")
"""End of the name of a dated copy, such as gpt-5.5-2026-04-23."""


def find_offered_models(backend: ChosenProvider, today: date | None = None) -> dict[str, ModelFacts]:
    """Return the models to choose from, by their names without prefix: those that are not retired at `today`.

    They are the models that the server lists, or those that the proxy knows.
    """
    prefix = f"{backend.provider.prefix}/"
    facts = {fact.model.removeprefix(prefix): fact for fact in backend.models or ()}
    if backend.models is None and not any(backend.proposed_models):
        names = backend.provider.known_models
        facts = {name: ModelFacts(name, retires_on=find_retirement_date(backend, name)) for name in names}
    today = today or date.today()
    return {name: fact for name, fact in facts.items() if fact.retires_on is None or fact.retires_on > today}


def find_default_models(
    backend: ChosenProvider, offered: Mapping[str, ModelFacts], today: date | None = None
) -> tuple[str, str]:
    """Return the proposed big and small model, without prefix. "": none.

    They are the defaults of the provider, or others for those that are retired or soon will be. Of an Ollama server,
    they are those that the proxy uses without a setting. `offered`: from `find_offered_models`.
    """
    provider = backend.provider
    if provider.uses_installed_models:
        return asyncio.run(choose_installed_models(backend.settings))
    if any(backend.proposed_models):
        return backend.proposed_models
    big = provider.default_big_model or ""
    small = provider.default_small_model or ""
    if backend.models:
        day = today or date.today()
        return _replace_retiring(backend, offered, big, day), _replace_retiring(backend, offered, small, day)
    lines = list_successors(provider, today or date.today())
    prefix = f"{provider.prefix}/"
    return lines.get("BIG_MODEL", big).removeprefix(prefix), lines.get("SMALL_MODEL", small).removeprefix(prefix)


def _replace_retiring(backend: ChosenProvider, offered: Mapping[str, ModelFacts], default: str, today: date) -> str:
    """Return `default`, or if it is retired or soon will be: a listed model that stays, and that the proxy knows.

    It is the successor that the vendor names, unless that one is much smaller, or the model with the nearest price.
    """
    retirement = find_retirement(backend.provider, default)
    facts = offered.get(default, ModelFacts(default, retires_on=find_retirement_date(backend, default)))
    if not retires_soon(facts, today):
        return default
    lasting = {name: fact for name, fact in offered.items() if not retires_soon(fact, today)}
    successor = retirement.successor if retirement else ""
    price = _find_output_price(backend, offered, default)
    if successor in lasting:
        cost = _find_output_price(backend, offered, successor)
        if price is None or cost is None or cost >= price * _SUCCESSOR_SHARE:
            return successor
    known = [name for name in lasting if name in backend.provider.known_models]
    usable = {name: lasting[name] for name in known if price is None or lasting[name].price is not None}
    nearest = next(iter(sort_models(backend, usable, default, today)), "")
    return nearest or (default if default in offered else successor)


def list_successors(provider: Provider, today: date) -> dict[str, str]:
    """Return `BIG_MODEL`, `SMALL_MODEL` → the successor, for defaults that are retired at the date `today`."""
    defaults = {"BIG_MODEL": provider.default_big_model, "SMALL_MODEL": provider.default_small_model}
    retired = {variable: find_retirement(provider, model or "") for variable, model in defaults.items()}
    return {
        variable: f"{provider.prefix}/{retirement.successor}"
        for variable, retirement in retired.items()
        if retirement is not None and retirement.applies_on(today)
    }


def find_small_model(big: str, listed: Sequence[str]) -> str:
    """Return the small model of the family of `big`, by its name: `gpt-4.1-mini` for `gpt-4.1`. "": there is none."""
    small = [name for name in listed if _SMALL.search(name.lower())]
    pairs = [zip(name.lower(), big.lower(), strict=False) for name in small]
    lengths = [sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], letters)) for letters in pairs]
    longest = max(lengths, default=0)
    return small[lengths.index(longest)] if longest >= _MIN_FAMILY_CHARACTERS else ""


def sort_models(
    backend: ChosenProvider, models: Mapping[str, ModelFacts], default: str, today: date
) -> dict[str, ModelFacts]:
    """Return `models` with `default` first, then those with room for a session whose price is nearest to its price.

    Without a price, models of the same size follow, first the newest ones that are known. Models that retire within
    `NOTICE_DAYS` and dated copies are last.
    """
    newest = [*reversed(backend.provider.known_models)]
    price = _find_output_price(backend, models, default)

    def is_small(name: str) -> bool:
        return _SMALL.search(name.lower()) is not None

    def rank(name: str) -> tuple[bool, bool, bool, bool, float, bool, int]:
        facts = models[name]
        stem = _DATED.sub("", name)
        distance = math.inf if facts.price is None or price is None else abs(facts.price.output - price)
        return (
            name != default,
            is_too_small(facts),
            retires_soon(facts, today),
            stem != name and not models.keys().isdisjoint((stem, f"{stem}-latest")),
            distance,
            is_small(name) != is_small(default),
            newest.index(name) if name in newest else len(newest),
        )

    return {name: models[name] for name in sorted(models, key=rank)}


def _find_output_price(backend: ChosenProvider, models: Mapping[str, ModelFacts], name: str) -> float | None:
    if name in models:
        price = models[name].price
    else:
        price = find_model_price(backend.settings, f"{backend.provider.prefix}/{name}") if name else None
    return None if price is None else price.output


def retires_soon(facts: ModelFacts, today: date) -> bool:
    return facts.retires_on is not None and (facts.retires_on - today).days <= NOTICE_DAYS


def describe_facts(facts: ModelFacts, today: date) -> str:
    """Return input limit, price and retirement of a model as text in columns: `1.0 M context    $2.00 in    $8.00 out`.

    A retirement is stated within `NOTICE_DAYS`. A model without limit and price has an empty text.
    """
    price = facts.price
    window = "" if price is None else "unknown"
    if facts.max_input is not None:
        window = f"{formats.short_count(facts.max_input)} context"
    if price is None:
        amounts = ""
    elif facts.is_free:
        amounts = "free of charge"
    else:
        amounts = f"{format_price(price.input):>6} in {format_price(price.output):>7} out"
    text = f"{window:>14}  {'too small for Claude Code' if is_too_small(facts) else amounts}".rstrip()
    retirement = describe_retirement(facts.retires_on, today)
    return f"{text}  {retirement}" if retirement else text


def has_price(facts: ModelFacts) -> bool:
    return facts.price is not None and bool(facts.price.output)


def is_too_small(facts: ModelFacts) -> bool:
    return facts.max_input is not None and facts.max_input < MIN_SESSION_TOKENS


def find_retirement_date(backend: ChosenProvider, model: str) -> date | None:
    retirement = find_retirement(backend.provider, model)
    return None if retirement is None else date.fromisoformat(retirement.retired_on)


def describe_retirement(day: date | None, today: date) -> str:
    return f"retires {day}" if day is not None and (day - today).days <= NOTICE_DAYS else ""
