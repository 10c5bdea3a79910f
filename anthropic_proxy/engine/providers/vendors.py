"""Hosts and providers that are data: the tables of `vendors.toml`.

They are built from `VendorTable`, whose fields are those of the file. Most are hosts that `OPENAI_BASE_URL` can select;
a table with a part `provider` is a provider of its own too. `anthropic.py`, `clouds.py`, `gemini.py`, `ollama.py` and
`openai.py` have the others.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers import openai_chat as chat
from anthropic_proxy.engine.providers import openai_responses as responses
from anthropic_proxy.engine.providers.catalog import decode_table, list_vendor_tables
from anthropic_proxy.engine.providers.open_models import (
    GPT_OSS_RULES,
    MISTRAL_RULES,
    OPEN_MODEL_RULES,
    REPLAY_RULES,
    UNKNOWN,
    UNKNOWN_RESPONSES,
    UNOPENED_RULES,
)
from anthropic_proxy.engine.providers.registry import (
    AnyWireConfig,
    Host,
    HostEntry,
    HostFields,
    ModelRule,
    Provider,
    WireConfig,
    build_retired_models,
    decode_dialect_fields,
)
from anthropic_proxy.engine.wires import openai_chat, openai_responses


class _Retirements(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[NAME.retired]]`: one announcement of the vendor."""

    source: str
    read_date: str
    announced_on: str = ""
    ends: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Date, successor, and the models that retire on this date."""


class ApiTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[NAME.chat]`, `[NAME.responses]` or `[NAME.messages]`: one API of the host."""

    dialect: dict[str, Any] = {}
    """Field of the `Dialect` → value that differs from the configuration that the host follows."""
    rules: dict[str, dict[str, Any]] = {}
    """Model patterns, with spaces between them → fields of the `Dialect` for these models, and, if they are not those
    below, `source` and `read_date`."""
    source: str = ""
    """Documents from which `rules` come. "": those of the host."""
    read_date: str = ""
    shared_rules: tuple[str, ...] | None = None
    """Names in `_SHARED_RULES`, which precede `rules`. None: those of the configuration that the host follows."""
    suffixes: tuple[tuple[str, str], ...] = ()
    """`WireConfig.url_suffixes`. Empty: those of the configuration that the host follows."""
    serves_claude: bool = False
    """True if the host serves Claude with the Messages API."""


class ProviderTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[NAME.provider]`: fields of `Provider`."""

    prefix: str
    env_prefix: str
    default_big_model: str
    default_small_model: str
    known_models: tuple[str, ...]
    non_chat_models: dict[str, str] = {}


class VendorTable(HostFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[NAME]` of `vendors.toml`, with the fields of a host."""

    like: str = ""
    """Name of the table with the fields that this one does not state. "": none."""
    follows: Literal["api", "open_models"] = "open_models"
    """What the parts `chat`, `responses` and `messages` differ from: `open_models`, the configurations for unknown
    servers, which exist without these parts too, or `api`, the APIs of their own vendors."""
    unknown_model_capabilities: Mapping[str, tuple[str, ...]] = {}
    chat: ApiTable | None = None
    responses: ApiTable | None = None
    messages: ApiTable | None = None
    provider: ProviderTable | None = None
    retired: tuple[_Retirements, ...] = ()
    models: Sequence[Mapping[str, Any]] = ()
    """`ModelRow` of models with known limits."""
    fallback: Mapping[str, Any] = {}
    """`ModelRow` of the other models."""
    prices: Mapping[str, Any] = {}
    """`VendorPrices`."""
    differences: str = ""
    """What users should know about the host, for the page Providers. "": its row is written by hand."""
    also_at: str = ""
    """Further addresses, for this page."""
    example_model: str = ""
    """Model that people use there, for tests."""
    searched_on: str = ""
    """Date on which sources of `facts` were searched. "": not looked up."""
    facts: Mapping[str, tuple[str, str, str]] = {}
    """Column of the page of vendors → text, source and date of reading."""


_API: Mapping[str, AnyWireConfig] = {
    "chat": WireConfig(wire=openai_chat.WIRE, dialect=openai_chat.Dialect()),
    "responses": WireConfig(wire=openai_responses.WIRE, dialect=openai_responses.Dialect()),
    "messages": messages.CHAT_SERVERS,
}
_OPEN_MODELS: Mapping[str, AnyWireConfig] = {
    "chat": WireConfig(
        wire=openai_chat.WIRE, dialect=UNKNOWN, model_rules=(*REPLAY_RULES, *MISTRAL_RULES, *GPT_OSS_RULES)
    ),
    "responses": UNKNOWN_RESPONSES,
}
_SHARED_RULES = {
    "replay": REPLAY_RULES,
    "mistral": MISTRAL_RULES,
    "gpt_oss": GPT_OSS_RULES,
    "unopened": UNOPENED_RULES,
    "unknown_host": OPEN_MODEL_RULES,
    "openai": chat.OPENAI_CHAT.model_rules,
    "openai_responses": responses.MODEL_RULES,
}
_OF_HOST = HostFields.__struct_fields__
_PATTERNS_LINE = compile_later(r"^url_patterns = (\[.*\])$", re.MULTILINE)


def list_vendor_entries() -> list[HostEntry]:
    """Return the hosts in the order of the file. The line with the patterns is JSON too: so only the tables in use are
    decoded, and the TOML library takes 15 ms for all of them.
    """
    found = ((name, _PATTERNS_LINE.search(text)) for name, text in list_vendor_tables().items())
    return [
        HostEntry(name, msgspec.json.decode(line[1], type=tuple[str, ...]), partial(build_vendor, name))
        for name, line in found
        if line is not None
    ]


def build_providers() -> Iterator[Provider]:
    """Yield the providers with variables of their own, in the order of the file."""
    for name, text in list_vendor_tables().items():
        if f"\n[{name}.provider]\n" in text:
            yield _build_provider(name)


@cache
def load_vendor(name: str) -> VendorTable:
    """Raises `msgspec.ValidationError`."""
    return msgspec.convert({"name": name, "models_table": name, **_read_table(name)}, VendorTable)


def _read_table(name: str) -> dict[str, Any]:
    table = decode_table(list_vendor_tables()[name])
    return _merge(_read_table(table["like"]), table) if "like" in table else table


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables inside of both are merged too."""
    both = {name for name, value in above.items() if isinstance(value, dict) and name in below}
    return {**below, **above, **{name: _merge(below[name], above[name]) for name in both}}


@cache
def build_vendor(name: str) -> Host:
    """Return a host that `OPENAI_BASE_URL` can select."""
    host = _build_host(name)
    # users select a provider with variables of its own by these
    return structs.replace(host, base_url="", key_variable="") if load_vendor(name).provider else host


def _build_host(name: str) -> Host:
    table = load_vendor(name)
    retired = (
        build_retired_models(one.source, one.read_date, *one.ends, announced_on=one.announced_on)
        for one in table.retired
    )
    return Host(
        wires={api: config for api in _API if (config := _build_config(table, api)) is not None},
        retired_models={model: end for ends in retired for model, end in ends.items()},
        **{field: getattr(table, field) for field in _OF_HOST},
    )


def _build_config(table: VendorTable, api: str) -> AnyWireConfig | None:
    """None: the host does not have the API, or that of the provider."""
    part: ApiTable | None = getattr(table, api)
    base = _OPEN_MODELS.get(api) if table.follows == "open_models" else None
    if part is None and (base is None or api != "chat"):  # chat has a tag of its own
        return base
    part, base = part or ApiTable(), base or _API[api]
    if part.serves_claude:
        base = messages.GATEWAYS
    dialect_type = base.wire.dialect_type
    own = {"signature_tag": table.name} if api == "chat" else {}
    own |= decode_dialect_fields(part.dialect, dialect_type)
    shared = base.model_rules
    if part.shared_rules is not None:
        shared = [rule for name in part.shared_rules for rule in _SHARED_RULES[name]]
    return structs.replace(
        base,
        dialect=structs.replace(base.dialect, **own),
        model_rules=(*shared, *_build_rules(table, part, dialect_type)),
        url_suffixes=part.suffixes or base.url_suffixes,
    )


def _build_rules(table: VendorTable, part: ApiTable, dialect_type: Any) -> Iterator[ModelRule]:
    for patterns, fields in part.rules.items():
        of_rule = {"source": part.source or table.source, "read_date": part.read_date or table.read_date, **fields}
        source, read_date = of_rule.pop("source"), of_rule.pop("read_date")
        decoded = decode_dialect_fields(of_rule, dialect_type)
        yield from (ModelRule(pattern, decoded, source, read_date) for pattern in patterns.split())


def _build_provider(name: str) -> Provider:
    table, host = load_vendor(name), _build_host(name)
    assert table.provider is not None
    others = (pattern.partition("/")[0] for pattern in host.url_patterns)
    return Provider(
        base_url_variable=f"{table.provider.env_prefix}_BASE_URL",
        other_hosts=tuple(one for one in others if one != urlsplit(host.base_url).hostname),
        wires=host.wires,
        retired_models=host.retired_models,
        **{field: value for field in _OF_HOST if (value := getattr(host, field))},
        **structs.asdict(table.provider),
    )
