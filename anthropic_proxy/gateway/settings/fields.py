"""`Settings`: the decoded settings of the proxy, with one field for each setting.

`table.py` has the variable and the meaning of each field. Some fields map the name of a provider to a value, such as
its keys or its base URL. A `Secret` hides a key in logs, and `reveal` returns the key.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct, field

from anthropic_proxy.engine.hooks import InspectorScope
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers.model_facts import FactsFile, load_built_in_facts
from anthropic_proxy.engine.providers.price_fields import PriceTable
from anthropic_proxy.gateway.settings.file_format import EventSource, GroupRole, InspectorTable
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.secrets import Secret, UnknownSecret

_FOR_LITELLM = {
    "LITELLM_MODE": "PRODUCTION",  # otherwise LiteLLM loads a `.env` file itself
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise its import downloads tables
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # the Chat Completions request has no `cache_control`: LiteLLM must add it for prompt caching of Claude on Bedrock
    "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING": "true",
}
_PRIVATE_KEY = compile_later(r'-----BEGIN [A-Z ]*PRIVATE KEY-----|^\s*\{[^{}]*"kty"')
_KEY_PARTS = compile_later(r"[A-Za-z0-9+/=_]{24,}")
"""Pattern of the numbers in a private key (PEM or JWK). The words around them occur in other texts too."""
_exporting = threading.Lock()
"""Held by the thread that changes `os.environ` for LiteLLM."""


class OidcSettings(Struct, frozen=True, kw_only=True):
    """An identity provider (OpenID Connect) for the sign-in: the variables `OIDC_…`, and the table `[sign_in]`."""

    issuer: str
    """URL without `/.well-known/openid-configuration` and trailing slash."""
    client_id: str
    client_secret: Secret | None = None
    """None: the sign-in is protected by PKCE only, unless there is a private key."""
    client_key: Secret | None = None
    """Private key of the client, as PEM or JWK, which proves who it is in place of a secret (RFC 7523)."""
    client_key_file: str | None = None
    """Path of a file with this key, which is read at each use."""
    authorization: Mapping[str, str] = {}
    """Further parameters of the authorization request. "": a parameter of the proxy itself is left out."""
    scopes: Sequence[str] = ("openid", "email", "profile")
    role_claim: str = "groups"
    absent_groups: Literal["none", "keep"] = "none"
    """What a refresh means that states the address of a user, and has no claim `role_claim`."""
    email_claim: str = "email"
    cost_center_claim: str = ""
    """"": no claim has the cost center."""
    admins: Sequence[str] = ()
    """Users of a role: e-mail addresses, or values of the claim `role_claim`."""
    viewers: Sequence[str] = ()
    team_admins: Sequence[str] = ()
    members: Sequence[str] = ()
    """Empty: all other users of the identity provider."""
    domains: Sequence[str] = ()
    """Domains of accepted e-mail addresses, in lower case. Empty: every domain is accepted."""


class CollectorSettings(Struct, frozen=True, kw_only=True):
    """Collector of the company for telemetry of clients (OTLP over HTTP): the variables `OTEL_EXPORTER_OTLP_…`, or a
    table `[collectors.NAME]`.
    """

    name: str = ""
    """"": that of the variables."""
    urls: Mapping[str, str]
    """`metrics`, `logs`, `traces` → complete URL. A signal that the collector does not get is missing."""
    headers: Mapping[str, Secret] = {}


class BoundedPattern(Struct, frozen=True):
    """A pattern of a company that takes a time in proportion to any text."""

    text: str
    """Regular expression with possessive and bounded repetitions."""
    width: int
    """Maximum length of a match."""


class InspectorRule(Struct, frozen=True, kw_only=True):
    """A checked table `[[inspectors]]`."""

    table: InspectorTable
    patterns: Mapping[str, BoundedPattern] = {}
    """Name → pattern."""
    base_url: str = ""
    key: Secret | None = None

    def build_scope(self, *, holds_blocks: bool, limits_itself: bool = False) -> InspectorScope:
        table = self.table
        return InspectorScope(
            name=table.name,
            requests="requests" in table.reads,
            replies="replies" in table.reads,
            tool_descriptions="tool descriptions" in table.reads,
            holds_blocks=holds_blocks,
            timeout_seconds=table.timeout,
            limits_itself=limits_itself,
            max_characters=table.max_characters,
            fails_open=table.on_failure == "pass",
        )


class SignInGroup(Struct, frozen=True, kw_only=True):
    """A table `[sign_in.groups.NAME]`: what the persons of a group may do."""

    name: str
    role: GroupRole | None = None
    """Role in the dashboard. None: that of `OidcSettings`."""
    team: str = ""
    cost_center: str = ""
    rules: Rules = Rules()


class TokenIssuer(Struct, frozen=True, kw_only=True):
    """A table `[token_issuers.NAME]`: tokens of an identity provider that services send as keys."""

    name: str
    issuer: str
    audiences: frozenset[str]
    jwks_uri: str = ""
    """"": the discovery document of the issuer names it."""
    owner_claim: str = "sub"
    group_claim: str = ""
    """"": groups are not read."""
    required_claims: Mapping[str, Sequence[str]] = {}
    """Claim → patterns of accepted values."""
    team: str = ""
    cost_center: str = ""
    rules: Rules = Rules()


MAX_SIGN_IN_SECRETS = 8


class SignInSettings(Struct, frozen=True, kw_only=True):
    """Sign-in from Claude Code: `SIGN_IN_SECRET` and the table `[sign_in]`."""

    secrets: Sequence[Secret]
    """From 1 to `MAX_SIGN_IN_SECRETS`. Tokens have a signature by each one, and one known signature is enough."""
    days: int = 30
    token_minutes: int = 60
    notice: str = ""
    groups: Sequence[SignInGroup] = ()
    """In the order of the file. Empty: every accepted person may sign in."""

    @property
    def token_seconds(self) -> int:
        return self.token_minutes * 60


class ReferencedVariable(Struct, frozen=True):
    """A variable with API keys that the configuration file names: `api_key = { env = "LOCAL_KEY" }`."""

    keys: tuple[Secret, ...]
    """API keys in the value of the variable. Empty: the variable is not set."""
    origin: str
    """Source of the variable: `environment`, `.env line 4`, or `not set`."""


class AlertSettings(Struct, frozen=True, kw_only=True):
    """Table `[alerts]` of the configuration file."""

    url: Secret
    secrets: Sequence[Secret] = ()
    """Each of them signs. Empty: reports are not signed."""
    thresholds: tuple[int, ...]
    """In percent, in ascending order."""


class SiemSettings(Struct, frozen=True, kw_only=True):
    """A checked table `[siem.NAME]`."""

    since: float = 0.0
    """Time of the first event that a new destination gets, in seconds since the epoch. Infinite: none that is stored
    when it is new."""

    name: str
    type: Literal["webhook", "otlp"]
    url: Secret
    secrets: Sequence[Secret] = ()
    """Each of them signs. Empty: requests are not signed."""
    headers: Mapping[str, Secret] = {}
    events: Sequence[EventSource]


class Settings(EngineOptions, frozen=True, kw_only=True, dict=True):
    """All settings of the server: options of the engine, and the fields below."""

    inspectors: Sequence[InspectorRule] = ()
    """The tables `[[inspectors]]`."""
    referenced_variables: Mapping[str, ReferencedVariable] = {}
    """Name of a variable that an `api_key` in the configuration file refers to → API keys in its value."""
    key_problem_details: Mapping[str, str] = {}
    """Provider name → longer text of `key_problems` for the user's terminal. It quotes the reference to the key."""
    proxy_api_keys: Sequence[Secret] = ()
    """Empty: only loopback clients are served."""
    virtual_keys: bool = False
    budgets: tuple[Budget, ...] = ()
    """Budgets of all requests of the proxy together."""
    keys_per_person: int = 0
    """Maximum number of active virtual keys that a signed-in person creates."""
    admin_api_keys: Sequence[Secret] = ()
    monitor_api_keys: Sequence[Secret] = ()
    scim_tokens: Sequence[Secret] = ()
    """Tokens with which an identity provider creates and removes people. Empty: SCIM is off."""
    oidc: OidcSettings | None = None
    """None: users sign in to the dashboard with keys only."""
    token_issuers: tuple[TokenIssuer, ...] = ()
    """Identity providers whose tokens services send as keys, in the order of the file."""
    sign_in: SignInSettings | None = None
    """None: nobody signs in from Claude Code."""
    dashboard_url: str = ""
    """Without trailing slash. "": scheme and host of each request."""
    allow_unauthenticated: bool = False
    allowed_hosts: Sequence[str] = ()
    """Lower case."""
    allowed_networks: Sequence[IPv4Network | IPv6Network] = ()
    """Networks from which clients may connect. Empty: all."""
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()
    """Addresses of reverse proxies whose header `X-Forwarded-For` is believed."""
    host: str = "127.0.0.1"
    """Loopback by default, so that other machines cannot use the provider keys."""
    port: int = 8082
    tls_certificate_file: str | None = None
    """None: the server uses no TLS."""
    tls_key_file: str | None = None
    """None: the certificate file contains the key."""
    alerts: AlertSettings | None = None
    """None: reports about budgets are in the log only."""
    siem: Sequence[SiemSettings] = ()
    """Destinations of the audit log and of verdicts, in the order of the file."""
    prices: Mapping[str, PriceTable] = {}
    """Model id with prefix, or a pattern of ids for `matches_model` → its table `[prices."MODEL"]`, in
    the order of the file."""
    price_vendors: Mapping[str, str] = {}
    """Provider name → the vendor whose list prices apply, from the field `prices` of `[providers.NAME]`."""
    managed_settings: Mapping[str, Mapping[str, object]] = {}
    """Group, team or `*` → settings of Claude Code, in the order of the file."""
    stop_timeout_seconds: float = 25.0
    """The default is below the 30 s after which Kubernetes kills a process."""
    drain_delay_seconds: float = 0.0
    log_format: Literal["auto", "plain", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trace_exporters: tuple[str, ...] = ()
    """`otlp`, `console`, and the names of tables `[collectors.NAME]`. Empty: traces are off."""
    collectors: Sequence[CollectorSettings] = ()
    """That of the variables is the first one."""
    otel_variables: Mapping[str, Secret] = {}
    """Variable → text, for variables `OTEL_…` that are set only in `.env`, and absolute paths of files. They are copied
    to the environment, where the OpenTelemetry SDK reads them."""
    color: bool | None = None
    """True if the log is always colored, False if never (`FORCE_COLOR`, `NO_COLOR`, `TERM=dumb`).

    None: colored on a terminal only.
    """
    dashboard_editing: bool = True
    database_url: Secret | None = None
    """`sqlite:///path`, `postgresql://…`, or `off`. None: a SQLite file in `data_directory`."""
    memory_limit_mb: int | None = None
    """None: what the system states."""
    max_body_memory_mb: int | None = None
    """At least the size of the largest body. None: what the limit of the memory leaves."""
    ledger_days: int = 90
    ledger_max_mb: int = 2_000
    ledger_content: bool = False
    ledger_titles: bool = True
    ledger_activity: bool = True
    admins_read_content: bool = False
    ledger_content_days: int = 7
    price_update_days: int = 0
    price_update_url: str | None = None
    plugins: Sequence[str] = ()
    redis_url: Secret | None = None
    """None: limits are in the memory of the server."""
    redis_failure: Literal["open", "closed"] = "open"
    redis_prefix: str = "anthropic-proxy"
    litellm_variables: Mapping[str, Secret] = {}
    """Variable → text, for variables of `.env` that LiteLLM may read and that are not in the environment."""
    facts: FactsFile = field(default_factory=load_built_in_facts)
    """The facts about models that apply with these settings."""
    raw_values: Mapping[str, Secret] = {}
    """Variable, or table of the configuration file → its text before decoding, to find changes at a reload.

    Includes keys.
    """
    env_file: str | None = None
    """Path of `.env`, which may not exist. `anthropic-proxy.toml` is in the same folder. None: no files are read."""
    files: Mapping[str, str] = {}
    """Absolute path → SHA-256 digest of the content, for the settings files that were read."""
    placeholders: Mapping[str, str] = {}
    """Variable that counts as not set, because its text is a placeholder → source of the text (`.env line 4`)."""
    warnings: Sequence[str] = ()
    """Warning texts to log at start, for example about ignored placeholders or removed quotes."""

    def has_ledger(self) -> bool:
        """Return True if the ledger, the database of finished requests, is enabled and has a path or address."""
        if self.database_url is None:
            return self.data_directory is not None
        return self.database_url.reveal() != "off"

    def server_has_ledger(self) -> bool:
        """As `has_ledger`, also for a command that does not know the address of the ledger."""
        # an address that only the server knows has a credential, and is not "off"
        return isinstance(self.database_url, UnknownSecret) or self.has_ledger()

    @cached_property
    def requires_client_key(self) -> bool:
        """True if every client needs a key of the proxy: one of `PROXY_API_KEY`, or a virtual key."""
        return bool(self.proxy_api_keys) or self.virtual_keys

    @cached_property
    def path_prefix(self) -> str:
        """Path below which clients see the proxy, such as `/proxy`. "": its host has no other service."""
        return urlsplit(self.dashboard_url).path

    @property
    def variables_file(self) -> str:
        """Name of the file with variables, as texts for users have it. In a session of `code`, it is the whole path,
        because Claude Code shows the text in a folder that may have a `.env` of its own.
        """
        return shorten_home(self.env_file) if self.session_command and self.env_file else ".env"

    def has_traces(self) -> bool:
        """Return True if trace spans of client requests are exported."""
        return bool(self.trace_exporters)

    def reveal_proxy_keys(self) -> Sequence[str]:
        """Return the unredacted keys accepted from clients (`PROXY_API_KEY`, `ADMIN_API_KEY` …)."""
        keys = (*self.proxy_api_keys, *self.admin_api_keys, *self.monitor_api_keys, *self.scim_tokens)
        return [key.reveal() for key in keys]

    def reveal_all_secrets(self) -> Sequence[str]:
        client = () if self.oidc is None else (self.oidc.client_secret, self.oidc.client_key)
        secrets = [secret for secret in client if secret is not None]
        secrets += [rule.key for rule in self.inspectors if rule.key is not None]
        secrets += [] if self.sign_in is None else self.sign_in.secrets
        texts = [*super().reveal_all_secrets(), *(secret.reveal() for secret in secrets)]
        return [part for text in texts for part in (_KEY_PARTS.findall(text) if _PRIVATE_KEY.search(text) else [text])]

    def export_to_litellm(self, exported: dict[str, Secret] | None = None) -> None:
        """Copy these variables and fixed options to `os.environ`, where LiteLLM reads them. Existing ones are kept.

        Those in `exported` are removed first if they are unchanged.
        """
        with _exporting:
            for name, secret in (exported or {}).items():
                if os.environ.get(name) == secret.reveal():
                    del os.environ[name]
            for name, value in _FOR_LITELLM.items():
                os.environ.setdefault(name, value)
            fresh = {name: secret for name, secret in self.litellm_variables.items() if name not in os.environ}
            os.environ.update({name: secret.reveal() for name, secret in fresh.items()})
            if exported is not None:
                exported.clear()
                exported.update(fresh)
