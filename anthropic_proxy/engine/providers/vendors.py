"""Hosts and providers, which are data: the tables of `vendors.toml`.

They are built from `VendorTable`, whose fields are those of the file. Most are hosts that `OPENAI_BASE_URL` can select;
a table with a part `provider` is a provider of its own too. Tables without an address have what others share: fields
(`like`), or rules by the names of models (`shared_rules`). What is known about models themselves is in `models.toml`
(`model_facts.py`).
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers.model_facts import (
    build_rules_of_models,
    cached_with_facts,
    load_retired_models,
    split_tables,
)
from anthropic_proxy.engine.providers.registry import (
    AnyWireConfig,
    Host,
    HostEntry,
    HostFields,
    Hosts,
    ModelRule,
    Provider,
    RetiredModel,
    WireConfig,
    decode_dialect_fields,
)
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS, TOOL_CALL_FORMATS, ThinkingTags


class ApiTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table such as `[NAME.chat]`: one API of the host, with fields of `WireConfig`."""

    like: str = ""
    """Name of the table with the fields of this API that this one does not state. "": none."""
    dialect: dict[str, Any] = {}
    """Field of the `Dialect` → value that differs from the API of its own vendor. `_LISTS` has words for lists."""
    rules: dict[str, dict[str, Any]] = {}
    """Model patterns, with spaces between them → fields of the `Dialect` for these models, and, if they are not those
    below, `source` and `read_date`."""
    source: str = ""
    """Documents from which `rules` come. "": those of the host."""
    read_date: str = ""
    shared_rules: tuple[str, ...] = ()
    """Names of tables, whose rules of this API precede `rules`."""
    suffixes: tuple[tuple[str, str], ...] = ()
    """`WireConfig.url_suffixes`."""
    settings: dict[str, str] = {}
    """`WireConfig.setting_overrides`."""
    models_table: str = ""
    custom_url_only: bool = False


class VendorTable(HostFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[NAME]` of `vendors.toml`, with the fields of a host."""

    like: str = "open_models"
    """Name of the table with the fields that this one does not state. "": none, and each API is that of its own
    vendor."""
    host_of: str = "openai"
    """Name of the provider of which the base URL setting can select the host."""
    unknown_model_capabilities: Mapping[str, tuple[str, ...]] = {}
    chat: dict[str, Any] | None = None
    """`ApiTable`, as the following ones."""
    responses: dict[str, Any] | None = None
    gemini: dict[str, Any] | None = None
    ollama: dict[str, Any] | None = None
    messages: dict[str, Any] | None = None
    provider: Mapping[str, Any] | None = None
    """Fields of `Provider`. None: the table is only a host, or only for other tables."""
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


_WIRES: Mapping[str, str] = {
    "chat": "openai_chat",
    "responses": "openai_responses",
    "gemini": "gemini",
    "ollama": "ollama",
    "messages": "anthropic",
}
"""API → package of its wire. The first API of a provider is the usual one."""
_LISTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "text_call_formats": {"all": TOOL_CALL_FORMATS},
    "thinking_tags": {"all": get_args(ThinkingTags), "opened": OPENED_THINKING_TAGS},
}
_LONG_LISTS = ("known_models", "extra_prefixes", "betas")
"""Lists that are texts with spaces between their members: the TOML library takes long for each member."""
_OF_HOST = HostFields.__struct_fields__
_TYPES = get_type_hints(Provider)
_PATTERNS_LINE = compile_later(r"^url_patterns = (\[.*\])$", re.MULTILINE)
_HOST_OF_LINE = compile_later(r'^host_of = "(\w+)"$', re.MULTILINE)


VENDORS_FILE = Path(__file__).with_name("vendors.toml")


@cache
def list_vendor_tables() -> Mapping[str, str]:
    """Return name → table of `vendors.toml`, as text: the library takes 15 ms for all tables."""
    _, tables = split_tables(VENDORS_FILE.read_text(encoding="utf-8"))
    return tables


@lru_cache(maxsize=2)  # many tables name the same one
def decode_vendor_table(name: str) -> dict[str, Any]:
    (table,) = tomllib.loads(list_vendor_tables()[name]).values()
    return dict(table)


@cache
def _list_hosts() -> Mapping[str, list[HostEntry]]:
    """Return name of a provider → its hosts in the order of the file. The line with the patterns is JSON too: so only
    the tables in use are decoded, and the TOML library takes 20 ms for all of them.
    """
    hosts: dict[str, list[HostEntry]] = {}
    for name, text in list_vendor_tables().items():
        if line := _PATTERNS_LINE.search(text):
            provider = _HOST_OF_LINE.search(text)
            patterns = msgspec.json.decode(line[1], type=tuple[str, ...])
            entry = HostEntry(name, patterns, partial(_build_selectable_host, name))
            hosts.setdefault(provider[1] if provider else "openai", []).append(entry)
    return hosts


def build_providers() -> Iterator[Provider]:
    """Yield the providers in the order of the file."""
    for name, text in list_vendor_tables().items():
        if f"\n[{name}.provider]\n" in text:
            yield _build_provider(name)


@cache
def load_vendor(name: str) -> VendorTable:
    """Raises `msgspec.ValidationError`."""
    return msgspec.convert({"name": name, "models_table": name, **_read_table(name)}, VendorTable)


@cache
def _load_part(name: str, api: str) -> ApiTable:
    """Return the part of a table about one API, with the fields of the part that it names. Raises
    `msgspec.ValidationError`.
    """
    return msgspec.convert(_read_part(name, api), ApiTable)


def _read_part(name: str, api: str) -> dict[str, Any]:
    part: dict[str, Any] = getattr(load_vendor(name), api)
    return _merge(_read_part(part["like"], api), part) if "like" in part else part


def _read_table(name: str) -> dict[str, Any]:
    table = decode_vendor_table(name)
    if like := table.get("like", "open_models"):
        table = _merge(_read_table(like), table)
    return table


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables inside of both are merged too."""
    both = {name for name, value in above.items() if isinstance(value, dict) and name in below}
    return {**below, **above, **{name: _merge(below[name], above[name]) for name in both}}


@cache
def _build_selectable_host(name: str) -> Host:
    host = _build_host(name)
    # users select a provider with variables of its own by these
    return structs.replace(host, base_url="", key_variable="") if load_vendor(name).provider else host


def _build_host(name: str) -> Host:
    table = load_vendor(name)
    return Host(
        wires=_Wires(name, [api for api in _WIRES if getattr(table, api) is not None]),
        retired_models=_RetiredModels(name),
        **{field: getattr(table, field) for field in _OF_HOST},
    )


class _RetiredModels(Mapping[str, RetiredModel]):
    """The retirements of a vendor in the facts about models, which may be replaced."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, model: str) -> RetiredModel:
        return load_retired_models(self._name)[model]

    def __contains__(self, model: object) -> bool:
        return model in load_retired_models(self._name)

    def __iter__(self) -> Iterator[str]:
        return iter(load_retired_models(self._name))

    def __len__(self) -> int:
        return len(load_retired_models(self._name))


class _Wires(Mapping[str, AnyWireConfig]):
    """The APIs of a table, each built at its first use: most providers are never called."""

    def __init__(self, name: str, apis: Sequence[str]) -> None:
        self._name, self._apis = name, apis

    def __getitem__(self, api: str) -> AnyWireConfig:
        if api not in self._apis:
            raise KeyError(api)
        return build_config(self._name, api)

    def __contains__(self, api: object) -> bool:
        return api in self._apis

    def __iter__(self) -> Iterator[str]:
        return iter(self._apis)

    def __len__(self) -> int:
        return len(self._apis)


@cache
def _load_wire(api: str) -> Wire[Any, Any]:
    """A wire is imported with its first use: most proxies call one or two of these APIs."""
    wire: Wire[Any, Any] = import_module(f"anthropic_proxy.engine.wires.{_WIRES[api]}").WIRE
    return wire


@cached_with_facts()
def build_config(name: str, api: str) -> AnyWireConfig:
    """Return the configuration for one API of a table."""
    wire = _load_wire(api)
    part = _load_part(name, api)
    own = {"signature_tag": name} if api == "chat" else {}
    return WireConfig(
        wire=wire,
        dialect=wire.dialect_type(**own | _decode_fields(part.dialect, wire)),
        model_rules=(*build_rules_of_models(), *build_rules(name, api)),
        setting_overrides=part.settings,
        url_suffixes=part.suffixes,
        models_table=part.models_table,
        custom_url_only=part.custom_url_only,
    )


def _decode_fields(fields: dict[str, Any], wire: Wire[Any, Any]) -> dict[str, Any]:
    found = {name: _split(name, value) for name, value in fields.items()}
    return decode_dialect_fields(found, wire.dialect_type)


def _split(name: str, value: Any) -> Any:
    """Return the list that a text stands for, and any other value."""
    if name in _LONG_LISTS and isinstance(value, str):
        return value.split()
    return _LISTS[name][value] if name in _LISTS and isinstance(value, str) else value


@cache
def build_rules(name: str, api: str) -> tuple[ModelRule, ...]:
    """Return the rules of a table for the models of one API, the shared ones first."""
    shared = (rule for other in _load_part(name, api).shared_rules for rule in build_rules(other, api))
    return (*shared, *_decode_rules(name, api, _load_wire(api)))


def _decode_rules(name: str, part_name: str, wire: Wire[Any, Any]) -> list[ModelRule]:
    table, part = load_vendor(name), _load_part(name, part_name)
    rules = list[ModelRule]()
    for patterns, fields in part.rules.items():
        of_rule = {"source": part.source or table.source, "read_date": part.read_date or table.read_date, **fields}
        source, read_date = of_rule.pop("source"), of_rule.pop("read_date")
        decoded = _decode_fields(of_rule, wire)
        rules += (ModelRule(pattern, decoded, source, read_date) for pattern in patterns.split())
    return rules


def _build_provider(name: str) -> Provider:
    host, given = _build_host(name), load_vendor(name).provider or {}
    names = (pattern.partition("/")[0] for pattern in host.url_patterns)
    prefix = given.get("env_prefix")
    fields = {
        "base_url_variable": f"{prefix}_BASE_URL" if prefix else None,
        "other_hosts": tuple(one for one in names if one != urlsplit(host.base_url).hostname),
        **{field: getattr(host, field) for field in Host.__struct_fields__},
        **{field: msgspec.convert(_split(field, value), _TYPES[field]) for field, value in given.items()},
    }
    if not host.key_header:
        del fields["key_header"], fields["key_scheme"]
    return Provider(hosts=Hosts(lambda: _list_hosts().get(name, ())), **fields)
