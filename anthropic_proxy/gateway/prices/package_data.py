"""The data of the package `genai-prices`, read without the package itself.

The package imports pydantic and an HTTP client to download and validate newer data. For its own data neither is needed:
`data.py` is one expression of constructor calls, so its compiled code is run with classes that keep the used fields.
This saves 14 MiB and a tenth of a second. Downloaded data (`PriceSource.update`) has objects of the package with the
same fields.
"""

import builtins
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_NAME = "genai_prices.data"
_COMPACT_DATE = compile_later(r"-(20\d\d)(\d\d)(\d\d)(?=-|:|$)")
"""Date at the end of a model id, `gpt-5.2-20251211`. The ids in the data have dashes in it."""


_own_patterns: set[str] = set()
"""Regular expressions of the package's own data. Those of downloaded data are not run: they may never end."""
_MAX_READ_CHARACTERS = 1_000
"""Maximum number of characters of an address or a model id that an expression of the package reads."""
_LITERAL = compile_anchored(r"(?:[\w:/-]|\\[.:/-])*")
"""Pattern of an expression that matches only one text, such as `https://api\\.openai\\.com`."""


def list_foreign_patterns(providers: Sequence[Any]) -> Sequence[str]:
    """Return the regular expressions of downloaded data that are not run, because the package does not have them."""
    return [
        pattern
        for pattern in _list_patterns(providers)
        if pattern not in _own_patterns and not _LITERAL.fullmatch(pattern)
    ]


def _matches(pattern: str, text: str) -> bool:
    if pattern in _own_patterns:
        return compile_later(pattern, most=_MAX_READ_CHARACTERS).search(text) is not None
    return _LITERAL.fullmatch(pattern) is not None and pattern.replace("\\", "") in text


def _find_end_of_beginning(pattern: str, text: str) -> int:
    """Return where the beginning of the text ends that the pattern matches. 0: it matches none."""
    if pattern in _own_patterns:
        match = compile_anchored(pattern, most=_MAX_READ_CHARACTERS).match(text)
        return 0 if match is None else match.end()
    literal = pattern.replace("\\", "")
    return len(literal) if _LITERAL.fullmatch(pattern) and text.startswith(literal) else 0


def _has_address(pattern: str, base_url: str) -> bool:
    """Return True if the pattern of a provider's addresses matches this one with its whole host.

    Most patterns are those of a beginning, so `https://api\\.openai\\.com` would match https://api.openai.com.example.org
    too. One may end with a dot: it matches each top-level domain.
    """
    if "/" in pattern.partition("://")[2]:
        return _find_end_of_beginning(pattern, base_url) > 0
    url = urlsplit(base_url)
    address = f"{url.scheme}://{(url.hostname or '').rstrip('.')}"
    end = _find_end_of_beginning(pattern, address)
    return end > 0 and (end == len(address) or (address[end - 1] == "." and "." not in address[end:]))


def _list_patterns(providers: Sequence[Any]) -> Iterator[str]:
    for provider in providers:
        yield provider.api_pattern
        clauses = [vars(provider).get("model_match"), vars(provider).get("provider_match")]
        clauses += [model.match for model in provider.models]
        while clauses:
            clause = clauses.pop()
            for kind, value in vars(clause).items() if clause is not None else ():
                if kind == "regex":
                    yield value
                elif kind in ("or_", "and_"):
                    clauses += value


def find_data_file() -> Path | None:
    """None: the package is not installed."""
    spec = find_spec("genai_prices")
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(folders[0], "data.py") if folders else None


_UNUSED = frozenset({"name", "description", "pricing_urls", "price_comments", "extractors", "mappings"})


class _Fields:
    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            if name not in _UNUSED:
                setattr(self, name, value)


class _Names(dict[str, Any]):
    """The variables of `data.py`. Each name that it does not define is a class of the package.

    Objects of one class share the names of their fields, which saves two thirds of their memory.
    """

    def __missing__(self, name: str) -> type[_Fields]:
        if hasattr(builtins, name):
            raise KeyError(name)
        fields_type: type[_Fields] = type(name, (_Fields,), {})
        self[name] = fields_type
        return fields_type


def read_providers(file: Path) -> list[Any]:
    """Return the providers in the package's file, each with its models."""
    names = _Names()

    def find_module(name: str, *others: Any) -> Any:
        if name == "decimal":  # most prices are repeated
            return SimpleNamespace(Decimal=cache(Decimal))
        return ModuleType(name) if name == "types" else __import__(name, *others)  # `from .types import *`

    try:
        code = SourceFileLoader(_NAME, str(file)).get_code(_NAME)
        assert code is not None, "it has been compiled"
        exec(code, {"__builtins__": {**vars(builtins), "__import__": find_module}, "__name__": _NAME}, names)
        providers: list[Any] = dict(names)["providers"]
        _own_patterns.update(_list_patterns(providers))
    except Exception:  # noqa: BLE001  # a release whose file has another form
        from genai_prices import data  # noqa: PLC0415  # it imports pydantic and an HTTP client

        _own_patterns.update(_list_patterns(data.providers))
        return data.providers
    return providers


def find_model(providers: Sequence[Any], base_url: str | None, model: str) -> tuple[Any, bool] | None:
    """Return a model, and whether it is the provider's own. None: unknown.

    A `base_url` of None means a model id with the name of the provider before it, as LiteLLM has them.
    """
    name = model.lower()
    provider = None
    if base_url is None:
        vendor, _, rest = name.partition("/")
        if rest and (provider := _find_provider(providers, vendor)) is not None:
            name = rest
        else:
            provider = _find_provider(providers, "litellm") or next(
                (candidate for candidate in providers if _is_match(vars(candidate).get("model_match"), name)), None
            )
    else:
        provider = next((candidate for candidate in providers if _has_address(candidate.api_pattern, base_url)), None)
    if provider is None:
        return None
    fallbacks = vars(provider).get("fallback_model_providers") or ()
    others = [
        fallback
        for fallback in (_find_by_id(providers, provider_id) for provider_id in fallbacks)
        if fallback is not None
    ]
    for spelling in dict.fromkeys((name, _COMPACT_DATE.sub(r"-\1-\2-\3", name))):
        for place, candidate in enumerate((provider, *others)):
            for listed in candidate.models:
                if _is_match(listed.match, spelling):
                    return listed, not place
    return None


def list_prices(model: Any, when: datetime, context: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the prices of a model: the name of each → a `Decimal`, or tiers by the number of input tokens.

    `context` has conditions of a request, such as `{"service_tier": "flex"}`. None: the model has no price for them.
    """
    prices = model.prices
    if isinstance(prices, list):
        active = [dated for dated in prices if _is_active(vars(dated).get("constraint"), when)]
        prices = (active[-1] if active else prices[0]).prices
    listed = {name: price for name, price in vars(prices).items() if price is not None}
    if not context:
        return listed
    variants = [
        variant
        for variant in vars(model).get("price_variants") or ()
        if variant.when.items() <= context.items() and _is_active(vars(variant).get("constraint"), when)
    ]
    for variant in reversed(variants):  # the first one counts
        listed |= {name: price for name, price in vars(variant.prices).items() if price is not None}
    return listed if variants else None


def _find_by_id(providers: Sequence[Any], wanted: str) -> Any:
    return next((provider for provider in providers if provider.id == wanted), None)


def _find_provider(providers: Sequence[Any], name: str) -> Any:
    return _find_by_id(providers, name) or next(
        (provider for provider in providers if _is_match(vars(provider).get("provider_match"), name)), None
    )


def _is_match(clause: Any, text: str) -> bool:
    if clause is None:
        return False
    ((kind, value),) = vars(clause).items()
    match kind:
        case "equals":
            return bool(text == value.lower())
        case "starts_with":
            return text.startswith(value.lower())
        case "ends_with":
            return text.endswith(value.lower())
        case "contains":
            return value.lower() in text
        case "regex":
            return _matches(value, text)
        case "or_":
            return any(_is_match(part, text) for part in value)
        case "and_":
            return all(_is_match(part, text) for part in value)
        case _:
            return False


def _is_active(constraint: Any, when: datetime) -> bool:
    if constraint is None:
        return True
    fields = vars(constraint)
    when = when.astimezone(UTC)
    if "start_date" in fields:
        return bool(when.date() >= fields["start_date"])
    start = _to_utc(fields["start_time"])
    end = _to_utc(fields["end_time"])
    now = when.timetz()
    return now >= start or now < end if end < start else start <= now < end


def _to_utc(moment: time) -> time:
    return datetime.combine(date(1970, 1, 1), moment, moment.tzinfo or UTC).astimezone(UTC).timetz()
