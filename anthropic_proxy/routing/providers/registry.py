"""Types of the provider registry."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Generic, Literal

from msgspec import Struct

from anthropic_proxy.settings import ProviderVariables
from anthropic_proxy.wire.contract import D, Wire

UNKNOWN_PROJECT = "{project}"
"""Placeholder in a base URL for a project that only the credentials contain."""


class ModelRule(Struct, frozen=True):
    """Dialect fields of the models that match a pattern."""

    pattern: str
    """Pattern of lower-case model ids (`fnmatch`)."""
    fields: Mapping[str, object]
    source: str
    """Page, file or recording with the values."""
    read_date: str
    """Date on which `source` was read: `2026-11`, `2026-11-20`."""

    def matches_model(self, model: str) -> bool:
        """Return True if the rule applies to a model id, in any case."""
        return fnmatchcase(model.lower(), self.pattern)


def rules_from(source: str, read_date: str, *rules: tuple[str, Mapping[str, object]]) -> tuple[ModelRule, ...]:
    """Return rules with one source, from pairs of pattern and fields."""
    return tuple(ModelRule(pattern, fields, source, read_date) for pattern, fields in rules)


class WireConfig(Struct, Generic[D], frozen=True, kw_only=True):
    """One wire of a provider, with its dialect."""

    wire: Wire[D]
    dialect: D
    """Dialect of the wire for all models of the provider."""
    model_rules: Sequence[ModelRule] = ()
    """All matching rules apply, in order."""
    settings: Mapping[str, str] = {}
    """Dialect field → field of `Settings` that overrides it."""
    url_suffixes: Sequence[tuple[str, str]] = ()
    """Suffix of the base URL → its replacement for this wire: `/v1` → `/anthropic`. The first match applies."""
    custom_url_only: bool = False
    """True if only servers from a base URL setting support the wire."""

    def __post_init__(self) -> None:
        if type(self.dialect) is not self.wire.dialect_type:
            raise TypeError(f"{self.dialect!r} belongs to another wire")


AnyWireConfig = WireConfig[Any]
"""Config of any wire. The dialect types of a provider's wires differ."""


class RetiredModel(Struct, frozen=True, kw_only=True):
    """A retired model, or one with an announced retirement."""

    retired_on: str
    """Date: `2026-08-16`."""
    successor: str
    """Model id that the provider recommends, without prefix."""
    source: str
    """Page with the announcement."""
    read_date: str
    """Date on which `source` was read: `2026-11`, `2026-11-20`."""


def retire(source: str, read_date: str, *days: tuple[str, str, tuple[str, ...]]) -> Mapping[str, RetiredModel]:
    """Return model → retirement, from groups of models with their date and the successor that the provider recommends.

    Covers the default models and models that users may have configured.
    """
    return {
        model: RetiredModel(retired_on=retired_on, successor=successor, source=source, read_date=read_date)
        for retired_on, successor, models in days
        for model in models
    }


class ServerOverride(Struct, frozen=True, kw_only=True):
    """A server of another vendor that replaces a provider through `…_BASE_URL`."""

    name: str
    """Identifier, unique in its provider: `deepseek`."""
    url_patterns: Sequence[str]
    """Lower-case patterns (`fnmatch`) of host, port and path: `api.deepseek.com/*`. Paths end with a slash."""
    wires: Mapping[str, AnyWireConfig] = {}
    """Wire name → config. Absent: the config of the provider."""
    capabilities: Mapping[str, Any] = {}
    """Fields of `ModelCapabilities` for models that the catalog does not know."""
    models: str = ""
    """Table of its models in `models.toml`. "": the table of the provider."""
    accepts_pdf: bool = False
    """True if the server reads PDFs for all models."""
    retired_models: Mapping[str, RetiredModel] = {}
    """Model → retirement."""
    title: str = ""
    """Vendor name in messages: `DeepSeek`. "": the title of the provider."""
    key_header: str | None = None
    """None: the header of the provider."""
    key_scheme: str = ""
    docs: str = ""


class Provider(ProviderVariables, frozen=True, kw_only=True):
    """One company or server with models."""

    title: str
    """Name in messages: `Google Gemini`."""
    wires: Mapping[str, AnyWireConfig]
    """Wire name (`chat`, `responses`, `gemini`, `ollama`, `messages`) → config, the default first."""
    servers: Sequence[ServerOverride] = ()
    """Servers selected by a base URL setting. The first match applies. No match: the provider itself."""
    wire_rules: Sequence[tuple[str, str]] = ()
    """Pattern of model ids → wire name. The first match applies. No match: the first of `wires`."""
    base_url: str
    regional_urls: Sequence[tuple[str, str]] = ()
    """Pattern of locations → base URL with `{location}`. The first match replaces `base_url`."""
    url_version: str = ""
    """Path appended to a base URL setting without a path: `/v1`."""
    url_resource: str = ""
    """Path of the account, appended to each base URL: `/projects/{project}/locations/{location}`."""
    key_header: str = "authorization"
    key_scheme: str = "Bearer "
    accepts_client_credential: bool = False
    """True if the credential of the client is forwarded when neither provider nor proxy has a configured key."""
    key_source: Literal["settings", "google"] = "settings"
    """`google`: tokens from Application Default Credentials."""
    key_required: Literal["always", "own_address", "never"] = "always"
    """`own_address`: only for `base_url`. A server from a base URL setting may need no key."""
    uses_installed_models: bool = False
    """True if defaults must be installed. Otherwise the largest and the smallest installed model replace them."""
    model_patterns: Sequence[str] = ()
    """Patterns of unlisted model names that belong to the provider."""
    unknown_model_provider: str = ""
    """Provider of an unknown BIG_MODEL or SMALL_MODEL if its key is set (as in earlier proxies). "": this provider."""
    vertex_provider: str = ""
    """Provider of the same models, used instead of this one with `USE_VERTEX_AUTH`. "": none."""
    known_models: Sequence[str] = ()
    refused_models: Mapping[str, str] = {}
    """Known models that cannot chat → reason (`turns sound into text`)."""
    retired_models: Mapping[str, RetiredModel] = {}
    """Model → retirement, for defaults and models that users may have configured."""
    transport: Literal["http", "demo", "litellm"] = "http"
    docs: str = ""

    @property
    def setup_variable(self) -> str | None:
        """Setting that enables the provider: key, project, or base URL of a server without a key."""
        if self.key_source == "google":
            return f"{self.env_prefix}_PROJECT"
        return self.base_url_variable if self.key_required == "never" else self.key_variable

    @property
    def is_local(self) -> bool:
        """True if the default server is on this machine, where another program may use the port."""
        return self.base_url.startswith("http://localhost")
