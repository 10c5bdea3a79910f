"""Facts about vendors as the registry has them: each difference from the API that a vendor follows, with its source."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.providers import PROVIDERS, AnyWireConfig, Host, Provider, find_registry
from anthropic_proxy.engine.providers.model_facts import FACTS, build_rules_of_models
from anthropic_proxy.engine.providers.vendors import (
    build_config,
    build_rules,
    decode_vendor_table,
    list_vendor_tables,
    load_vendor,
)
from anthropic_proxy.engine.upstream.cloud_credentials import OPENAI_SCOPES
from anthropic_proxy.gateway.settings import load_settings
from tests.support.golden_runner import GoldenCase, find_cases, read_fields

_READ = "2026-11"
"""Date of a source that is the documentation of the vendor (`docs_url`), without a date of its own."""
_SHARED = (
    "schema_models",
    "openai_at_gateways",
    "mistral_models",
    "gpt_oss_models",
    "replaying_models",
    "unopened_models",
)
SHARED_RULES = {
    id(rule)
    for name, api in (
        *((name, "chat") for name in ("openai_models", *_SHARED)),
        *((name, "responses") for name in ("openai_models", "schema_models")),
    )
    for rule in build_rules(name, api)
} | {id(rule) for rule in build_rules_of_models()}
"""Rules of models that hold at every host. Their golden cases are those of any host."""
_TITLES = {
    "openai": "OpenAI, regional addresses",
    "azure": "Azure OpenAI",
    "deepseek_beta": "DeepSeek, beta address",
    "openrouter": "OpenRouter",
    "mistral": "Mistral",
    "zai": "Z.ai",
    "gemini": "Gemini, compatible endpoint",
    "local": "vLLM, llama.cpp, LM Studio",
}
"""Titles of servers without one in the registry, where an error names the variable instead."""
_TABLES = {name: load_vendor(name) for name, text in list_vendor_tables().items() if "\nurl_patterns = " in text}
MODEL_TABLES = FACTS.file.names
"""Names of the tables with facts about models."""
HOSTS_OF_OPEN_MODELS = [name for name, table in _TABLES.items() if table.differences]
EXAMPLE_MODELS = {name: table.example_model for name, table in _TABLES.items() if table.example_model}
"""Vendor → a model that people use with it."""
VENDORS_WITHOUT_EXAMPLE = [name for name in _TABLES if name not in EXAMPLE_MODELS]
_NO_VENDORS = ("demo", "litellm", "other")
_CREDENTIALS = {
    "google": "Application Default Credentials",
    "aws": "the credentials of AWS",
    **dict.fromkeys(("azure", *OPENAI_SCOPES), "tokens of Microsoft Entra ID"),
}
"""Source of the credential → text."""
LOCAL_PROGRAMS = [host for host in PROVIDERS.find("openai").hosts if host.base_url and host.has_local_url]
"""Programs for a machine of the user, which have the dialect of the entry `local`."""


@dataclass(frozen=True)
class Claim:
    """One difference: a field of the dialect, for all models (`*`) or those of a pattern."""

    field: str
    value: Any
    pattern: str
    source: str
    read_date: str
    is_shared: bool


@dataclass(frozen=True)
class Vendor:
    """One API of a provider, or of a host that `OPENAI_BASE_URL` selects."""

    name: str
    title: str
    api: str
    address: str
    key_header: str
    keys: str
    """Variable of the key, or where the credential comes from."""
    models_table: str
    config: AnyWireConfig
    source: str
    read_date: str
    owner: Host

    @property
    def accepts_pdf(self) -> bool:
        return ("*", {"accepts_pdf": True}) in self.owner.capability_rules

    @property
    def is_relay(self) -> bool:
        """True if requests are forwarded to a host that is not Anthropic's or a cloud's."""
        return self.api == "messages" and not self.config.dialect.verifies_signatures

    @property
    def default(self) -> Any:
        """The dialect to which differences are stated: of the API, of a host of open models, or of a relay."""
        if self.is_relay:
            return build_config("compatible", "messages").dialect
        hosts_open_models = self.owner.name in _TABLES and _hosts_open_models(self.owner.name)
        is_unknown = self.api == "chat" and hosts_open_models
        return build_config("open_models", "chat").dialect if is_unknown else self.config.wire.dialect_type()

    @property
    def unpriced(self) -> str:
        """Why the vendor has no prices. "": it has some, or nothing is known."""
        owner = LOCAL_PROGRAMS[0] if self.name == "local" else self.owner
        return owner.unpriced

    @property
    def is_for_own_addresses(self) -> bool:
        """True if the vendor itself does not serve the API."""
        return self.config.custom_url_only and isinstance(self.owner, Provider)

    def find_api_address(self) -> str:
        """Return the address of this API if the vendor's usual address is set."""
        if self.is_for_own_addresses:
            return "an address of your own"
        for suffix, replacement in self.config.url_suffixes:
            if self.address.endswith(suffix):
                return self.address.removesuffix(suffix) + replacement
        return self.address

    def list_other_addresses(self) -> list[str]:
        """Return patterns of further addresses that select the vendor."""
        patterns = self.owner.url_patterns
        own = self.address.removeprefix("https://").partition("/")[0]
        return [] if self.name == "local" else [one for one in patterns if not one.startswith(f"{own}/")]

    def claims(self) -> Iterator[Claim]:
        default, dialect = self.default, self.config.dialect
        for field in dialect.__struct_fields__:
            if (value := getattr(dialect, field)) != getattr(default, field):
                yield Claim(field, value, "*", self.source, self.read_date, is_shared=False)
        for rule in self.config.model_rules:
            for field, value in rule.dialect_fields.items():
                shared = id(rule) in SHARED_RULES
                yield Claim(field, value, rule.pattern, rule.source, rule.read_date, is_shared=shared)


@cache
def list_vendors() -> tuple[Vendor, ...]:
    found = [_of_provider(row, api, config) for row in PROVIDERS for api, config in row.wires.items()]
    for row in PROVIDERS:
        own = {provider.name for provider in PROVIDERS}
        for host in row.hosts:
            if host.name not in own and host.url_patterns:
                found += [
                    _of_host(row, host, api, config)
                    for api, config in host.wires.items()
                    if api != "responses" or not _hosts_open_models(host.name)
                ]
    return tuple(vendor for vendor in found if vendor.name not in _NO_VENDORS)


def _of_provider(row: Provider, api: str, config: AnyWireConfig) -> Vendor:
    return Vendor(
        name=row.name,
        title=row.title,
        api=api,
        address=row.base_url,
        key_header=_code(f"{row.key_header}: {row.key_scheme.strip()}".removesuffix(": ")),
        keys=_keys(row.key_variable, row.key_source),
        models_table=config.models_table or row.models_table or row.name,
        config=config,
        source=row.docs_url,
        read_date=_READ,
        owner=row,
    )


def _of_host(row: Provider, host: Host, api: str, config: AnyWireConfig) -> Vendor:
    header = (host.key_header, host.key_scheme) if host.key_header else (row.key_header, row.key_scheme)
    return Vendor(
        name=host.name,
        title=_TITLES.get(host.name) or host.title,
        api=api,
        address=host.base_url or host.url_patterns[0].replace("/*", "") + host.default_url_path,
        key_header=_code(f"{header[0]}: {header[1].strip()}".removesuffix(": ")),
        keys=_keys(host.key_variable or row.key_variable, host.key_source if host.key_header else row.key_source),
        models_table=host.models_table,
        config=config,
        source=host.source or host.docs_url,
        read_date=host.read_date or _READ,
        owner=host,
    )


def _hosts_open_models(name: str) -> bool:
    like = decode_vendor_table(name).get("like", "open_models")
    return like == "open_models" or (like != "" and _hosts_open_models(like))


def _keys(variable: str | None, source: str) -> str:
    return " or ".join(filter(None, (_code(variable) if variable else "", _CREDENTIALS.get(source, ""))))


def _code(text: str) -> str:
    return f"`{text}`"


@cache
def cases_of(name: str, api: str) -> tuple[GoldenCase, ...]:
    """Return the golden cases with requests to this vendor."""
    return tuple(case for vendor, wire, case in _all_cases() if (vendor, wire) == (name, api))


@cache
def _all_cases() -> tuple[tuple[str, str, GoldenCase], ...]:
    found = []
    for folder in find_cases():
        case = GoldenCase(folder)
        provider, api = case.target.provider, _api_of(case)
        if provider.hosts:
            settings = load_settings(read_fields(folder).get("settings", {}), PROVIDERS, env_file=None)
            found.append((find_registry(settings).find(provider.name).host.name, api, case))
        else:
            found.append((provider.name, api, case))
    return tuple(found)


def _api_of(case: GoldenCase) -> str:
    hosts = case.target.provider.hosts
    wires = {**case.target.provider.wires, **{api: config for host in hosts for api, config in host.wires.items()}}
    return next(api for api, config in wires.items() if isinstance(case.target.dialect, config.wire.dialect_type))


def proven(vendor: Vendor, claim: Claim, outcome: Any) -> bool:
    """Return True if a golden case of the vendor has another result without the difference."""
    default = getattr(vendor.default, claim.field)
    reset = default if default != claim.value else getattr(vendor.config.dialect, claim.field)
    for case in cases_of(vendor.name, vendor.api):
        target = case.target
        if getattr(target.dialect, claim.field) != claim.value:
            continue
        before = outcome(case)
        case.change_target(structs.replace(target, dialect=structs.replace(target.dialect, **{claim.field: reset})))
        after = outcome(case)
        case.change_target(target)
        if after != before:
            return True
    return False
