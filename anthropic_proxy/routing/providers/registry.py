"""Types of the provider registry."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from msgspec import Struct

from anthropic_proxy.wire.contract import Wire

UNKNOWN_PROJECT = "{project}"
"""Placeholder in a base URL for a project that only the credentials contain."""


class ModelRule(Struct, frozen=True):
    """Dialect fields of the models that match a pattern."""

    pattern: str
    """Pattern of lower-case model ids (`fnmatch`)."""
    fields: Mapping[str, Any]
    source: str
    """Page, file or recording with the values."""
    read: str
    """Date on which `source` was read: `2026-11`, `2026-11-20`."""

    def holds_for(self, model: str) -> bool:
        """Return True if the rule applies to a model id, in any case."""
        return fnmatchcase(model.lower(), self.pattern)


def rules_from(source: str, read: str, *rules: tuple[str, Mapping[str, Any]]) -> tuple[ModelRule, ...]:
    """Return rules with one source, from pairs of pattern and fields."""
    return tuple(ModelRule(pattern, fields, source, read) for pattern, fields in rules)


class WireConfig(Struct, frozen=True, kw_only=True):
    """One wire of a provider, with its dialect."""

    wire: Wire
    dialect: Any
    """`Dialect` of the wire for all models of the provider."""
    model_rules: Sequence[ModelRule] = ()
    """All matching rules apply, in order."""
    settings: Mapping[str, str] = {}
    """Dialect field → field of `Settings` that overrides it."""
    url_suffixes: Sequence[tuple[str, str]] = ()
    """Suffix of the base URL → its replacement for this wire: `/v1` → `/anthropic`. The first match applies."""
    custom_url_only: bool = False
    """True if only servers from a base URL setting support the wire."""


class RetiredModel(Struct, frozen=True, kw_only=True):
    """A retired model, or one with an announced retirement."""

    since: str
    """Date: `2026-08-16`."""
    successor: str
    """Model id that the provider recommends, without prefix."""
    source: str
    """Page with the announcement."""
    read: str
    """Date on which `source` was read: `2026-11`, `2026-11-20`."""


class ServerOverride(Struct, frozen=True, kw_only=True):
    """A server of another vendor that replaces a provider through `…_BASE_URL`."""

    name: str
    """Identifier, unique in its provider: `deepseek`."""
    url_patterns: Sequence[str]
    """Lower-case patterns (`fnmatch`) of host, port and path: `api.deepseek.com/*`. Paths end with a slash."""
    wires: Mapping[str, WireConfig] = {}
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


class Provider(Struct, frozen=True, kw_only=True):
    """One company or server with models."""

    name: str
    """Value of `PREFERRED_PROVIDER`: `google`."""
    prefix: str
    """Prefix of model ids, without the slash: `gemini`."""
    extra_prefixes: Collection[str] = ()
    """Further prefixes, which remain in the model id."""
    title: str
    """Name in messages: `Google Gemini`."""
    wires: Mapping[str, WireConfig]
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
    env_prefix: str = ""
    """Prefix of its settings: `GEMINI` for `GEMINI_BASE_URL`, `GEMINI_KNOWN_MODELS`. "": no settings."""
    base_url_variable: str | None = None
    key_variable: str | None = None
    key_header: str = "authorization"
    key_scheme: str = "Bearer "
    accepts_client_credential: bool = False
    """True if the credential of the client is forwarded when neither provider nor proxy has a configured key."""
    key_source: Literal["settings", "google"] = "settings"
    """`google`: tokens from Application Default Credentials."""
    key_required: Literal["always", "own_address", "never"] = "always"
    """`own_address`: only for `base_url`. A server from a base URL setting may need no key."""
    selectable: bool = True
    """True if messages list the provider as a choice."""
    big_model: str | None = None
    """Default model for sonnet, opus and fable, without prefix. None: no default."""
    small_model: str | None = None
    serves_claude: bool = False
    """True if the provider serves Claude models. Claude ids stay unchanged; BIG_MODEL and SMALL_MODEL are ignored."""
    uses_installed_models: bool = False
    """True if defaults must be installed. Otherwise the largest and the smallest installed model replace them."""
    model_patterns: Sequence[str] = ()
    """Patterns of unlisted model names that belong to the provider."""
    unknown_models_to_openai: bool = False
    """True if an unknown BIG_MODEL or SMALL_MODEL goes to OpenAI if an OpenAI key is set (as in earlier proxies)."""
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

    @property
    def has_default_models(self) -> bool:
        """True if Claude tiers map to models without settings."""
        return self.serves_claude or (self.big_model is not None and self.small_model is not None)
