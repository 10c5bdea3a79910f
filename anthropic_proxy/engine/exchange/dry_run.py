"""`run_dry`: processes a client request like a real one, but stops before anything is sent to a provider.

In place of sending, the exception `NotSent` is raised. Only local servers receive real requests, which query the limits
of their installed models.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct, field, structs

from anthropic_proxy.engine.descriptions import Description, Descriptions
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange import forwarding
from anthropic_proxy.engine.exchange.client_side import ClientRequest, CollectingSink
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.plan import build_request_facts, choose_plan, read_client_request
from anthropic_proxy.engine.hooks import Client, Receipt, ValueStore
from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.preparation.tools import name_or_alias
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.credentials import Credentials, TokenSource
from anthropic_proxy.engine.providers.registry import UNKNOWN_PROJECT
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.routes import RouteCheck
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.upstream.contract import FetchedPage, SearchResult
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, ClientOrigin, ServerName
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest, UpstreamResponse
from anthropic_proxy.errors import AuthenticationFailed, ProxyError, WebFetchFailed, WebSearchFailed

CLIENT_CREDENTIAL = "(credential of the client)"
"""Value in place of a credential that the client would send, if the proxy forwards it."""
ACCESS_TOKEN = "Bearer (access token, requested when the request is sent)"
"""Value in place of an access token, which a dry run does not request."""
MISSING_KEY = "(the key, which is not set)"
"""Value in place of the key of a provider that has none."""
COUNT_TOKENS_PATH = "/v1/messages/count_tokens"
_NO_KEY = "provider-key-missing"
"""Code of the error for a provider without a key."""


class DryRunClient(Struct, frozen=True, kw_only=True):
    """The imaginary client of a dry run and its headers, on which conditions of routes may depend."""

    client: Client = Client()
    headers: Mapping[str, str] = {}


LOCAL_DRY_RUN_CLIENT = DryRunClient()


class NotSent(ProxyError):
    """Exception that a dry run raises where a real request would send the upstream request."""

    status = 0
    """0 in place of an HTTP status, because a client never receives this error."""


class UnsentRequest(Struct, frozen=True):
    """The encoded upstream request of a dry run, which was not sent."""

    transport: str
    """Means by which the request would be sent: `http`, `demo` (built-in replies) or `litellm` (Python library)."""
    base_url: str
    """Base URL of the provider. The path of `request` follows it."""
    request: UpstreamRequest
    """Encoded request: method, path, headers and body."""
    credential: Credential | None
    """Request header with the key of the provider. None: the provider needs no key."""


class DryRun(Struct, kw_only=True):
    """Result of a dry run: the upstream request that was not sent, or the error that the client would receive."""

    receipt: Receipt
    """The chosen target, and the fidelity notes."""
    plan: Plan | None = None
    """Targets for the request. None: the request was rejected before."""
    checks: Sequence[RouteCheck] = ()
    """Result of each route of the configuration file, up to the first matching route. Empty: no routes are configured.
    """
    recorded: UnsentRequest | None = None
    """The upstream request that a real exchange would send first. None: rejected, or the proxy replies by itself."""
    error: ProxyError | None = None
    """Error that the client would receive. None: the request would be sent, or the proxy replies by itself."""
    missing_key: str = ""
    """Reason why a real request would fail: the provider has no key. `recorded` is the request with a key. "": it has
    one, or needs none."""
    renamed_tools: Mapping[str, str] = {}
    """Tool name of the client → name sent upstream, if they differ."""
    estimated_tokens: int | None = None
    """Input tokens as the proxy estimates them for a token count request. None: no token count, or the provider
    counts."""
    skipped: list[str] = field(default_factory=list)
    """Web searches, fetches and descriptions of pictures that a real request would run before its upstream request."""


async def run_dry(
    engine: Engine, body: bytes, path: str = "/v1/messages", *, sender: DryRunClient = LOCAL_DRY_RUN_CLIENT
) -> DryRun:
    """Process a client request up to its first upstream request, and return the result without sending it."""
    sources = {row.key_source for row in find_registry(engine.settings)} - {"settings"}
    tokens: dict[str, TokenSource] = {source: _PlaceholderTokens() for source in sources}
    result = await _run(engine, body, path, sender, Credentials(engine.settings, tokens))
    if isinstance(result.error, AuthenticationFailed) and result.error.code == _NO_KEY:  # a translation needs no key
        credentials = _PlaceholderKeys(engine.settings, tokens)
        result = await _run(engine, body, path, sender, credentials)
        result.missing_key = credentials.problem
    return result


async def _run(engine: Engine, body: bytes, path: str, sender: DryRunClient, credentials: Credentials) -> DryRun:
    client = structs.replace(sender.client, credential_forwardable=not engine.settings.requires_client_key)
    receipt = Receipt(request_id=engine.new_id("req_"), client=client, started_at=engine.clock(), path=path)
    result = DryRun(receipt=receipt)
    dry = structs.replace(
        engine,
        transports={row.name: _RecordingTransport(row.transport, result) for row in find_registry(engine.settings)},
        credentials=credentials,
        inspectors=(),
        descriptions=_SkippedDescriptions(result.skipped),
        web_fetch=None if engine.web_fetch is None else _SkippedFetch(result.skipped),
        web_search=None if engine.web_search is None else _SkippedSearch(engine.web_search.service, result.skipped),
    )
    headers = {"content-type": "application/json", "x-api-key": CLIENT_CREDENTIAL, **sender.headers}
    incoming = ClientRequest(
        receipt=receipt, headers=headers, body=body, background=engine.background.of(receipt.client.payer)
    )
    try:
        request, choice = read_client_request(engine, incoming)
        estimates = EstimateCache()
        if engine.compiled_routes is not None:
            facts = build_request_facts(engine, incoming, request, estimates)
            result.checks = engine.compiled_routes.check_routes(facts)
        plan = result.plan = await choose_plan(engine, incoming, request, estimates, choice)
        incoming.plans = (plan,)  # a random choice stays
        if path == COUNT_TOKENS_PATH:
            target = plan.targets[0]
            receipt.route_reason, receipt.model = plan.reason, target.model
            receipt.provider, receipt.prefix = target.provider.name, target.provider.prefix
            with suppress(NotSent):
                reply = await forwarding.count_tokens(dry, incoming, CollectingSink(receipt).wait_disconnected)
                if result.recorded is None:
                    result.estimated_tokens = decode_json(reply.body)["input_tokens"]
            return result
    except ProxyError as error:
        result.error = error
        return result
    sink = CollectingSink(receipt)
    await Exchange(dry, incoming, sink).run()
    if not isinstance(sink.error, NotSent):
        result.error = sink.error
    result.renamed_tools = _find_renamed_tools(request, plan.targets, receipt.model)
    return result


def _find_renamed_tools(request: MessagesRequest, targets: Sequence[Target], model: str) -> Mapping[str, str]:
    """Return name of a tool → its name in the request to `model`, if it is another one."""
    called = next((target for target in targets if target.model == model), None)
    if called is None or called.is_relayed or request.decode_error is not None:
        return {}
    pattern, length = called.dialect.tool_name_pattern, called.dialect.max_tool_name_length
    names = {tool.name: name_or_alias(tool.name, pattern, length) for tool in request.tools if tool.name}
    return {name: alias for name, alias in names.items() if name != alias}


class _RecordingTransport:
    """It stores its first upstream request in the result of the dry run, and raises `NotSent`."""

    def __init__(self, name: str, result: DryRun) -> None:
        self._name = name
        self._result = result

    async def __call__(self, bound: BoundRequest) -> UpstreamResponse:
        if self._result.recorded is None:
            self._result.recorded = UnsentRequest(self._name, bound.base_url, bound.request, bound.credential)
        raise NotSent("the request was not sent")


class _PlaceholderKeys(Credentials):
    """Credentials in which `MISSING_KEY` replaces each key that is not set."""

    problem = ""
    """Error text of the first missing key."""

    def next_credential(self, provider: Provider, *, is_first: bool = False, client: str = "") -> Credential | None:
        try:
            return super().next_credential(provider, is_first=is_first, client=client)
        except AuthenticationFailed as error:
            if error.code != _NO_KEY:
                raise
            self.problem = self.problem or error.message
            return Credential(self._find_header(provider)[0], MISSING_KEY)


class _PlaceholderTokens:
    rejection_statuses = ()

    async def acquire_token(self, *, max_seconds: float | None = None) -> tuple[Credential, str | None]:
        return Credential("authorization", ACCESS_TOKEN), UNKNOWN_PROJECT

    def invalidate_token(self, credential: Credential) -> bool:
        return False


class _SkippedFetch:
    def __init__(self, skipped: list[str]) -> None:
        self._skipped = skipped

    async def __call__(self, origin: ClientOrigin, url: str, **options: object) -> FetchedPage:
        self._skipped.append(f"fetch of {url}")
        raise WebFetchFailed("a dry run fetches nothing", "unavailable")


class _SkippedDescriptions(Descriptions):
    def __init__(self, skipped: list[str]) -> None:
        super().__init__()
        self._skipped = skipped

    async def find_or_ask(self, store: ValueStore, key: str, ask: Callable[[], Awaitable[Description]]) -> Description:
        self._skipped.append("description of a picture")
        return Description("(a dry run asks no model to describe the picture)")


class _SkippedSearch:
    def __init__(self, service: ServerName, skipped: list[str]) -> None:
        self.service = service
        self._skipped = skipped

    async def search(self, origin: ClientOrigin, query: str, **options: object) -> Sequence[SearchResult]:
        self._skipped.append(f"search for {query!r}")
        raise WebSearchFailed("a dry run searches nothing", "unavailable")
