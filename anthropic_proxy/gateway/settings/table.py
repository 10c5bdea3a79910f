"""The table of all settings: one entry for each variable of the environment or of `.env`.

What users read about a setting comes from this table: `.env.example`, the reference page, `config show`, and the page
Settings of the dashboard. `load.py` reads and decodes the settings in the order of the table. To add a setting, add an
entry here and a field to `Settings` (`fields.py`), whose default is that of the setting.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any

from msgspec import Struct

from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.errors import join_with_or
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.fields import Settings
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources


class Setting(Struct, frozen=True):
    name: str
    """Variable, such as `BIG_MODEL`."""
    field: str
    """Field of `Settings`, or a field and a key of it: `big_model`, `keys.openai`, `timeouts.idle_seconds`."""
    decode: Callable[[FoundSetting], Any]
    """Function that returns the value, or raises `ConfigurationError` with the allowed values. Its result None counts
    as not set."""
    help: str
    """What the setting does, for users who see it without its neighbors."""
    example: str = ""
    """Value in `.env.example`. "": the default."""
    aliases: tuple[str, ...] = ()
    """Other names of the variable, which have less precedence."""
    client_names: tuple[str, ...] = ()
    """Names of the variable in Claude Code and in Anthropic's SDKs. They count only if it is set nowhere, also not in
    `.env`, because they may be in the environment for these programs."""
    default: str = ""
    """Text of the default. "": that of the field of `Settings`."""
    is_list: bool = False
    """True if the value is a list, separated by commas."""
    reloadable: bool = True
    """False if a change takes effect at the next start of the server only."""
    editable: bool = False
    """True if the page Settings may change it. No addresses and no rules of access, because keys could then be sent to
    another host."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases, *self.client_names)

    def find_text(self, sources: Sources) -> FoundSetting | None:
        return sources.find_setting(self.name, *self.aliases, client_names=self.client_names, is_list=self.is_list)

    def find_default(self) -> str:
        """The text of the default as a user would set it: `true`, `25`. "": there is none, or it depends on others."""
        if self.default:
            return self.default
        value: Any = Settings()
        for name in self.field.split("."):
            value = getattr(value, name, None)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:g}"
        return str(value) if isinstance(value, str | int) else ""


class SettingGroup(Struct, frozen=True):
    title: str
    intro: str
    """Text for `.env.example` and the reference page."""
    settings: tuple[Setting, ...]
    selects_models: bool = False
    """True if the settings select models, their providers, addresses, keys or APIs."""


_days = partial(values.decode_integer, minimum=1, maximum=36_500, unit="days")
_tokens = partial(values.decode_integer, minimum=1, maximum=100_000_000, unit="tokens")
_fidelity = values.choice("best-effort", "strict")
_fixed = partial(Setting, reloadable=False)
_editable = partial(Setting, editable=True)


def _text(found: FoundSetting) -> str:
    return found.text


def _items(found: FoundSetting) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found.items))


_MODELS = (
    _editable(
        "BIG_MODEL",
        "big_model",
        values.decode_model,
        "Model for sonnet, opus and fable (also mythos). A prefix (groq/…) selects the provider.",
        "gpt-4.1",
    ),
    _editable(
        "SMALL_MODEL",
        "small_model",
        values.decode_model,
        "Model for haiku. A prefix (groq/…) selects the provider.",
        "gpt-4.1-mini",
    ),
    _editable("MIDDLE_MODEL", "middle_model", values.decode_model, "Model for sonnet, if not BIG_MODEL.", "gpt-4.1"),
    *(
        _editable(
            f"MODEL_{tier.upper()}",
            f"tier_models.{tier}",
            values.decode_model,
            "Model for one tier of Claude models. It takes precedence over BIG_MODEL, MIDDLE_MODEL and SMALL_MODEL.",
            "gpt-4.1-mini" if tier == "haiku" else "gpt-4.1",
        )
        for tier in TIERS
    ),
    *(
        _editable(
            f"FALLBACK_{tier.upper()}",
            f"fallbacks.{tier}",
            values.decode_models,
            "Models to try in order, separated by commas, if the model of the tier fails before its reply starts.",
            {"haiku": "groq/llama-3.1-8b-instant", "sonnet": "groq/llama-3.3-70b-versatile,xai/grok-3"}.get(
                tier, "groq/llama-3.3-70b-versatile"
            ),
            is_list=True,
        )
        for tier in TIERS
    ),
)
MODEL_VARIABLES = tuple(setting.name for setting in _MODELS if not setting.name.startswith("FALLBACK_"))
"""Settings with one model each."""
_CALLS = (
    _editable(
        "UPSTREAM_CONNECT_TIMEOUT",
        "timeouts.connect_seconds",
        values.decode_seconds,
        "Seconds to connect to a provider. A whole reply has no timeout.",
    ),
    _editable(
        "UPSTREAM_FIRST_BYTE_TIMEOUT",
        "timeouts.first_byte_seconds",
        values.decode_seconds,
        "Seconds until the reply of a provider begins.",
    ),
    _editable(
        "UPSTREAM_IDLE_TIMEOUT",
        "timeouts.idle_seconds",
        values.decode_seconds,
        "Seconds between two pieces of a provider's reply.",
    ),
    _editable(
        "UPSTREAM_TIMEOUT",
        "timeouts.common",
        values.decode_seconds,
        "Sets UPSTREAM_FIRST_BYTE_TIMEOUT and UPSTREAM_IDLE_TIMEOUT together.",
        "600",
    ),
    _editable(
        "MAX_UPSTREAM_CALLS",
        "max_upstream_calls",
        partial(values.decode_integer, minimum=1, maximum=1_000_000, unit="calls"),
        "Maximum number of concurrent calls to providers. Further requests wait, round-robin per client and session. "
        "Beyond eight waiting requests per call they get status 529. Several workers divide the number. Unset: no "
        "limit.",
        "100",
    ),
    _editable(
        "MAX_BODY_MEMORY_MB",
        "max_body_memory_mb",
        partial(values.decode_integer, minimum=32, maximum=1_000_000, unit="megabytes"),
        "Megabytes that the bodies of requests above 1 MB may have in each worker until their replies begin. Their "
        "decoded and encoded forms need up to twice as much in addition. Further ones wait, and get status 529 after "
        "30 s.",
    ),
)
_REQUESTS = (
    _editable(
        "FIDELITY",
        "fidelity",
        _fidelity,
        "strict: reject requests of which something would be lost, or try the next model. best-effort: report losses "
        "in the header x-proxy-fidelity.",
    ),
    *(
        _editable(
            f"FIDELITY_{tier.upper()}",
            f"tier_fidelities.{tier}",
            _fidelity,
            "FIDELITY for the requests of one tier of Claude models.",
            "best-effort",
        )
        for tier in TIERS
    ),
    _editable(
        "CHECK_WINDOW",
        "check_context_window",
        values.decode_boolean,
        "true: reject a request that exceeds the model's input limit before it is sent, by the proxy's estimate, so "
        "that agents compact at once. The estimate is 3 % high, so a request that just fits can be rejected too.",
    ),
    _editable(
        "SERVE_DEMO",
        "serve_demo",
        values.decode_boolean,
        "true: demo/… is served in addition to the configured providers. false: only if no provider is configured.",
    ),
    _editable(
        "AUTO_MODE",
        "auto_mode.mode",
        values.choice("check", "client", "off"),
        "Who checks tool calls in Claude Code's auto mode, if the provider does not. check: the proxy asks a model. "
        "client: the client's own classifier. off: the client is told that there is no check.",
    ),
    _editable(
        "AUTO_MODE_MODEL",
        "auto_mode.model",
        values.decode_model,
        "Model that checks tool calls in auto mode. Unset: the model of the sonnet tier.",
        "gpt-4.1-mini",
    ),
    _editable(
        "AUTO_MODE_TIMEOUT",
        "auto_mode.timeout_seconds",
        values.decode_seconds,
        "Seconds that the end of a reply waits for the checks of its tool calls.",
    ),
    Setting(
        "SEARCH_URL",
        "search_url",
        values.decode_url,
        "Your SearXNG, for web searches if the provider has none. Its settings.yml must list json in search.formats.",
        "http://localhost:8080",
    ),
    Setting(
        "FETCH_URLS",
        "fetch_urls",
        values.decode_boolean,
        "true: fetch web pages if the provider cannot, and images and documents given by URL if it accepts no URLs. "
        "Only https and public addresses: not this machine, its network or cloud metadata. HTML needs the extra fetch: "
        "anthropic-proxy add fetch",
    ),
)
_ACCESS = (
    _fixed(
        "HOST",
        "host",
        values.decode_listen_host,
        "Address to listen on. Without PROXY_API_KEY only this machine is served.",
    ),
    _fixed("PORT", "port", values.decode_port, "Port to listen on."),
    Setting(
        "PROXY_API_KEY",
        "proxy_api_keys",
        values.decode_keys,
        "Keys that clients must present as x-api-key or Authorization: Bearer, separated by commas. Never forwarded.",
        "your-own-secret",
        is_list=True,
    ),
    _fixed(
        "VIRTUAL_KEYS",
        "virtual_keys",
        values.decode_boolean,
        "true: every client needs a key, either one of PROXY_API_KEY or a virtual key of: "
        "anthropic-proxy keys create LABEL",
    ),
    Setting(
        "LIMIT_CONTACT",
        "limit_contact",
        values.decode_contact,
        "Where people ask for a higher limit or budget: an address or a name. Errors about limits of virtual keys end "
        "with it. Unset: they end with the command of the administrator.",
        "https://go.example.org/limits",
    ),
    Setting(
        "KEYS_PER_PERSON",
        "keys_per_person",
        partial(values.decode_integer, minimum=0, maximum=1_000, unit="keys"),
        "Active virtual keys that a signed-in person may create, with the limits of the own group and team. 0: only "
        "administrators create keys. See docs/guide/team.md.",
    ),
    Setting(
        "ADMIN_API_KEY",
        "admin_api_keys",
        values.decode_keys,
        "Keys for /admin/keys, which creates and changes virtual keys, and for the dashboard, separated by commas. Not "
        "for requests.",
        "another-secret",
        is_list=True,
    ),
    Setting(
        "MONITOR_API_KEY",
        "monitor_api_keys",
        values.decode_keys,
        "Keys that only read /metrics and /api, for Prometheus and reports, separated by commas. Not for requests.",
        "a-third-secret",
        is_list=True,
    ),
    Setting(
        "ALLOW_UNAUTHENTICATED",
        "allow_unauthenticated",
        values.decode_boolean,
        "true: serve other machines without a key. Every client that reaches the port then uses your provider keys.",
    ),
    Setting(
        "ALLOWED_HOSTS",
        "allowed_hosts",
        values.decode_hosts,
        "More host names of this machine, separated by commas.",
        "proxy.example.org",
        is_list=True,
    ),
    Setting(
        "TRUSTED_PROXIES",
        "trusted_proxies",
        values.decode_networks,
        "Addresses or networks of reverse proxies, separated by commas. The last address in X-Forwarded-For that is "
        "none of them is then the client, for limits of sign-ins and in messages. Unset: the header is ignored there.",
        "10.0.0.0/8, 127.0.0.1",
        is_list=True,
    ),
    _fixed(
        "TLS_CERT_FILE",
        "tls_certificate_file",
        values.decode_path,
        "PEM file for TLS with the certificate of the server and its chain. A changed file applies to new connections.",
        "/etc/ssl/proxy.pem",
    ),
    _fixed(
        "TLS_KEY_FILE",
        "tls_key_file",
        values.decode_path,
        "PEM file for TLS with the private key of TLS_CERT_FILE, unless that file contains it. A changed file applies "
        "to new connections.",
        "/etc/ssl/private/proxy.key",
    ),
)
_SIGN_IN = (
    Setting(
        "OIDC_ISSUER",
        "oidc.issuer",
        values.decode_issuer,
        "Identity provider for the sign-in to the dashboard: Okta, Entra ID, Keycloak, Google … Needs the extra oidc. "
        "Redirect URI: DASHBOARD_URL/dashboard/oidc/callback. See docs/guide/sign-in.md.",
        "https://login.example.org/realms/company",
    ),
    Setting(
        "OIDC_CLIENT_ID",
        "oidc.client_id",
        _text,
        "Id under which the proxy is registered at the identity provider.",
        "anthropic-proxy",
    ),
    Setting(
        "OIDC_CLIENT_SECRET",
        "oidc.client_secret",
        values.decode_secret,
        "Secret of the proxy at the identity provider. Unset: a public client with PKCE.",
        "secret-of-the-client",
    ),
    Setting(
        "OIDC_SCOPES",
        "oidc.scopes",
        values.decode_scopes,
        "Scopes that the sign-in requests, separated by spaces or commas.",
        "openid email profile",
        is_list=True,
    ),
    Setting(
        "OIDC_ROLE_CLAIM",
        "oidc.role_claim",
        _text,
        "Claim of the identity provider with the groups or roles of a user. Dots lead into objects: realm_access.roles",
        "groups",
    ),
    Setting(
        "OIDC_EMAIL_CLAIM",
        "oidc.email_claim",
        _text,
        "Claim with the e-mail address of a user, which is compared with the owners of virtual keys. Entra ID: "
        "preferred_username",
        "email",
    ),
    Setting(
        "OIDC_ADMINS",
        "oidc.admins",
        _items,
        "Users that change settings and keys in the dashboard: values of OIDC_ROLE_CLAIM, or e-mail addresses, "
        "separated by commas.",
        "platform-team, ann@example.org",
        is_list=True,
    ),
    Setting(
        "OIDC_VIEWERS",
        "oidc.viewers",
        _items,
        "Users that read everything in the dashboard: values of OIDC_ROLE_CLAIM, or e-mail addresses, separated by "
        "commas.",
        "finance",
        is_list=True,
    ),
    Setting(
        "OIDC_TEAM_ADMINS",
        "oidc.team_admins",
        _items,
        "Users that manage the virtual keys of their own teams: values of OIDC_ROLE_CLAIM, or e-mail addresses, "
        "separated by commas.",
        "team-leads",
        is_list=True,
    ),
    Setting(
        "OIDC_MEMBERS",
        "oidc.members",
        _items,
        "Users that read their own requests in the dashboard: values of OIDC_ROLE_CLAIM, or e-mail addresses. Unset: "
        "all other users of the identity provider.",
        "developers",
        is_list=True,
    ),
    Setting(
        "OIDC_DOMAINS",
        "oidc.domains",
        values.decode_domains,
        "Domains of accepted e-mail addresses, separated by commas. Unset: all.",
        "example.org",
        is_list=True,
    ),
    Setting(
        "DASHBOARD_URL",
        "dashboard_url",
        values.decode_public_url,
        "URL of the proxy for browsers, if a reverse proxy is in front, with the path below which it serves the proxy. "
        "Unset: scheme and host of each request.",
        "https://proxy.example.org",
    ),
    Setting(
        "DASHBOARD_EDITING",
        "dashboard_editing",
        values.decode_boolean,
        "false: no page of the dashboard changes a setting or runs the doctor. true: in a browser on this machine, or "
        "after a sign-in with a key of the proxy, some settings can be changed, and the doctor can be run, which sends "
        "paid test requests to the providers. Keys can be replaced and are never shown.",
    ),
)
_DEVICES = (
    Setting(
        "SIGN_IN_SECRET",
        "sign_in.secrets",
        values.decode_sign_in_secrets,
        "Enables the sign-in from Claude Code (claude auth login): a random text of 32 characters or more that signs "
        "its tokens. Several, separated by commas: the first signs, all are accepted. Needs VIRTUAL_KEYS, OIDC_ISSUER "
        "and DASHBOARD_URL. See docs/guide/company.md.",
        "a-random-text-of-32-characters-or-more",
        is_list=True,
    ),
    Setting(
        "SIGN_IN_DAYS",
        "sign_in.days",
        partial(values.decode_integer, minimum=1, maximum=365, unit="days"),
        "Days until a person signs in again. If the identity provider gives no refresh token, it is 12 hours.",
        default="30",
    ),
    Setting(
        "SIGN_IN_TOKEN_MINUTES",
        "sign_in.token_minutes",
        partial(values.decode_integer, minimum=5, maximum=1_440, unit="minutes"),
        "Minutes until Claude Code refreshes its token. Then the identity provider is asked whether the person still "
        "has access. 5: before each request.",
        default="60",
    ),
    Setting(
        "SIGN_IN_NOTICE",
        "sign_in.notice",
        values.decode_notice,
        "Text that Claude Code shows during the sign-in, of at most 500 characters.",
        "Questions: ask in the channel of the platform team.",
    ),
)
_PROCESS = (
    _fixed(
        "STOP_TIMEOUT",
        "stop_timeout_seconds",
        values.decode_seconds,
        "Seconds that replies in progress continue after a signal to stop. Then they end with an error.",
    ),
    _fixed(
        "DRAIN_DELAY",
        "drain_delay_seconds",
        partial(values.decode_integer, minimum=0, maximum=3600, unit="seconds"),
        "Seconds after a signal to stop in which requests are still accepted while /readyz returns 503, for load "
        "balancers.",
    ),
    _editable(
        "LOG_FORMAT",
        "log_format",
        values.choice("auto", "plain", "json"),
        "Form of the log: auto (colored on a terminal; NO_COLOR, FORCE_COLOR and TERM apply), plain or json.",
    ),
    _editable(
        "LOG_LEVEL",
        "log_level",
        values.choice("debug", "info", "warning", "error", warn="warning", critical="error", fatal="error"),
        "Least severe lines of the log: debug (also probes), info, warning (status 400 and above) or error (status 500 "
        "and above).",
    ),
    _fixed(
        "PLUGINS",
        "plugins",
        lambda found: found.items,
        "Names of plugins of other installed packages, separated by commas. A plugin runs with all rights of the "
        "proxy. An installed plugin that is not listed here is not loaded.",
        "request-costs",
        is_list=True,
    ),
)
_TRACES = (
    _fixed(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "traces.endpoint",
        _text,
        "URL of a collector for traces (OTLP over HTTP). Set, it turns traces on.",
        "http://127.0.0.1:4318",
    ),
    _fixed(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "traces.traces_endpoint",
        _text,
        "Complete URL of a collector for traces only. Set, it turns traces on.",
        "http://127.0.0.1:4318/v1/traces",
    ),
    _fixed(
        "OTEL_TRACES_EXPORTER",
        "traces.exporters",
        lambda found: tuple(dict.fromkeys(item.lower() for item in found.items)),
        "Destination of traces: otlp, console (standard output), or none, which turns them off. Default: otlp if an "
        "endpoint is set.",
        "otlp",
        is_list=True,
    ),
    _fixed(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "traces.headers",
        _text,
        "Headers for the collector of traces, such as a key.",
        "authorization=Bearer your-key",
        is_list=True,
    ),
    _fixed(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "traces.protocol",
        _text,
        "Protocol for the collector of traces. Only http/protobuf is supported.",
        "http/protobuf",
    ),
    _fixed("OTEL_SERVICE_NAME", "traces.service", _text, "Name of this service in traces.", "anthropic-proxy"),
    _fixed(
        "OTEL_RESOURCE_ATTRIBUTES",
        "traces.attributes",
        _text,
        "Attributes of all spans in traces.",
        "deployment.environment.name=production",
    ),
    _fixed(
        "OTEL_TRACES_SAMPLER",
        "traces.sampler",
        _text,
        "Rule that selects the requests with traces, unless the client has decided.",
        "parentbased_traceidratio",
    ),
    _fixed(
        "OTEL_TRACES_SAMPLER_ARG",
        "traces.sampler_argument",
        _text,
        "Argument of OTEL_TRACES_SAMPLER, such as the share of the requests.",
        "0.1",
    ),
    _fixed("OTEL_SDK_DISABLED", "traces.disabled", _text, "true: turns traces off.", "false"),
)
_LEDGER = (
    _fixed(
        "DATABASE_URL",
        "database_url",
        values.decode_database_url,
        "Database for one row per request, without message texts: sqlite:///path, "
        "postgresql://user:password@host/database (extra postgres) or off. Default: a SQLite file ledger.sqlite3 in "
        "the data directory of the user.",
        "off",
    ),
    _fixed("LEDGER_DAYS", "ledger_days", _days, "Days for which the ledger keeps requests and sums."),
    _fixed(
        "LEDGER_MAX_MB",
        "ledger_max_mb",
        partial(values.decode_integer, minimum=10, maximum=1_000_000, unit="megabytes"),
        "Size of the ledger in megabytes above which its oldest requests are deleted.",
    ),
    _fixed(
        "LEDGER_CONTENT",
        "ledger_content",
        values.decode_boolean,
        "true: the ledger stores the texts of requests and replies too (of each the first MB), with keys redacted, for "
        "LEDGER_CONTENT_DAYS days.",
    ),
    Setting(
        "ADMINS_READ_CONTENT",
        "admins_read_content",
        values.decode_boolean,
        "true: with VIRTUAL_KEYS, administrators read the stored texts of other people too, and each look is in the "
        "audit log. false: everybody reads only the own texts.",
    ),
    _fixed(
        "LEDGER_CONTENT_DAYS",
        "ledger_content_days",
        _days,
        "Days for which the ledger keeps the texts of requests and replies.",
    ),
    _fixed(
        "PRICE_UPDATE_DAYS",
        "price_update_days",
        partial(values.decode_integer, minimum=0, maximum=365, unit="days"),
        "Days between two updates of the price list (extra prices), which the proxy then downloads in the background. "
        "0: nothing is downloaded.",
    ),
    _fixed(
        "PRICE_UPDATE_URL",
        "price_update_url",
        values.decode_url,
        "Address of the price list for updates, such as a copy in your network. Default: the address at which the "
        "project genai-prices publishes it.",
    ),
)
_INSTANCES = (
    _fixed(
        "REDIS_URL",
        "redis_url",
        values.decode_redis_url,
        "Redis or Valkey server for limits and observations that several instances share (extra redis): "
        "redis://host:6379/0, or rediss://user:password@host:6380/0 with TLS. Default: the memory of the server, which "
        "all its workers share.",
    ),
    _fixed(
        "REDIS_FAILURE",
        "redis_failure",
        values.choice("open", "closed"),
        "Limits while Redis is unavailable. open: each process keeps its share of them. closed: such requests are "
        "rejected.",
    ),
    _fixed(
        "REDIS_PREFIX",
        "redis_prefix",
        values.decode_redis_prefix,
        "Beginning of all keys in Redis. Instances with the same prefix share limits.",
    ),
)
_CLOUDS: Mapping[str, tuple[Setting, ...]] = {
    "vertex": (
        Setting(
            "VERTEX_PROJECT",
            "vertex_project",
            values.decode_project,
            "Project of Vertex AI (extra vertex).",
            "your-project",
            aliases=("VERTEX_PROJECT_ID",),
        ),
        Setting(
            "VERTEX_LOCATION",
            "vertex_location",
            values.decode_vertex_location,
            "Region of Vertex AI, or global. The newest models are only at global, us, eu.",
            client_names=("CLOUD_ML_REGION",),
        ),
        Setting(
            "GOOGLE_APPLICATION_CREDENTIALS",
            "google_credentials_file",
            values.decode_credentials,
            "Service-account, authorized-user or workload-identity file for Vertex AI. Default: Application Default "
            "Credentials.",
            "/path/to/credentials.json",
        ),
        Setting(
            "USE_VERTEX_AUTH",
            "use_vertex_auth",
            values.decode_boolean,
            "true: requests for Google's models are sent to Vertex AI.",
        ),
    ),
    "bedrock": (
        Setting(
            "AWS_REGION",
            "aws_region",
            values.decode_aws_region,
            "Region of Amazon Bedrock, for Claude models there (bedrock/…). Default: the region of the AWS profile.",
            "us-east-1",
            aliases=("AWS_DEFAULT_REGION",),
        ),
    ),
    "foundry": (
        Setting(
            "ANTHROPIC_FOUNDRY_RESOURCE",
            "foundry_resource",
            values.decode_resource,
            "Name of the resource in Microsoft Foundry, for Claude models there (foundry/…).",
            "your-resource",
        ),
    ),
    "ollama": (
        _editable(
            "OLLAMA_CONTEXT_LENGTH",
            "ollama_context_length",
            _tokens,
            "Context window of Ollama in tokens, which uses memory. Default: the window of the model, up to 65536.",
            "32768",
        ),
        _editable(
            "OLLAMA_KEEP_ALIVE",
            "ollama_keep_alive",
            values.decode_go_duration,
            "How long Ollama keeps a model in memory after a reply: seconds, or a time such as 10m or 24h; -1: no "
            "limit.",
            "10m",
        ),
    ),
}
"""Provider → settings that only it has, apart from key, address, API and models."""
_KEY_NOTES: Mapping[str, str] = {
    "anthropic": "Only to send work to Anthropic itself.",
    "ollama": "Only for https://ollama.com itself, or a server of yours that requires a key.",
    "bedrock": "Without a key, requests are signed with the credentials of AWS (extra bedrock): a profile, single "
    "sign-on, a role, or AWS_ACCESS_KEY_ID and the like here.",
    "foundry": "Without a key, tokens of Microsoft Entra ID are used (extra azure).",
}
_PREFERRED_NOTE = (
    "gemini and vertex_ai are other names of google and vertex. demo is built in, litellm an extra that requires "
    "BIG_MODEL and SMALL_MODEL, and so do bedrock and foundry. Default: the first with a key (vertex: a project), "
    "otherwise Ollama if it responds, otherwise the demo."
)


@lru_cache(maxsize=16)
def list_setting_groups(providers: Sequence[Provider], table_names: tuple[str, ...] = ()) -> tuple[SettingGroup, ...]:
    """`table_names` are the names of the tables `[providers.NAME]`, which `PREFERRED_PROVIDER` may name."""
    own = [row for row in providers if not row.is_configured]
    keys: list[Setting] = []
    clouds: list[Setting] = []
    models: list[Setting] = []
    addresses: list[Setting] = []
    for row in own:
        if row.key_variable:
            keys.append(
                Setting(
                    row.key_variable,
                    f"keys.{row.name}",
                    values.decode_keys,
                    f"API key of {row.title}. Several keys, separated by commas, are used in rotation. "
                    f"{_KEY_NOTES.get(row.name, '')}".rstrip(),
                    f"your-{row.name}-key",
                    is_list=True,
                    editable=row.offered_to_users,
                )
            )
        clouds += _CLOUDS.get(row.name, ())
        if not row.env_prefix:
            continue
        names = dict.fromkeys((row.base_url_variable or f"{row.env_prefix}_BASE_URL", f"{row.env_prefix}_BASE_URL"))
        names.pop("ANTHROPIC_BASE_URL", None)  # Claude Code sets it to the proxy, which would call itself
        name, *aliases = names
        addresses += [
            Setting(
                name,
                f"base_urls.{row.name}",
                values.decode_url,
                f"Address of {row.title}, or of a gateway, mirror or compatible server."
                + (" With another address, the key is optional." if row.key_required == "own_address" else ""),
                aliases=tuple(aliases),
                client_names=(f"ANTHROPIC_{row.env_prefix}_BASE_URL",) if row.key_source in ("aws", "azure") else (),
                default=row.base_url,
            ),
            _editable(
                f"{row.env_prefix}_WIRE",
                f"wires.{row.name}",
                partial(values.decode_wire, wires=tuple(row.wires)),
                f"API by which {row.title} is called: {join_with_or(['auto', *row.wires])}."
                + (" auto selects by model." if len(row.wires) > 1 else "")
                + (
                    " messages: the server's own Messages API, forwarded unchanged."
                    if "messages" in row.wires and len(row.wires) > 1
                    else ""
                ),
                default="auto",
            ),
        ]
        models.append(
            _editable(
                f"{row.env_prefix}_KNOWN_MODELS",
                f"extra_models.{row.name}",
                values.decode_models,
                f"More models of {row.title} that can be requested without its prefix, separated by commas.",
                "my-model",
                is_list=True,
            )
        )
    listed = [row.name for row in own if row.offered_to_users]
    preferred = _editable(
        "PREFERRED_PROVIDER",
        "preferred_provider",
        partial(values.decode_provider, providers=tuple(providers), table_names=table_names),
        f"Provider of all models without a prefix: {join_with_or(listed)}. {_PREFERRED_NOTE}" if listed else "",
        listed[0] if listed else "",
    )
    litellm = "LiteLLM's providers (mistral/…, cohere/…) have LiteLLM's own variables, such as MISTRAL_API_KEY."
    proxies = (
        "HTTP proxies are those of the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY. SOCKS is refused."
    )
    return (
        SettingGroup("Provider", litellm, (preferred, *keys, *clouds), selects_models=True),
        SettingGroup("Models", "", (*_MODELS, *models), selects_models=True),
        SettingGroup("Addresses and APIs of providers", proxies, tuple(addresses), selects_models=True),
        SettingGroup("Timeouts and number of calls", "", _CALLS),
        SettingGroup("Requests", "", _REQUESTS),
        SettingGroup("Access", "", _ACCESS),
        SettingGroup("Dashboard", "", _SIGN_IN),
        SettingGroup("Sign-in from Claude Code", "", _DEVICES),
        SettingGroup("Shutdown, log and plugins", "", _PROCESS),
        SettingGroup("Traces (OpenTelemetry, extra otel)", "", _TRACES),
        SettingGroup("Usage ledger and prices", "", _LEDGER),
        SettingGroup("Several instances", "", _INSTANCES),
    )


def list_all_settings(providers: Sequence[Provider], table_names: tuple[str, ...] = ()) -> list[Setting]:
    return [setting for group in list_setting_groups(providers, table_names) for setting in group.settings]


def list_provider_settings(provider: Provider) -> list[Setting]:
    """Return the settings that only `provider` has, apart from its keys: address, API, models, region and the like."""
    own = _CLOUDS.get(provider.name, ())
    named = [each for each in list_all_settings((provider,)) if each.field.endswith(f".{provider.name}")]
    return [*own, *(each for each in named if not each.field.startswith("keys."))]


def list_variables(providers: Sequence[Provider]) -> tuple[str, ...]:
    """Return the names of all variables, with aliases, in the order of the table."""
    return tuple(name for setting in list_all_settings(providers) for name in setting.names)


def list_backend_variables(providers: Sequence[Provider]) -> frozenset[str]:
    """Variables that select models, their providers, addresses, keys and APIs, with aliases.

    If one changes, results of the command `doctor` may no longer apply.
    """
    groups = [group for group in list_setting_groups(providers) if group.selects_models]
    return frozenset(name for group in groups for setting in group.settings for name in setting.names)


@cache
def _fixed_settings() -> Mapping[str, Setting]:
    return {name: each for each in list_all_settings(()) if not each.reloadable for name in each.names}


def is_fixed_variable(name: str) -> bool:
    """Return True if a change takes effect at the next start of the server."""
    return name in _fixed_settings() or name.startswith("OTEL_")


def list_fixed_fields() -> Sequence[str]:
    """Fields of `Settings` that a reload does not change."""
    return [one.field for one in _fixed_settings().values() if "." not in one.field]
