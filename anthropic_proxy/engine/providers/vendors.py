"""Hosts of open models that `OPENAI_BASE_URL` can select: the tables of `vendors.toml`.

A host starts from the dialect for unknown servers, and its table names what differs. The facts come from the documents
in `source`, and from clients that probed the hosts; none was tried with an account. `catalog.py` reads the limits,
efforts and prices in the table.
"""

import re
from functools import cache, partial
from typing import Any

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers.catalog import decode_table, list_vendor_tables
from anthropic_proxy.engine.providers.open_models import (
    GPT_OSS_RULES,
    MISTRAL_RULES,
    REPLAY_RULES,
    UNKNOWN,
    UNKNOWN_RESPONSES,
)
from anthropic_proxy.engine.providers.registry import (
    AnyWireConfig,
    Host,
    HostEntry,
    WireConfig,
    build_model_rules,
    build_retired_models,
    decode_dialect_fields,
)
from anthropic_proxy.engine.wires import openai_chat


class _Retirements(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[[NAME.retired]]`: one announcement of the vendor."""

    source: str
    read_date: str
    announced_on: str = ""
    ends: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Date, successor, and the models that retire on this date."""


class VendorTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[NAME]` of `vendors.toml`. Fields without a text are those of `Host`."""

    title: str
    base_url: str
    url_patterns: tuple[str, ...]
    key_variable: str
    keys_url: str
    key_path: str = ""
    litellm_prefix: str = ""
    price_url: str = ""
    unpriced: str = ""
    docs_url: str
    source: str
    read_date: str
    dialect: dict[str, Any] = {}
    """Field of the chat `Dialect` → value that differs from the dialect for unknown servers."""
    rules: dict[str, dict[str, Any]] = {}
    """Model pattern → fields of the chat `Dialect` for these models."""
    messages_suffixes: tuple[tuple[str, str], ...] = ()
    """Endings of the base URL, and what replaces them for the Messages API. Empty: `/v1` is removed."""
    serves_claude: bool = False
    """True if the host serves Claude with the Messages API."""
    retired: tuple[_Retirements, ...] = ()
    models: list[dict[str, Any]] = []
    """`ModelRow` of models with known limits."""
    fallback: dict[str, Any] = {}
    """`ModelRow` of the other models."""
    prices: dict[str, Any] = {}
    """`VendorPrices`."""
    differences: str
    """What users should know about the host, for the page Providers."""
    also_at: str = ""
    """Further addresses, for this page."""
    example_model: str
    """Model that people use there, for tests."""
    searched_on: str = ""
    """Date on which sources of `facts` were searched. "": not looked up."""
    facts: dict[str, tuple[str, str, str]] = {}
    """Column of the page of vendors → text, source and date of reading."""


_OF_HOST = [name for name in VendorTable.__struct_fields__ if name in Host.__struct_fields__]
_PATTERNS_LINE = compile_later(r"^url_patterns = (\[.*\])$", re.MULTILINE)


def list_vendor_entries() -> list[HostEntry]:
    """Return the hosts in the order of the file. The line with the patterns is JSON too: so only the tables in use are
    decoded, and the TOML library takes 10 ms for all of them.
    """
    found = ((name, _PATTERNS_LINE.search(text)) for name, text in list_vendor_tables().items())
    return [
        HostEntry(name, msgspec.json.decode(line[1], type=tuple[str, ...]), partial(build_vendor, name))
        for name, line in found
        if line is not None
    ]


def load_vendor(name: str) -> VendorTable:
    """Raises `msgspec.ValidationError`."""
    return msgspec.convert(decode_table(list_vendor_tables()[name]), VendorTable)


@cache
def build_vendor(name: str) -> Host:
    table = load_vendor(name)
    chat = openai_chat.WIRE.dialect_type
    rules = ((pattern, decode_dialect_fields(fields, chat)) for pattern, fields in table.rules.items())
    wires: dict[str, AnyWireConfig] = {
        "chat": WireConfig(
            wire=openai_chat.WIRE,
            dialect=structs.replace(UNKNOWN, signature_tag=name, **decode_dialect_fields(table.dialect, chat)),
            model_rules=(
                *REPLAY_RULES,
                *MISTRAL_RULES,
                *GPT_OSS_RULES,
                *build_model_rules(table.source, table.read_date, *rules),
            ),
        ),
        "responses": UNKNOWN_RESPONSES,
    }
    if table.messages_suffixes:
        config = messages.GATEWAYS if table.serves_claude else messages.CHAT_SERVERS
        wires["messages"] = structs.replace(config, url_suffixes=table.messages_suffixes)
    retired = (
        build_retired_models(one.source, one.read_date, *one.ends, announced_on=one.announced_on)
        for one in table.retired
    )
    return Host(
        name=name,
        models_table=name,
        wires=wires,
        retired_models={model: end for ends in retired for model, end in ends.items()},
        **{field: getattr(table, field) for field in _OF_HOST},
    )
