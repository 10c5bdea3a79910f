"""`Settings`: the decoded settings of the proxy, with one field for each setting.

The description of each field names its variable. Some fields map the name of a provider to a value, such as its keys or
its base URL. A prefix before a model id names the provider: `openai/gpt-4.1`. Claude models belong to tiers (haiku,
sonnet, …). A `Secret` hides a key in logs, and `reveal` returns the key.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.gateway.settings.environment import export_to_litellm
from anthropic_proxy.gateway.settings.file_format import ConfiguredPrice
from anthropic_proxy.secrets import Secret

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


class OidcSettings(Struct, frozen=True, kw_only=True):
    """An identity provider (OpenID Connect) for the sign-in to the dashboard, and the roles of its users.

    `admins`, `viewers` and `members` list the users of each role. An entry is an e-mail address or a value of the claim
    `role_claim`.
    """

    issuer: str
    """`OIDC_ISSUER`: URL of the identity provider, without `/.well-known/openid-configuration` and trailing slash."""
    client_id: str
    """`OIDC_CLIENT_ID`: id under which the proxy is registered at the identity provider."""
    client_secret: Secret | None = None
    """`OIDC_CLIENT_SECRET`: secret of the proxy at the identity provider. None: the sign-in is protected by PKCE
    only."""
    scopes: Sequence[str] = ("openid", "email", "profile")
    """`OIDC_SCOPES`: requested scopes. `openid` is always requested."""
    role_claim: str = "groups"
    """`OIDC_ROLE_CLAIM`: claim with the groups or roles of a user. Dots separate nested keys: `realm_access.roles`."""
    email_claim: str = "email"
    """`OIDC_EMAIL_CLAIM`: claim with the e-mail address of a user."""
    admins: Sequence[str] = ()
    """`OIDC_ADMINS`: users that change settings and virtual keys."""
    viewers: Sequence[str] = ()
    """`OIDC_VIEWERS`: users that can read all requests and settings, but change nothing."""
    members: Sequence[str] = ()
    """`OIDC_MEMBERS`: users that can read only their own requests. Empty: all other users of the identity provider."""
    domains: Sequence[str] = ()
    """`OIDC_DOMAINS`: domains of accepted e-mail addresses, in lower case. Empty: every domain is accepted."""


class ReferencedVariable(Struct, frozen=True):
    """A variable with API keys that the configuration file names: `api_key = { env = "LOCAL_KEY" }`."""

    keys: tuple[Secret, ...]
    """API keys in the value of the variable. Empty: the variable is not set."""
    origin: str
    """Source of the variable: `environment`, `.env line 4`, or `not set`."""


class Settings(EngineOptions, frozen=True, kw_only=True):
    """All settings of the server: options of the engine, and the fields below."""

    referenced_variables: Mapping[str, ReferencedVariable] = {}
    """Name of a variable that an `api_key` in the configuration file refers to → API keys in its value."""
    key_problem_details: Mapping[str, str] = {}
    """Provider name → longer text of `key_problems` for the user's terminal. It quotes the reference to the key."""
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
    host: str = "127.0.0.1"
    """`HOST`: listen address. Loopback by default, so that other machines cannot use the provider keys."""
    port: int = 8082
    """`PORT`: listen port."""
    tls_certificate_file: str | None = None
    """`TLS_CERT_FILE`: PEM file with the certificate of the server and its chain. None: the server uses no TLS."""
    tls_key_file: str | None = None
    """`TLS_KEY_FILE`: PEM file with the private key. None: the certificate file contains it."""
    prices: tuple[ConfiguredPrice, ...] = ()
    """Tables `[prices."MODEL"]` of `anthropic-proxy.toml`, in the order of the file."""
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
        client = [self.oidc.client_secret] if self.oidc is not None and self.oidc.client_secret is not None else []
        return [*super().reveal_all_secrets(), *(secret.reveal() for secret in client)]

    def export_to_litellm(self, exported: dict[str, Secret] | None = None) -> None:
        export_to_litellm(self.litellm_variables, exported)
