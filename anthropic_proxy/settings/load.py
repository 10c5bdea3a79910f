"""Reads every setting once, at start."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from anthropic_proxy.settings import values
from anthropic_proxy.settings.fields import TIERS, Secret, Settings, Timeouts
from anthropic_proxy.settings.sources import Found, Sources
from anthropic_proxy.settings.surroundings import find_colours, find_proxies, find_unproxied

Value = TypeVar("Value")
_KEY_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS")
"""How the names of variables end that hold secrets of other libraries."""
_MOST_TOKENS = 100_000_000
_FIDELITIES = ("best-effort", "strict")
_LOG_FORMATS = ("auto", "plain", "json")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_OTHER_LOG_LEVELS = {"warn": "warning", "critical": "error", "fatal": "error"}
_MISSPELT_FROM = 0.85


class ProviderNames(Protocol):
    """What `load_settings` must know of a provider's row."""

    @property
    def name(self) -> str:
        """As `PREFERRED_PROVIDER` says it."""
        ...

    @property
    def prefix(self) -> str:
        """As a model id says it, accepted as a name too."""
        ...

    @property
    def other_prefixes(self) -> Collection[str]:
        """What else a model id may begin with: companies whose keys have names of their own."""
        ...

    @property
    def stem(self) -> str:
        """How its variables begin (`GEMINI`); empty: it has none."""
        ...

    @property
    def key_variable(self) -> str | None:
        """Where its key stands."""
        ...

    @property
    def base_url_variable(self) -> str | None:
        """Where another address may stand, besides `<STEM>_BASE_URL`."""
        ...

    @property
    def choosable(self) -> bool:
        """Whether messages name it among the providers to prefer."""
        ...

    @property
    def serves_tiers(self) -> bool:
        """Whether it has models for Claude's tiers where the user names none."""
        ...

    @property
    def speeches(self) -> Mapping[str, object]:
        """The wires that it may be asked to speak."""
        ...


def load_settings(
    environ: Mapping[str, str], providers: Sequence[ProviderNames], *, env_file: str | None = ".env"
) -> Settings:
    """Read the environment and the `.env` file (the environment wins).

    An option of the command line beats both: the caller replaces the field (`msgspec.structs.replace`).
    Raises `ConfigurationError` that names the variable, the value (never a secret) and what is allowed.
    """
    sources = Sources(environ, env_file)
    fields = _load_fields(sources, providers)
    proxies, left_out = find_proxies(environ)
    others = _load_others(sources, providers)
    return Settings(
        **fields,
        colours=find_colours(environ),
        proxies=proxies,
        unproxied=find_unproxied(environ),
        other_variables=others,
        foreign_keys=_find_foreign_keys(environ, others),
        origins=sources.origins,
        given=sources.given,
        warnings=(*sources.list_warnings(), *_find_misspellings(sources, providers), *left_out),
    )


def _find_foreign_keys(environ: Mapping[str, str], others: Mapping[str, Secret]) -> tuple[Secret, ...]:
    seen = {**others} | {name: Secret(value, name) for name, value in environ.items() if value}
    return tuple(secret for name, secret in seen.items() if name.upper().endswith(_KEY_ENDINGS))


def list_variables(providers: Sequence[ProviderNames]) -> tuple[str, ...]:
    """Return every variable that `load_settings` asks for, aliases included, in the order of asking."""
    sources = Sources({}, None)
    _load_fields(sources, providers)
    return tuple(dict.fromkeys(sources.asked))


def _load_fields(sources: Sources, providers: Sequence[ProviderNames]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "preferred_provider": _find(sources, partial(_preferred, providers), "PREFERRED_PROVIDER"),
        "tier_models": _by_tier(sources, values.decode_model, "MODEL_", several=False),
        "fallbacks": _by_tier(sources, values.decode_models, "FALLBACK_", several=True),
        "tier_fidelities": _by_tier(sources, _choice(*_FIDELITIES), "FIDELITY_", several=False),
        "timeouts": _load_timeouts(sources),
    }
    for name, decode, several, variables in _SIMPLE:
        value = _find(sources, decode, *variables, several=several)
        if value is not None:
            fields[name] = value
    _refuse_without_models(fields, sources, providers)
    return {**fields, **_load_of_providers(sources, providers)}


def _find(sources: Sources, decode: Callable[[Found], Value], *variables: str, several: bool = False) -> Value | None:
    found = sources.find(*variables, several=several)
    return None if found is None else decode(found)


def _by_tier(sources: Sources, decode: Callable[[Found], Value], start: str, *, several: bool) -> dict[str, Value]:
    found = {tier: _find(sources, decode, start + tier.upper(), several=several) for tier in TIERS}
    return {tier: value for tier, value in found.items() if value is not None}


def _load_timeouts(sources: Sources) -> Timeouts:
    default = Timeouts()
    whole = _find(sources, values.decode_seconds, "UPSTREAM_TIMEOUT")
    connect = _find(sources, values.decode_seconds, "UPSTREAM_CONNECT_TIMEOUT")
    first_byte = _find(sources, values.decode_seconds, "UPSTREAM_FIRST_BYTE_TIMEOUT")
    idle = _find(sources, values.decode_seconds, "UPSTREAM_IDLE_TIMEOUT")
    return Timeouts(
        connect or default.connect, first_byte or whole or default.first_byte, idle or whole or default.idle
    )


def _load_of_providers(sources: Sources, providers: Sequence[ProviderNames]) -> dict[str, dict[str, Any]]:
    keys: dict[str, Any] = {}
    base_urls: dict[str, Any] = {}
    wires: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for row in providers:
        if row.key_variable:
            keys[row.name] = _find(sources, values.decode_keys, row.key_variable, several=True)
        if row.stem:
            addresses = dict.fromkeys((row.base_url_variable or f"{row.stem}_BASE_URL", f"{row.stem}_BASE_URL"))
            addresses.pop("ANTHROPIC_BASE_URL", None)  # the client's own variable: it would point the proxy at itself
            base_urls[row.name] = _find(sources, values.decode_url, *addresses)
            wires[row.name] = _find(sources, partial(_wire, row), f"{row.stem}_WIRE")
            models[row.name] = _find(sources, values.decode_models, f"{row.stem}_KNOWN_MODELS", several=True)
    by_field = {"keys": keys, "base_urls": base_urls, "wires": wires, "extra_models": models}
    return {field: {name: value for name, value in given.items() if value} for field, given in by_field.items()}


def _load_others(sources: Sources, providers: Sequence[ProviderNames]) -> dict[str, Secret]:
    """Return what a library finds that looks into the environment itself: of ours only the providers' own variables."""
    shared = {name for row in providers for name in (row.key_variable, row.base_url_variable) if name}
    keys = {row.key_variable for row in providers}
    return {
        name: Secret(given.text.partition(",")[0].strip() if name in keys else given.text, f"{name} in {given.origin}")
        for name, given in sources.find_others(set(sources.asked) - shared).items()
    }


def _refuse_without_models(fields: Mapping[str, Any], sources: Sources, providers: Sequence[ProviderNames]) -> None:
    """Refuse a preferred provider that has no model for any tier, where no setting names one."""
    preferred = next((row for row in providers if row.name == fields["preferred_provider"]), None)
    named = fields["tier_models"] or fields.keys() & {"big_model", "middle_model", "small_model"}
    if preferred is None or preferred.serves_tiers or named:
        return
    listed = values.enumerate_words([row.name for row in providers if row.choosable])
    found = sources.find("PREFERRED_PROVIDER")
    assert found is not None
    raise values.refuse(
        found,
        f"It can be {listed}. {preferred.name} has no models of its own: with it, name one in BIG_MODEL and one in "
        "SMALL_MODEL.",
    )


def _preferred(providers: Sequence[ProviderNames], found: Found) -> str:
    choices = {row.prefix: row.name for row in providers} | {row.name: row.name for row in providers}
    return values.decode_choice(found, choices, [row.name for row in providers if row.choosable])


def _wire(row: ProviderNames, found: Found) -> str | None:
    words = ("auto", *row.speeches)
    wire = values.decode_choice(found, {word: word for word in words}, words)
    return None if wire == "auto" else wire


def _choice(*words: str) -> Callable[[Found], str]:
    return lambda found: values.decode_choice(found, {word: word for word in words}, words)


def _log_level(found: Found) -> str:
    return values.decode_choice(found, {**{word: word for word in _LOG_LEVELS}, **_OTHER_LOG_LEVELS}, _LOG_LEVELS)


def _text(found: Found) -> str:
    return found.text


def _location(found: Found) -> str:
    text = found.text.lower()
    if not text.replace("-", "").isalnum() or not text.isascii():  # it becomes part of a host name
        raise values.refuse(found, "It can be a region such as us-central1, or global.")
    return text


def _project(found: Found) -> str:
    if not found.text.isascii() or not found.text.replace("-", "").replace(":", "").replace(".", "").isalnum():
        raise values.refuse(found, "It can be a project's id: letters, digits and hyphens.")
    return found.text


def _host(found: Found) -> str:
    if "/" in found.text or " " in found.text or not found.text.isprintable():
        raise values.refuse(found, "It can be an address to listen on, such as 127.0.0.1 or 0.0.0.0.")
    return found.text.strip("[]")


_SIMPLE: tuple[tuple[str, Callable[[Found], object], bool, tuple[str, ...]], ...] = (
    ("big_model", values.decode_model, False, ("BIG_MODEL",)),
    ("middle_model", values.decode_model, False, ("MIDDLE_MODEL",)),
    ("small_model", values.decode_model, False, ("SMALL_MODEL",)),
    ("use_vertex_auth", values.decode_boolean, False, ("USE_VERTEX_AUTH",)),
    ("vertex_project", _project, False, ("VERTEX_PROJECT", "VERTEX_PROJECT_ID")),
    ("vertex_location", _location, False, ("VERTEX_LOCATION",)),
    ("google_credentials_file", _text, False, ("GOOGLE_APPLICATION_CREDENTIALS",)),
    (
        "ollama_context_length",
        lambda found: values.decode_integer(found, 1, _MOST_TOKENS, "tokens"),
        False,
        ("OLLAMA_CONTEXT_LENGTH",),
    ),
    ("ollama_keep_alive", values.decode_duration, False, ("OLLAMA_KEEP_ALIVE",)),
    ("proxy_api_keys", values.decode_keys, True, ("PROXY_API_KEY",)),
    ("allow_unauthenticated", values.decode_boolean, False, ("ALLOW_UNAUTHENTICATED",)),
    ("allowed_hosts", values.decode_hosts, True, ("ALLOWED_HOSTS",)),
    ("host", _host, False, ("HOST",)),
    ("port", lambda found: values.decode_integer(found, 1, 65_535, ""), False, ("PORT",)),
    ("fidelity", _choice(*_FIDELITIES), False, ("FIDELITY",)),
    ("check_window", values.decode_boolean, False, ("CHECK_WINDOW",)),
    ("search_url", values.decode_url, False, ("SEARCH_URL",)),
    ("fetch_urls", values.decode_boolean, False, ("FETCH_URLS",)),
    (
        "max_upstream_calls",
        lambda found: values.decode_integer(found, 1, 1_000_000, "calls"),
        False,
        ("MAX_UPSTREAM_CALLS",),
    ),
    ("stop_timeout", values.decode_seconds, False, ("STOP_TIMEOUT",)),
    ("log_format", _choice(*_LOG_FORMATS), False, ("LOG_FORMAT",)),
    ("log_level", _log_level, False, ("LOG_LEVEL",)),
)
"""Field of `Settings`, how its value is read, whether it is a list, and its variables: the main name first."""


def _find_misspellings(sources: Sources, providers: Sequence[ProviderNames]) -> Iterator[str]:
    foreign = [prefix for row in providers for prefix in row.other_prefixes]
    for name, given in sources.file.items():
        company = name.lower().partition("_api_")[0]
        if name in sources.asked or (len(company) > 2 and any(prefix.startswith(company) for prefix in foreign)):
            continue
        if meant := values.find_nearest(name.upper(), sources.asked, _MISSPELT_FROM):
            yield f"{given.origin}: {name} is no setting. Did you mean {meant}"
