"""Types of the provider registry, above all `Provider`: the addresses, keys, models and APIs of one provider.

A wire is the code for one API. A `WireConfig` has a wire and its dialect, the deviations of a provider from the API. A
`ModelRule` changes the dialect for some models. A `Host` is an address with models: the provider's own, or another
one that a base URL setting selects. A `RetiredModel` has the date on which a provider stops serving a model, and the
successor.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Generic, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.dialect import BaseDialect, DialectT

UNKNOWN_PROJECT = "{project}"
"""Placeholder in a Vertex AI base URL for the Google Cloud project. `Credentials.next_token_and_url` replaces it."""
REGION, RESOURCE = "{region}", "{resource}"
"""Placeholders in a base URL for `AWS_REGION` and `ANTHROPIC_FOUNDRY_RESOURCE`."""
_PLACE_VARIABLES = {"aws": "AWS_REGION", "azure": "ANTHROPIC_FOUNDRY_RESOURCE"}


KeySourceName = Literal["settings", "google", "aws", "azure", "azure_openai", "azure_openai_us", "azure_openai_cn"]
"""Source of the credential if no API key is set. `settings`: none; `google`: tokens from Application Default
Credentials; `aws`: signatures with the credentials of AWS; `azure` and `azure_openai`: tokens of Microsoft Entra ID for
Foundry and for Azure OpenAI, also of the US Government and of China."""


class ModelRule(Struct, frozen=True):
    """Rule that changes a dialect for some models."""

    pattern: str
    """`fnmatch` pattern, compared with the lower-case model id: `gpt-5*`."""
    dialect_fields: Mapping[str, object]
    """Dialect field → value that replaces the value in the dialect of the provider."""
    source: str
    """Documentation page, file or recording that the values of `dialect_fields` come from."""
    read_date: str
    """Date on which `source` was read: `2026-11`, `2026-11-20`."""

    def matches_model(self, model: str) -> bool:
        """Return True if the rule applies to the model id, in upper or lower case."""
        return fnmatchcase(model.lower(), self.pattern)


def decode_dialect_fields(fields: Mapping[str, Any], dialect_type: type[BaseDialect]) -> dict[str, Any]:
    """Return fields of a dialect with the types of the dialect. Raises `msgspec.ValidationError`."""
    decoded = msgspec.convert(fields, dialect_type)
    return {name: getattr(decoded, name) for name in fields}


class WireConfig(Struct, Generic[DialectT], frozen=True, kw_only=True, eq=False):
    """Configuration of one wire for calls to one provider."""

    wire: Wire[DialectT, Any]
    """Encoder of requests and decoder of replies for the API."""
    dialect: DialectT
    """Deviations of the provider from the API, before `model_rules` apply."""
    model_rules: Sequence[ModelRule] = ()
    """Changes to `dialect` by model. All matching rules apply; a later rule overrides an earlier one."""
    setting_overrides: Mapping[str, str] = {}
    """Dialect field → name of the `Settings` field that overrides it, unless the setting is None."""
    url_suffixes: Sequence[tuple[str, str]] = ()
    """Pairs of base URL suffix and its replacement for this wire: (`/v1`, `/anthropic`). The first match applies.

    A provider may serve its APIs at different paths. `?` at the end of a suffix is the beginning of a query, `*` the
    rest of one segment of the path, and `{model}` in a replacement the model id."""
    models_table: str = ""
    """Name of the table of `models.toml` with the models of this API. "": the table of the provider."""
    custom_url_only: bool = False
    """True if the wire requires a base URL setting, because the provider's own server does not support the API."""

    def __post_init__(self) -> None:
        if type(self.dialect) is not self.wire.dialect_type:
            raise TypeError(f"{self.dialect!r} belongs to another wire")


AnyWireConfig = WireConfig[Any]
"""`WireConfig` of any wire, for mappings of wires with different dialect types."""


class RetiredModel(Struct, frozen=True, kw_only=True):
    """Retirement of a model: the date on which its provider stops or stopped serving it, and its successor."""

    retired_on: str
    """Date of the retirement, past or future: `2026-08-16`."""
    successor: str
    """Model id that the provider recommends, without prefix."""
    source: str
    """Web page on which the vendor announced the retirement."""
    read_date: str
    """Date on which `source` was read: `2026-11`, `2026-11-20`."""
    announced_on: str = ""
    """Date of the announcement: `2026-06-11`. "": unknown."""

    def applies_on(self, day: date) -> bool:
        return date.fromisoformat(self.retired_on) <= day


class HostFields(Struct, frozen=True, kw_only=True, eq=False):
    """What a host is, without its APIs: its name, its addresses, its key and its documents."""

    name: str
    """Internal identifier, unique among the hosts of one provider: `deepseek`."""
    title: str = ""
    """Name in messages: `DeepSeek`. "": that of the provider."""
    base_url: str = ""
    """Address without a trailing slash, with which users select the host: `https://api.together.ai/v1`. "": they have
    several, or their own."""
    url_patterns: Sequence[str] = ()
    """Lower-case `fnmatch` patterns of the base URL: of its host name, and after the slash of its path.

    For example, `api.deepseek.com/*`. The compared path ends with a slash. Without a slash, any path matches.
    """
    list_owner: str = ""
    """What its list of models has as `owned_by`, by which the program of an own server is known. "": no own value."""
    window_option: str = ""
    """What starts the server with a larger context window, with `{tokens}` as the number. "": not known."""
    models_table: str = ""
    """Name of the table with the models in `models.toml`. "": that of the provider, whose default is its name."""
    unknown_model_capabilities: Mapping[str, Any] = {}
    """`ModelCapabilities` field → value, for models without a row in `models.toml`."""
    capability_rules: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Pairs of model id pattern and `ModelCapabilities` fields, which precede those of `models.toml`. All matches
    apply."""
    key_variable: str = ""
    """Variable of the API keys, for a vendor the one that its own tools read: `TOGETHER_API_KEY`. "": none is known."""
    key_header: str = ""
    """Name of the request header with the API key. "": `key_header` and `key_scheme` of the provider apply."""
    key_scheme: str = ""
    """Text before the key in the value of the request header `key_header`: `Bearer `."""
    key_source: KeySourceName = "settings"
    """Source of the credential if no API key is set."""
    key_path: str = ""
    """Path from the root of the address that answers 200 to a valid key and 401 to another: `/api/v1/key`. "": the list
    of models does, unless it is public."""
    keys_url: str = ""
    """URL of the page on which API keys are created. "": unknown."""
    default_url_path: str = ""
    """Path appended to a base URL setting without a path: `/v1`."""
    litellm_prefix: str = ""
    """Prefix of LiteLLM for the vendor: `fireworks_ai`. "": `name`, or none."""
    price_url: str = ""
    """Address under which `genai-prices` knows the vendor. "": the one that is called. Prices of other vendors are in
    `models.toml`."""
    unpriced: str = ""
    """Why no model has a known price: `paid by subscription`. "": models have prices."""
    docs_url: str = ""
    """URL of the API documentation. "": none."""
    source: str = ""
    """Documents from which the dialects come. "": the sources are named at the configs of `wires`."""
    read_date: str = ""
    """Date on which `source` was read: `2026-11-23`."""


class Host(HostFields, frozen=True, kw_only=True, eq=False):
    """An address with models: its key, its APIs, and how they differ from those of the vendor who defined them."""

    wires: Mapping[str, AnyWireConfig] = {}
    """Wire name (`chat`, `responses`, `gemini`, `ollama`, `messages`) → config."""
    retired_models: Mapping[str, RetiredModel] = {}
    """Id of a default model, or of a model that users may have configured → its retirement."""

    @property
    def has_local_url(self) -> bool:
        """True if `base_url` is on this machine. Such a server may need no key."""
        return self.base_url.startswith("http://localhost")

    def find_stated_capabilities(self, model: str) -> dict[str, Any]:
        """Return the `ModelCapabilities` fields of the matching `capability_rules`."""
        matching = (fields for pattern, fields in self.capability_rules if fnmatchcase(model.lower(), pattern))
        return {name: value for fields in matching for name, value in fields.items()}


_IS_PLAIN = compile_anchored(r"[^*?\[]*")


class HostEntry(Struct, frozen=True, eq=False):
    """A host that is built at its first use."""

    name: str
    url_patterns: Sequence[str]
    build: Callable[[], Host]


class Hosts:
    """Hosts in order of precedence. `list_entries` is called with the first use, and only hosts in use are built."""

    def __init__(self, list_entries: Callable[[], Iterable[HostEntry]] = tuple) -> None:
        self._list_entries = list_entries

    @cached_property
    def _entries(self) -> tuple[HostEntry, ...]:
        return tuple(self._list_entries())

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Host]:
        return (entry.build() for entry in self._entries)

    def find_named(self, name: str) -> Host | None:
        return next((entry.build() for entry in self._entries if entry.name == name), None)

    def find_at(self, base_url: str) -> Host | None:
        """Return the first host with a pattern that matches a base URL: its host name, and its path."""
        url = urlsplit(base_url)
        name, path = url.hostname or "", f"{url.path.strip('/')}/".lstrip("/").lower()
        for entry in self._entries:
            for pattern in entry.url_patterns:
                name_pattern, _, path_pattern = pattern.partition("/")  # `*` of a name must not match a path
                if _matches(name, name_pattern) and (not path_pattern or _matches(path, path_pattern)):
                    return entry.build()
        return None


def _matches(text: str, pattern: str) -> bool:
    """The same as `fnmatchcase`, which makes an expression of each pattern, for 0.1 ms."""
    return pattern in ("*", text) or (not _IS_PLAIN.fullmatch(pattern) and fnmatchcase(text, pattern))


class Provider(Host, frozen=True, kw_only=True, eq=False):
    """Registry entry of one provider: the prefix and the variables by which users select it, its own host, whose fields
    it has itself, and `hosts`, which a base URL setting can select in place of the own one.
    """

    prefix: str
    """Prefix of model ids, without the slash: `gemini` in `gemini/gemini-pro-latest`. Also a `PREFERRED_PROVIDER`."""
    extra_prefixes: Collection[str] = ()
    """Further prefixes that select the provider and stay in the model id: `bedrock` of `bedrock/…` for LiteLLM.

    Key variables of companies with one of the prefixes are never reported as misspelled.
    """
    env_prefix: str = ""
    """Beginning of the provider's variables: `GEMINI` of `GEMINI_WIRE`, `GEMINI_KNOWN_MODELS`. "": no variables."""
    base_url_variable: str | None = None
    """Variable of the base URL. It takes precedence over `<env_prefix>_BASE_URL`. None: only the latter exists."""
    offered_to_users: bool = True
    """True if error texts list the provider as a choice for a setting. False: demo, LiteLLM, and clouds without default
    models."""
    default_big_model: str | None = None
    """Default model for sonnet, opus and fable, without prefix. None: no default."""
    default_small_model: str | None = None
    """Default model for haiku, without prefix. None: no default."""
    serves_claude: bool = False
    """True if the provider serves Claude models. Requested Claude ids then stay unchanged, and BIG_MODEL and
    SMALL_MODEL are ignored."""
    hosts: Hosts = Hosts()
    """Other hosts that the base URL setting may select. The first match applies. No match: the own host."""
    selected_host: Host | None = None
    """The one of `hosts` that the settings select, with the fields of the provider where it states none
    (`complete_host`). None: the own host."""
    wire_rules: Sequence[tuple[str, str]] = ()
    """Pairs of model id pattern and wire name. The first match applies. Without a match, the first of `wires` is
    used."""
    host_patterns: Sequence[str] = ()
    """`fnmatch` patterns of the hosts of a cloud, one for each region or resource. Empty: the host of `base_url`."""
    other_hosts: Sequence[str] = ()
    """`fnmatch` patterns of other hosts of the vendor, which have the same models: `*.api.x.ai`."""
    prefix_patterns: Sequence[str] = ()
    """Patterns of the model ids for which `prefix` selects this provider. LiteLLM, which has the same prefix, gets all
    others. Empty: all ids."""
    regional_urls: Sequence[tuple[str, str]] = ()
    """Pairs of `VERTEX_LOCATION` pattern and base URL with `{location}`. The first match replaces `base_url`."""
    project_url_path: str = ""
    """Path appended to a base URL that does not contain `/projects/`: `/projects/{project}/locations/{location}`. "":
    no path."""
    key_header: str = "authorization"
    key_scheme: str = "Bearer "
    accepts_client_credential: bool = False
    """True if the client's credential is forwarded when no provider key and no `PROXY_API_KEY` is set."""
    key_required: Literal["always", "own_address", "never"] = "always"
    """`own_address`: a key is required unless a base URL setting selects another server, which may need no key."""
    uses_installed_models: bool = False
    """True if the server serves only installed models (Ollama).

    If a default model is not installed, the largest (`big_model`) or smallest (`small_model`) one replaces it.
    """
    model_id_patterns: Sequence[str] = ()
    """`fnmatch` patterns of model ids of the provider, besides `known_models`: `gemini-*`."""
    unknown_model_provider: str = ""
    """Name of the provider called for an unknown model id in a setting such as BIG_MODEL, if its key is set.

    Used only if this provider is preferred, for compatibility with earlier proxies. "": this provider.
    """
    vertex_provider: str = ""
    """Name of the provider that replaces this provider if `USE_VERTEX_AUTH` is set. "": none."""
    known_models: Sequence[str] = ()
    """Model ids that select the provider without a prefix. `/v1/models` lists the ids, except for Ollama."""
    non_chat_models: Mapping[str, str] = {}
    """Known model that cannot chat → reason for the error text (`transcribes audio`)."""
    transport: Literal["http", "demo", "litellm"] = "http"
    """Means of calling the models: HTTP, the built-in demo, or the Python library LiteLLM."""
    known_names: Sequence[tuple[str, str]] = ()
    """Pairs of model id pattern and id of the known model behind it (`model_of`), for a provider of the configuration
    file. The last match applies."""
    reference_url: str = ""
    """Base URL of the built-in provider with the same API, for advice about a wrong path. "": `base_url`."""
    is_configured: bool = False
    """True if a `[providers.NAME]` table of the configuration file defines the provider. False: it is built in."""

    @property
    def host(self) -> Host:
        """The host that is called with the present settings."""
        return self.selected_host or self

    def find_known_name(self, model: str) -> str:
        """Return the id under which prices of a model are known."""
        matching = (name for pattern, name in reversed(self.known_names) if fnmatchcase(model.lower(), pattern))
        return next(matching, model)

    @property
    def responses_setting(self) -> str:
        """Setting that selects the Responses API, for messages. "": the provider does not have this API."""
        if self.is_configured:
            return f'wire = "responses" in [providers.{self.name}]'
        return f"{self.env_prefix}_WIRE=responses" if "responses" in self.wires else ""

    @property
    def has_default_models(self) -> bool:
        """True if every Claude tier has a model of the provider, even if BIG_MODEL and SMALL_MODEL are not set."""
        return self.serves_claude or (self.default_big_model is not None and self.default_small_model is not None)

    @property
    def setup_variable(self) -> str | None:
        """Name of the environment variable that enables the provider, such as `OPENAI_API_KEY`.

        None: no variable enables the provider.
        """
        if self.is_configured:
            return None
        if self.key_source == "google":
            return f"{self.env_prefix}_PROJECT"
        if self.key_source in _PLACE_VARIABLES:
            return _PLACE_VARIABLES[self.key_source]
        return self.base_url_variable if self.key_required == "never" else self.key_variable or None
