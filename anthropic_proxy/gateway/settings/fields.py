"""`Settings`: the decoded settings of the proxy, with one field for each setting.

The description of each field names its variable. Some fields map the name of a provider to a value, such as its keys or
its base URL. A prefix before a model id names the provider: `openai/gpt-4.1`. Claude models belong to tiers (haiku,
sonnet, …). A `Secret` hides a key in logs, and `reveal` returns the key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from msgspec import Struct

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings.file_format import ConfiguredPrice, ConfiguredProvider
from anthropic_proxy.gateway.settings.oidc_variables import OidcSettings
from anthropic_proxy.gateway.settings.route_format import ConfiguredRoute

TIERS = ("haiku", "sonnet", "opus", "fable")
"""Families of Claude models. A tier in a requested id, such as `claude-opus-5`, is mapped to a backend model."""

FIXED_VARIABLES = frozenset(
    {
        *("HOST", "PORT", "STOP_TIMEOUT"),
        *("DATABASE_URL", "LEDGER_DAYS", "LEDGER_MAX_MB", "LEDGER_CONTENT", "LEDGER_CONTENT_DAYS"),
        *("VIRTUAL_KEYS", "PLUGINS", "PRICE_UPDATE_DAYS", "PRICE_UPDATE_URL"),
        *("DRAIN_DELAY", "TLS_CERT_FILE", "TLS_KEY_FILE"),
        *("REDIS_URL", "REDIS_FAILURE", "REDIS_PREFIX"),
    }
)
"""Variables of settings that take effect only at the start of the server. A reload ignores their changes."""
Fidelity = Literal["best-effort", "strict"]
"""Policy for unsupported fields of a request: `best-effort` approximates or drops them, `strict` rejects the request.
"""

_MIN_LENGTH_SHOWN = 16
"""Minimum number of characters of a secret of which the last four are shown. A shorter secret is shown as `…`."""


class Secret:
    """A key or other text kept out of logs. `str`, `repr` and formatting show at most its last four characters."""

    __slots__ = ("_value", "origin")

    def __init__(self, value: str, origin: str = "") -> None:
        self._value = value
        self.origin = origin
        """Source of the secret, for messages: `OPENAI_API_KEY in .env, line 1`."""

    def reveal(self) -> str:
        """Return the unredacted text. Log only the `Secret` object."""
        return self._value

    def __repr__(self) -> str:
        return f"…{self._value[-4:]}" if len(self._value) >= _MIN_LENGTH_SHOWN else "…"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


class UnknownSecret(Secret):
    """A secret that only the proxy on `port` knows. `reveal` raises `ConfigurationError`."""

    __slots__ = ("_name", "_port")

    def __init__(self, name: str, port: int) -> None:
        super().__init__("")
        self._name, self._port = name, port

    def reveal(self) -> NoReturn:
        """Raise `ConfigurationError`."""
        raise ConfigurationError(
            f"{self._name} is set in the environment of the running proxy (port {self._port}) only. Commands do not "
            "know its value, because it contains a credential. Set it in the environment of this command too."
        )


class Timeouts(Struct, frozen=True):
    """Time limits of a call to a provider, in seconds. The total duration of the call is unlimited."""

    connect_seconds: float = 10.0
    """`UPSTREAM_CONNECT_TIMEOUT`: maximum time to connect to the provider."""
    first_byte_seconds: float = 600.0
    """`UPSTREAM_FIRST_BYTE_TIMEOUT`: maximum time until the reply starts. Reasoning models may need minutes."""
    idle_seconds: float = 300.0
    """`UPSTREAM_IDLE_TIMEOUT`: maximum time between two received pieces of the reply."""


class SearchService(Struct, frozen=True, kw_only=True):
    """Service that runs web searches for models, selected by the table `[search]` of the configuration file."""

    service: Literal["searxng", "brave", "tavily", "exa"]
    """Name of the search service, which selects its client."""
    base_url: str | None = None
    """Address of the search service without a trailing slash. None: the public address of the service."""
    key: Secret | None = None
    """API key of the search service. None: the service needs no key (SearXNG), or `problem` has the reason why it is
    missing."""
    problem: str = ""
    """Reason why the table `[search]` gives no key, with a remedy, for clients and the log. "": none."""
    problem_details: str = ""
    """Longer text of `problem` for the user's terminal. It quotes the reference to the key."""


class KeySource(Struct, frozen=True, kw_only=True):
    """File or command from which the API key of a provider is read, at the start and again while the proxy runs."""

    origin: str
    """File or command with its place in the configuration file, for messages."""
    folder: str
    """Folder of the configuration file."""
    file: str = ""
    """Path of the file, absolute or below `folder`. "": a command."""
    command: tuple[str, ...] = ()
    """Program with its arguments. Empty: a file."""
    refresh_seconds: float | None = None
    """Age in seconds at which the key is read again. None: only after the provider has rejected it."""


class ReferencedVariable(Struct, frozen=True):
    """A variable with API keys that the configuration file names: `api_key = { env = "LOCAL_KEY" }`."""

    keys: tuple[Secret, ...]
    """API keys in the value of the variable. Empty: the variable is not set."""
    origin: str
    """Source of the variable: `environment`, `.env line 4`, or `not set`."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of the proxy. In the names of variables, `<PROVIDER>` stands for a name such as OPENAI."""

    keys: Mapping[str, Sequence[Secret]] = {}
    """Provider name → API keys for the provider (`OPENAI_API_KEY`, …; separated by commas). Calls use the keys in turn.
    """
    base_urls: Mapping[str, str] = {}
    """Provider name → URL that replaces the default base URL, without a trailing slash (`<PROVIDER>_BASE_URL`)."""
    wires: Mapping[str, str] = {}
    """Provider name → API with which it is called: `chat`, `responses` (`<PROVIDER>_WIRE`).

    Absent: the default of the provider, which may depend on the model (`auto`).
    """
    extra_models: Mapping[str, Sequence[str]] = {}
    """Provider name → model ids in addition to the built-in list of the provider (`<PROVIDER>_KNOWN_MODELS`)."""
    preferred_provider: str | None = None
    """`PREFERRED_PROVIDER`: provider of tiers and of model ids without a prefix.

    None: the first provider with a key or project, else Ollama if it replies, else the demo.
    """
    big_model: str | None = None
    """`BIG_MODEL`: backend model for sonnet, opus and fable requests. None: the default of the preferred provider."""
    middle_model: str | None = None
    """`MIDDLE_MODEL`: backend model for sonnet requests, instead of `BIG_MODEL`. None: `BIG_MODEL` applies."""
    small_model: str | None = None
    """`SMALL_MODEL`: backend model for haiku requests. None: the default of the preferred provider."""
    tier_models: Mapping[str, str] = {}
    """Tier (`opus`) → backend model, overriding BIG_MODEL, MIDDLE_MODEL and SMALL_MODEL (`MODEL_<TIER>`)."""
    configured_providers: tuple[ConfiguredProvider, ...] = ()
    """Tables `[providers.NAME]` of `anthropic-proxy.toml`. Their keys and addresses are in `keys` and `base_urls`."""
    referenced_variables: Mapping[str, ReferencedVariable] = {}
    """Name of a variable that an `api_key` in the configuration file refers to → API keys in its value."""
    key_sources: Mapping[str, KeySource] = {}
    """Provider name → file or command from which its key in `keys` was read."""
    key_problems: Mapping[str, str] = {}
    """Provider name → reason why its `api_key` of the configuration file gives no key, with a remedy.

    It is sent to clients, so it does not quote `api_key`, which may be a key.
    """
    key_problem_details: Mapping[str, str] = {}
    """Provider name → longer text of `key_problems` for the user's terminal. It quotes the reference to the key."""
    fallbacks: Mapping[str, Sequence[str]] = {}
    """Tier → backend models tried in order if the first model fails (`FALLBACK_<TIER>`)."""
    use_vertex_auth: bool = False
    """`USE_VERTEX_AUTH`: True if Gemini models are called at Vertex AI with Application Default Credentials."""
    vertex_project: str | None = None
    """`VERTEX_PROJECT`, `VERTEX_PROJECT_ID`: id of the Google Cloud project. None: the project of the credentials."""
    vertex_location: str = "us-central1"
    """`VERTEX_LOCATION`: region of Vertex AI, or `global`."""
    google_credentials_file: str | None = None
    """`GOOGLE_APPLICATION_CREDENTIALS`: path of the credentials file for Vertex AI. None: the path of gcloud."""
    ollama_context_length: int | None = None
    """`OLLAMA_CONTEXT_LENGTH`: context window in tokens, sent to Ollama as `num_ctx`.

    None: `num_ctx` of the Modelfile, else the window of the model, at most 65,536.
    """
    ollama_keep_alive: str | None = None
    """`OLLAMA_KEEP_ALIVE`: time that Ollama keeps a model in memory after a reply, in seconds (`300`) or as `10m`.

    `-1`: no limit. None: the default of the Ollama server.
    """
    proxy_api_keys: Sequence[Secret] = ()
    """`PROXY_API_KEY`: keys that clients send to the proxy. Empty: only loopback clients are served."""
    virtual_keys: bool = False
    """`VIRTUAL_KEYS`: True if the virtual keys of the database are accepted. Every client then needs a key."""
    admin_api_keys: Sequence[Secret] = ()
    """`ADMIN_API_KEY`: keys for the administration of virtual keys (`/admin/…`) and the dashboard, with `virtual_keys`.
    """
    monitor_api_keys: Sequence[Secret] = ()
    """`MONITOR_API_KEY`: keys that only read `/metrics` and the paths below `/api/`."""
    oidc: OidcSettings | None = None
    """`OIDC_…`: identity provider for the sign-in to the dashboard. None: users sign in with keys only."""
    dashboard_url: str = ""
    """`DASHBOARD_URL`: URL of the proxy for browsers, without path. "": scheme and host of each request."""
    allow_unauthenticated: bool = False
    """`ALLOW_UNAUTHENTICATED`: True if clients at any address are served when `proxy_api_keys` is empty."""
    allowed_hosts: Sequence[str] = ()
    """`ALLOWED_HOSTS`: names accepted in the `Host` header of a client request, besides loopback names; lower case."""
    serve_demo: bool = False
    """`SERVE_DEMO`: True if the built-in demo model `demo/…` is served beside other providers.

    False: only if the demo is the preferred provider.
    """
    host: str = "127.0.0.1"
    """`HOST`: listen address. Loopback by default, so that other machines cannot use the provider keys."""
    port: int = 8082
    """`PORT`: listen port."""
    timeouts: Timeouts = Timeouts()
    """Time limits of provider calls (`UPSTREAM_…_TIMEOUT`). `UPSTREAM_TIMEOUT` is the default of `first_byte_seconds`
    and `idle_seconds`."""
    tls_certificate_file: str | None = None
    """`TLS_CERT_FILE`: PEM file with the certificate of the server and its chain. None: the server uses no TLS."""
    tls_key_file: str | None = None
    """`TLS_KEY_FILE`: PEM file with the private key. None: the certificate file contains it."""
    fidelity: Fidelity = "best-effort"
    """`FIDELITY`: `strict` rejects a request that the backend can serve only with losses; `best-effort` serves it."""
    tier_fidelities: Mapping[str, Fidelity] = {}
    """Tier → policy that overrides `fidelity` for requests of the tier (`FIDELITY_<TIER>`)."""
    check_context_window: bool = False
    """`CHECK_WINDOW`: True if a request above the context window of the model is rejected before an upstream call."""
    search_url: str | None = None
    """`SEARCH_URL`: URL of the search service for web searches run by the proxy. None: the proxy runs none."""
    search: SearchService | None = None
    """`[search]` of `anthropic-proxy.toml`: search service for web searches. `search_url` takes precedence."""
    prices: tuple[ConfiguredPrice, ...] = ()
    """Tables `[prices."MODEL"]` of `anthropic-proxy.toml`, in the order of the file."""
    routes: tuple[ConfiguredRoute, ...] = ()
    """Tables `[[routes]]` of `anthropic-proxy.toml`, in the order of the file. The first match is used."""
    fetch_urls: bool = False
    """`FETCH_URLS`: True if the proxy may run the web fetch tool: download a web page for the model."""
    max_upstream_calls: int | None = None
    """`MAX_UPSTREAM_CALLS`: maximum concurrent calls to providers, in all workers together. None: no limit."""
    stop_timeout_seconds: float = 25.0
    """`STOP_TIMEOUT`: seconds that running replies may continue after the stop signal.

    The default is below the 30 s after which Kubernetes kills a process.
    """
    drain_delay_seconds: float = 0.0
    """`DRAIN_DELAY`: seconds after a stop signal in which requests are still accepted, for load balancers."""
    log_format: Literal["auto", "plain", "json"] = "auto"
    """`LOG_FORMAT`: `plain` text or one JSON object per line. `auto`: colored text on a terminal, else plain text."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`LOG_LEVEL`: `warning` and `error` omit successful client requests. `debug` adds probes such as `/health`."""
    trace_exporters: tuple[str, ...] = ()
    """`OTEL_TRACES_EXPORTER`: destinations of trace spans: `otlp` (a collector), `console`. Empty: traces are off.

    Not set: `otlp` if `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
    """
    otel_variables: Mapping[str, Secret] = {}
    """Variable → text, for variables `OTEL_…` that are set only in `.env`, and absolute paths of files. They are copied
    to the environment, where the OpenTelemetry SDK reads them."""
    color: bool | None = None
    """True if the log is always colored, False if never (`FORCE_COLOR`, `NO_COLOR`, `TERM=dumb`).

    None: colored on a terminal only.
    """
    http_proxies: Mapping[str, Secret] = {}
    """Scheme of a provider URL (`https`) → URL of the HTTP proxy for calls to it (`HTTPS_PROXY`, else `ALL_PROXY`)."""
    no_proxy_hosts: str = ""
    """`NO_PROXY`: comma-separated hosts that are called without an HTTP proxy. "": none."""
    data_directory: Path | None = None
    """Directory for files of this user (`XDG_DATA_HOME`, `HOME`, `LOCALAPPDATA`). None: the environment names none."""
    other_secrets: Sequence[Secret] = ()
    """Secrets of other programs in the environment, recognized by variable names such as `…_TOKEN`. The log masks
    them."""
    dashboard_editing: bool = True
    """`DASHBOARD_EDITING`: True if admins can change settings and run the doctor in the dashboard, which sends paid
    test requests. False: the dashboard only shows them."""
    database_url: Secret | None = None
    """`DATABASE_URL`: database of the ledger: `sqlite:///path`, `postgresql://…`, or `off`.

    None: a SQLite file in `data_directory`.
    """
    ledger_days: int = 90
    """`LEDGER_DAYS`: days for which the ledger keeps requests and sums."""
    ledger_max_mb: int = 2_000
    """`LEDGER_MAX_MB`: size of the ledger in megabytes above which its oldest requests are deleted."""
    ledger_content: bool = False
    """`LEDGER_CONTENT`: True if the ledger stores the texts of requests and replies."""
    ledger_content_days: int = 7
    """`LEDGER_CONTENT_DAYS`: days for which the ledger keeps the texts of requests and replies."""
    price_update_days: int = 0
    """`PRICE_UPDATE_DAYS`: minimum number of days between two automatic updates of the price list. 0: no updates."""
    price_update_url: str | None = None
    """`PRICE_UPDATE_URL`: address of the price list for updates. None: the one at which `genai-prices` publishes it."""
    plugins: Sequence[str] = ()
    """`PLUGINS`: names of plugins of other installed packages, which are opened at the start. Empty: none."""
    redis_url: Secret | None = None
    """`REDIS_URL`: Redis or Valkey server for limits and observations that instances share: `redis://host:6379/0`.

    `rediss://`: with TLS. None: limits are in a file of `data_directory`.
    """
    redis_failure: Literal["open", "closed"] = "open"
    """`REDIS_FAILURE`: while Redis is unavailable, `open` approximates limits in each process, `closed` rejects
    requests with limits."""
    redis_prefix: str = "anthropic-proxy"
    """`REDIS_PREFIX`: beginning of all keys in Redis. Instances with the same prefix share limits."""
    litellm_variables: Mapping[str, Secret] = {}
    """Variable → text, for variables of `.env` that LiteLLM may read and that are not in the environment."""
    origins: Mapping[str, str] = {}
    """Variable, or key of the configuration file → source of its value, for messages: `environment`, `.env line 4`."""
    raw_values: Mapping[str, Secret] = {}
    """Variable, or table of the configuration file → its text before decoding, to find changes at a reload.

    Includes keys.
    """
    env_file: str | None = None
    """Path of `.env`, which may not exist. `anthropic-proxy.toml` is in the same folder. None: no files are read."""
    files: Mapping[str, str] = {}
    """Absolute path → SHA-256 digest of the content, for the settings files that were read."""
    warnings: Sequence[str] = ()
    """Warning texts to log at start, for example about ignored placeholders or removed quotes."""

    def has_ledger(self) -> bool:
        """Return True if the ledger, the database of finished requests, is enabled and has a path or address."""
        if self.database_url is None:
            return self.data_directory is not None
        return self.database_url.reveal() != "off"

    def requires_client_key(self) -> bool:
        """Return True if every client needs a key of the proxy: one of `PROXY_API_KEY`, or a virtual key."""
        return bool(self.proxy_api_keys) or self.virtual_keys

    def has_traces(self) -> bool:
        """Return True if trace spans of client requests are exported."""
        return bool(self.trace_exporters)

    def reveal_proxy_keys(self) -> Sequence[str]:
        """Return the unredacted keys accepted from clients (`PROXY_API_KEY`, `ADMIN_API_KEY`, `MONITOR_API_KEY`)."""
        return [key.reveal() for key in (*self.proxy_api_keys, *self.admin_api_keys, *self.monitor_api_keys)]

    def reveal_all_secrets(self) -> Sequence[str]:
        """Return the unredacted text of every provider key, proxy key and other secret, so that logs can hide them."""
        own = (key for keys in self.keys.values() for key in keys)
        searching = [self.search.key] if self.search is not None and self.search.key is not None else []
        client = [self.oidc.client_secret] if self.oidc is not None and self.oidc.client_secret is not None else []
        found = (*own, *searching, *client, *self.other_secrets)
        return [key.reveal() for key in found] + [*self.reveal_proxy_keys()]
