"""Format of the configuration file `anthropic-proxy.toml`: the structs for its tables.

`FileContents` is the whole file. The tables of models and routes, which the engine reads too, are in
`engine/options.py`. The name of a provider is the prefix of its model ids: `vllm/qwen3-8b`. A dialect lists the points
in which a server deviates from the API that it offers.
"""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, inspect

from anthropic_proxy.engine.options import AutoModeChoice, ModelTable, RouteTable
from anthropic_proxy.engine.providers.price_fields import PriceTable
from anthropic_proxy.gateway.settings.key_rules import MAX_AMOUNT

DEFAULT_WIRE = "chat"
"""Wire of a provider table without the field `wire`: Chat Completions, which most compatible servers have."""
KeyPath = tuple[str, ...]
"""Keys from the top of the file to a value: `("providers", "vllm", "base_url")`."""


class KeyReference(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reference to an API key: exactly one of `env`, `file` and `command`. The configuration file contains no key."""

    env: str | None = None
    """Name of a variable of the environment or of `.env`. Its value may list several keys, separated by commas."""
    file: str | None = None
    """Path of a file that contains only the key. `~` is the home folder; other paths start at the folder of `.env`."""
    command: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Program with its arguments. It writes the key to standard output. It runs at each start and reload, after the
    provider has rejected the key with status 401, and after `refresh`."""
    refresh: str | None = None
    """Time after which a key of a file or command is read again: `50m`, `30s`, `12h`. Only for providers."""


class HeaderReference(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Source of the value of a header: exactly one of `env` and `client`."""

    env: str | None = None
    """Name of a variable of the environment or of `.env`. Its value is a secret."""
    client: str | None = None
    """Header of the client request whose value is copied. If the client does not send it, the header is left out."""


class ClientCertificate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificate that identifies the proxy to a server (mutual TLS)."""

    file: str
    """Path of a PEM file with the certificate and its chain."""
    key_file: str | None = None
    """Path of a PEM file with the private key, without a password. By default it is in `file`."""


class ProviderTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server with a supported API. Requests for models with the prefix `NAME/` are sent to it.

    The table of a built-in provider, such as `[providers.openai]`, has only `headers` and the fields below it.
    """

    base_url: str | None = None
    """Address of the server, as its documentation states it: `http://localhost:8000/v1`. Required, except for a
    built-in provider, and for a vendor by its name, such as `[providers.deepseek]`."""
    api_key: KeyReference | None = None
    """Place of the API key: a variable, a file or a command. A server on your own machines may need none.
    By default, a vendor without `base_url` has its own variable, such as `DEEPSEEK_API_KEY`."""
    wire: str = DEFAULT_WIRE
    """API of the server: Chat Completions, Responses, Messages (Anthropic), Gemini or Ollama."""
    models: list[str] | dict[str, ModelTable] = []
    """Model names of the server, or a table from name or pattern (`qwen3-*`) to limits and features.

    `/v1/models` lists the names. With PREFERRED_PROVIDER, the first one serves sonnet, opus and fable, the last haiku.
    """
    dialect: dict[str, object] = {}
    """Deviations of the server from the API. Known servers, such as DeepSeek, need none."""
    headers: dict[str, object] = {}
    """Headers that are added to each call: a text, the value of a variable (`{ env = "NAME" }`), or the value of a
    client header (`{ client = "x-team" }`)."""
    body: dict[str, object] = {}
    """Fields that are merged into the JSON body of each message, such as `provider` of OpenRouter. A secret is the
    value of a variable: `{ env = "NAME" }`."""
    key_header: str | None = None
    """Header that contains the API key, such as `api-key`. By default that of the server."""
    proxy: object = None
    """Proxy for the calls to this provider: an address (`http://`, `https://`, `socks5://`, `socks5h://`) without
    password, `{ env = "NAME" }`, or `none`. By default HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, unless NO_PROXY has the
    host."""
    ca_file: str | None = None
    """Path of a PEM file with certificate authorities that are trusted in addition to those of the system."""
    client_certificate: ClientCertificate | None = None
    """Certificate that identifies the proxy to the server (mutual TLS)."""
    prices: str | None = None
    """Vendor whose list prices apply, such as `openai`, if the address is a mirror or gateway of it. By default the
    vendor of the address."""
    requests_per_minute: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Maximum number of messages to this provider within 60 seconds. Further ones wait in the order of their arrival.
    Token counts and lists do not count."""


OWN_FIELDS = frozenset({"base_url", "api_key", "wire", "models", "dialect"})
"""Fields of `ProviderTable` that define a provider, so that the table of a built-in provider cannot have them."""


class SearchTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Search service for web searches, used if the provider has no search of its own."""

    service: Literal["searxng", "brave", "tavily", "exa"]
    """SearXNG on your own machines, or Brave Search, Tavily or Exa with an API key."""
    base_url: str | None = None
    """Address of the service. Required for SearXNG; the others have a default."""
    api_key: KeyReference | None = None
    """Place of the API key: a variable, a file or a command. Required for Brave, Tavily and Exa."""


Sentence = Annotated[str, Meta(min_length=1, max_length=500)]
"""Type of a sentence for the checking model."""


class AutoModeTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Check of tool calls in Claude Code's auto mode, if the provider does none. The rules of a company are in addition
    to those of each user."""

    mode: AutoModeChoice = "check"
    """Who checks. `check`: the proxy asks a model. `client`: the client's own classifier. `off`: the client is told
    that there is no check."""
    model: Annotated[str, Meta(min_length=1)] | None = None
    """Model that checks, if key and route of the request allow it. By default the model of the sonnet tier."""
    timeout: Annotated[float, Meta(gt=0, le=86_400)] = 12.0
    """Seconds that the end of a reply waits for the checks of its tool calls."""
    deny: list[Sentence] = []
    """Sentences about actions that are flagged, also if the user allows or requests them. All calls are then asked."""
    allow: list[Sentence] = []
    """Sentences about actions that are not flagged, unless a sentence of `deny` or of the user describes them."""
    environment: list[Sentence] = []
    """Sentences about hosts, repositories and storage that are the company's own."""
    confirm_with: Annotated[str, Meta(min_length=1)] | None = None
    """Second model, with its prefix. A call is allowed only if both models do not flag it."""


class ImagesTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Descriptions of pictures for models that do not see: another model describes each picture once."""

    model: Annotated[str, Meta(min_length=1)] | None = None
    """Model that sees and describes, with its prefix, if key and route of the request allow it. By default pictures are
    not described, unless a route has `image_model`."""
    timeout: Annotated[float, Meta(gt=0, le=600)] = 60.0
    """Seconds for one description. After them, a text in place of the picture says so."""
    max_per_request: Annotated[int, Meta(ge=1, le=1_000)] = 100
    """Pictures that are described anew for one request, the newest first. Those described before do not count."""


class AlertTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Webhook to which the proxy reports that a budget of a key or a team has reached a threshold."""

    url: str | KeyReference
    """Address of the webhook with https, or with http on this machine; or the place of the address, if it is a secret
    as that of Slack."""
    secret: KeyReference | None = None
    """Place of the secret with which each report is signed: `whsec_` and 24 to 64 bytes in Base64. The value of a
    variable may have several, separated by commas, each of which signs. By default reports are not signed."""
    thresholds: Annotated[tuple[Annotated[int, Meta(ge=1, le=1_000)], ...], Meta(min_length=1, max_length=10)] = (
        80,
        100,
    )
    """Used shares of a budget in percent, each of which is reported once per period."""


TelemetrySignal = Literal["metrics", "logs", "traces"]


class CollectorTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Collector for telemetry (OTLP over HTTP), beside that of OTEL_EXPORTER_OTLP_ENDPOINT."""

    endpoint: str
    """Address of the collector, without `/v1/metrics`, `/v1/logs` or `/v1/traces`."""
    headers: dict[str, object] = {}
    """Header → text, or `{ env = "NAME" }` for a secret: `{ Authorization = { env = "COLLECTOR_AUTHORIZATION" } }`."""
    signals: Annotated[tuple[TelemetrySignal, ...], Meta(min_length=1)] = ("metrics", "logs", "traces")
    """What it gets: `metrics`, `logs` and `traces` of clients, with `traces` also those of the proxy itself."""


EventSource = Literal["audit", "verdicts"]


class SiemTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Destination in a SIEM for the audit log and for verdicts about tool calls and texts."""

    type: Literal["webhook", "otlp"] = "webhook"
    """Form of the requests. `webhook`: JSON with the headers of Standard Webhooks. `otlp`: logs of OpenTelemetry as
    JSON."""
    url: str | KeyReference
    """Complete address with https, or with http on this machine, such as `https://collector.example.org/v1/logs`; or
    the place of the address, if it is a secret."""
    secret: KeyReference | None = None
    """Place of the secret with which each request is signed: `whsec_` and 24 to 64 bytes in Base64. The value of a
    variable may have several, separated by commas, each of which signs. By default requests are not signed."""
    headers: dict[str, object] = {}
    """Header → text, or `{ env = "NAME" }` for a secret: `{ Authorization = { env = "SIEM_AUTHORIZATION" } }`."""
    events: Annotated[tuple[EventSource, ...], Meta(min_length=1)] = ("audit", "verdicts")
    """What is sent. `audit`: the audit log. `verdicts`: those about tool calls, and decisions of inspectors."""
    since: str = ""
    """First day (UTC) of the events that a new destination gets, such as `2026-12-01`, or `now`. By default all stored
    ones. It has no effect once the destination has its place."""


InspectedRead = Literal["requests", "replies", "tool descriptions"]
Detector = Literal["keys", "card-numbers"]


class InspectorTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An inspector: it reads the texts of requests before they leave, or of replies before the client gets them."""

    name: str
    """Name for records, messages and metrics."""
    type: Literal["patterns", "guardrail"]
    """`patterns`: keys, card numbers and own patterns. `guardrail`: a service with the generic guardrail API of
    LiteLLM."""
    reads: tuple[InspectedRead, ...] = ("requests",)
    """What it reads: `requests`, `replies`, and the `tool descriptions` of requests."""
    on_failure: Literal["refuse", "pass"] = "refuse"
    """What happens to a text that the inspector cannot judge: a failure, a timeout, too long a text."""
    timeout: Annotated[float, Meta(gt=0, le=10)] = 2.0
    """Maximum seconds of one decision."""
    max_characters: Annotated[int, Meta(ge=1_000, le=64_000_000)] = 4_000_000
    """Maximum number of characters that it gets for one decision."""
    detect: list[Detector] = []
    """`patterns`: what is found. `keys`: API keys and private keys. `card-numbers`: numbers of payment cards."""
    patterns: dict[str, str] = {}
    """`patterns`: name → regular expression for at most 1,024 characters. Repetitions take as much as they can and
    give nothing back."""
    action: Literal["redact", "refuse"] = "redact"
    """`patterns`: `redact` sends a placeholder, which becomes the text again in the reply. `refuse` rejects the
    request."""
    reason: Annotated[str, Meta(min_length=1, max_length=400)] = "The text must not be sent, by a rule of this proxy."
    """Sentence for the user whose request is refused."""
    base_url: str | None = None
    """`guardrail`: address of the service, without `/beta/litellm_basic_guardrail_api`."""
    api_key: KeyReference | None = None
    """`guardrail`: place of the key that is sent as `x-api-key`. By default none is sent."""
    parameters: dict[str, object] = {}
    """`guardrail`: the field `additional_provider_specific_params` of each request."""
    sends: Literal["new texts", "all texts"] = "new texts"
    """`guardrail`: `new texts` leaves out the texts that the service has already let pass unchanged."""


RuleCount = Annotated[int, Meta(ge=1, le=MAX_AMOUNT)]
"""Type of a limit of requests or tokens."""
GroupRole = Literal["member", "team admin", "viewer", "admin"]


class RuleTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Team and rules of clients that an identity provider names."""

    team: str = ""
    """Team, whose limits and budgets its keys, persons and services share:  anthropic-proxy keys team NAME."""
    cost_center: str = ""
    """Cost center to which the requests are booked. For a person, that of `cost_center_claim` or of SCIM is used
    instead, if there is one."""
    models: list[str] = []
    """Allowed models, with patterns: `claude-*`, `openai/gpt-4.1-mini`. By default all."""
    providers: list[str] = []
    """Prefixes of allowed providers: `openai`, `gemini`. By default all."""
    routes: list[str] = []
    """Names of allowed `[[routes]]`. Other requests are rejected. By default all requests are allowed."""
    requests_per_minute: RuleCount | None = None
    """Requests per minute of each person or service."""
    tokens_per_minute: RuleCount | None = None
    """Tokens per minute of each person or service: input and output, without input read from a cache."""
    concurrency: RuleCount | None = None
    """Requests of each person or service at the same time."""
    budgets: list[str] = []
    """Budgets of each person or service: an amount per day, week or month or in total, such as `50USD/month`,
    `2000000tokens/day`."""


class GroupTable(RuleTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a group of the identity provider may do. The name is a value of `role_claim`, an e-mail address, or `*`.

    The first table that matches a person is used, and `*` matches everybody. Without tables, every person that the
    identity provider and `domains` accept may sign in, without limits.
    """

    role: GroupRole | None = None
    """Role in the dashboard, unless `admins`, `viewers` or `team_admins` gives one. By default `member`."""


class TokenIssuerTable(RuleTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens of an identity provider that services and CI jobs send as keys (JWTs with a signature by a public key).

    Of several tables with the same issuer, the first one that matches a token is used. Each owner is a virtual key with
    the label `NAME/OWNER`, without a text.
    """

    issuer: str
    """Issuer of the tokens (claim `iss`), an https:// URL: `https://token.actions.githubusercontent.com`."""
    audience: list[str] | str
    """Audience that the tokens must be for (claim `aud`): a text for this proxy alone, or several."""
    jwks_uri: str | None = None
    """URL of the public keys. By default, the issuer's `/.well-known/openid-configuration` names it."""
    owner_claim: str = "sub"
    """Claim that names the owner of the key, such as `repository`. Users must not be able to choose its value."""
    group_claim: str | None = None
    """Claim with groups, by which managed settings can be chosen."""
    required_claims: dict[str, list[str] | str] = {}
    """Claim → accepted values, with patterns: `{ repository_owner = "company", ref = ["refs/heads/*"] }`."""


Name = Annotated[str, Meta(min_length=1)]


class SignInTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """People that sign in by the identity provider (OIDC_ISSUER), to the dashboard and from Claude Code
    (SIGN_IN_SECRET)."""

    days: Annotated[int, Meta(ge=1, le=365)] = 30
    """Days until a person signs in again from Claude Code. If the identity provider gives no refresh token, it is 12
    hours."""
    token_minutes: Annotated[int, Meta(ge=5, le=1440)] = 60
    """Minutes until Claude Code refreshes its token. Then the identity provider is asked whether the person still has
    access. 5: before each request."""
    notice: Name | None = None
    """Text that Claude Code shows during the sign-in, of at most 500 characters."""
    contact: Name | None = None
    """Where people ask for what only an administrator can change, such as a higher limit, another model or access: an
    address or a name. Errors for people end with it. By default they name an administrator. The log has the command."""
    keys_per_person: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Active virtual keys that a signed-in person may create, with the limits of the own group and team. 0: only
    administrators create keys."""
    scopes: tuple[Name, ...] = ("openid", "email", "profile")
    """Scopes that the sign-in requests. `openid` is always one of them."""
    role_claim: Name = "groups"
    """Claim of the identity provider with the groups or roles of a user. Dots lead into objects:
    `realm_access.roles`."""
    absent_groups: Literal["none", "keep"] = "none"
    """What a refresh without `role_claim` means, if it states the address. `none`: the user has no groups. `keep`: the
    groups stay."""
    email_claim: Name = "email"
    """Claim with the e-mail address of a user, which is compared with the owners of virtual keys. Entra ID:
    `preferred_username`."""
    cost_center_claim: Name | None = None
    """Claim with the cost center of a user: a text or a number. Dots lead into objects. It is stored with each
    request."""
    admins: list[Name] = []
    """Users that change settings and keys in the dashboard: values of `role_claim`, or e-mail addresses."""
    viewers: list[Name] = []
    """Users that read everything in the dashboard: values of `role_claim`, or e-mail addresses."""
    team_admins: list[Name] = []
    """Users that manage the virtual keys of their own teams: values of `role_claim`, or e-mail addresses."""
    members: list[Name] = []
    """Users that read their own requests in the dashboard: values of `role_claim`, or e-mail addresses. By default all
    other users of the identity provider."""
    domains: list[Name] = []
    """Domains of accepted e-mail addresses. By default all."""
    authorization: dict[str, str] = {}
    """Further parameters of the request with which a browser goes to the identity provider: `hd = "example.org"`. An
    empty text leaves out a parameter that the proxy sends itself, such as `prompt`."""
    groups: dict[str, GroupTable] = {}
    """Group of the identity provider → what its persons may do."""


class PriceListTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Updates of the price list (extra prices)."""

    update_days: Annotated[int, Meta(ge=0, le=365)] = 0
    """Days between two updates, which the proxy downloads in the background. 0: nothing is downloaded."""
    url: str | None = None
    """Address of the price list, such as a copy in your network. By default the address at which the project
    genai-prices publishes it."""


class FileContents(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contents of the configuration file `anthropic-proxy.toml`."""

    providers: dict[str, ProviderTable] = {}
    """Name → server with an API that the proxy supports. The name is the prefix of its model ids: `vllm/qwen3-8b`."""
    search: SearchTable | None = None
    """Search service for web searches of models."""
    auto_mode: AutoModeTable | None = None
    """Rules of a company for the check of tool calls in auto mode."""
    images: ImagesTable | None = None
    """Descriptions of pictures for models that do not see."""
    alerts: AlertTable | None = None
    """Webhook for reports about budgets."""
    collectors: dict[str, CollectorTable] = {}
    """Name → collector for telemetry of clients, and for traces of the proxy. At most 8."""
    siem: dict[str, SiemTable] = {}
    """Name → destination in a SIEM for the audit log and verdicts. The name is that of its place in both: with another
    name, all is sent again."""
    token_issuers: dict[str, TokenIssuerTable] = {}
    """Name → identity provider whose tokens services send as keys."""
    sign_in: SignInTable | None = None
    """People that sign in by the identity provider."""
    prices: dict[str, PriceTable] = {}
    """Own prices by model id with prefix, or by pattern: `openai/gpt-4.1`, `vllm/*`."""
    price_list: PriceListTable | None = None
    """Updates of the price list, which has the prices of all other models."""
    inspectors: list[InspectorTable] = []
    """Inspectors of the texts of requests and replies, in the order of their calls."""
    routes: list[RouteTable] = []
    """Rules that choose the models of a request by its properties. The first matching route is used."""
    managed_settings: dict[str, dict[str, object]] = {}
    """Group of people, or `*` for everybody → settings of Claude Code that the proxy sends to them. The first table
    that names a group of the person, or the team of the key, is used."""


@cache
def list_alternatives(expected: Any) -> Sequence[Any]:
    """Return the types of a union without None, or the type itself."""
    kind = inspect.type_info(expected)
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return [member for member in kinds if not isinstance(member, inspect.NoneType)]
