"""`BoundRequest`: the only thing that a transport sends, a request together with its origin.

Theory of operation. The proxy sends more than the requests of clients: it checks tool calls, searches the web, counts
tokens, and its operator asks for model lists and prices. Such a request must not reach what the rules of its cause
exclude. So each request to another server names its *origin*. There are two: the request of a client (`ClientOrigin`),
which has passed the admission and has the places that were allowed there, and the operator (`OperatorOrigin`), whose
settings name the server. Of the latter, only the guardrail and the collector of telemetry get texts of clients.
`BoundRequest` refuses a place that its origin does not allow, and a transport accepts nothing else, which mypy checks.

Example: a route sends a request to `inhouse/qwen3`, and the reply needs a web search.

    origin   ClientOrigin("message", "req_1", "key key_1", {("inhouse", "qwen3")}, {"searxng"})
    message  BoundRequest(origin, …, server="inhouse", model="qwen3")
    search   BoundRequest(origin with the purpose "web_search", …, server="searxng")
    refused  BoundRequest(origin, …, server="openai", model="gpt-4.1"): InternalError

The refusal is the second line of defense. The code before it answers the client: with an error of the admission, with
an error result of the tool, or without a verdict.
"""

from collections.abc import Collection, Mapping
from typing import Literal, Protocol, get_args

from msgspec import Struct

from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.purposes import ClientPurpose
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest, UpstreamResponse, read_body
from anthropic_proxy.errors import InternalError

Place = tuple[str, str]
"""Name of a provider, and model id there."""


ServerName = Literal["searxng", "brave", "tavily", "exa", "web"]
"""Name of a server beside the providers: a search service, or `web` for all public web pages and files."""
WEB: ServerName = "web"
ALL_SERVERS: frozenset[ServerName] = frozenset(get_args(ServerName))
OWN_SEARCH: ServerName = "searxng"
"""The search service that is a server of the operator. All others are public."""


class ClientOrigin(Struct, frozen=True):
    """The request of a client. Only the admission makes it (`engine/exchange/admission.py`)."""

    purpose: ClientPurpose
    request_id: str
    payer: str
    """`Client.payer` of the request."""
    models: Collection[Place]
    servers: Collection[ServerName] = ALL_SERVERS

    def require_allowed(self, server: str, model: str) -> None:
        if (server, model) not in self.models and (model or server not in self.servers):
            place = f"{server}/{model}" if model else server or "an unnamed server"
            raise InternalError(f"The {self.purpose} of {self.request_id} must not be sent to {place}.")


Origin = ClientOrigin | OperatorOrigin


class CallProgress(Struct):
    """How far a call has come. A transport without connections of its own changes nothing."""

    is_connecting: bool = False
    """True while there is no connection: the server has not got the request, and bills nothing."""


class BoundRequest(Struct, frozen=True):
    """A request to the server at a base URL. Raises `InternalError` if its origin does not allow the place."""

    origin: Origin
    base_url: str
    request: UpstreamRequest
    credential: Credential | None = None
    server: str = ""
    """Name of the provider, or of another server: a search service, or `web`. "": the origin is the operator."""
    model: str = ""
    """Model id at the provider. "": no model is called."""
    progress: CallProgress | None = None
    """None: nobody asks."""

    def __post_init__(self) -> None:
        self.origin.require_allowed(self.server, self.model)


class Transport(Protocol):
    """Function that sends one upstream request."""

    async def __call__(self, bound: BoundRequest) -> UpstreamResponse:
        """Send the request, and return the response once its status and headers have arrived.

        Raises `UpstreamUnreachable`, `UpstreamProtocolError`, or `ShuttingDown` after the transport was closed.
        """
        ...


class Answer(Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch_answer(send: Transport, bound: BoundRequest, max_bytes: int) -> Answer:
    """Send a request, and return the whole response. Raises `UpstreamError`."""
    response = await send(bound)
    try:
        return Answer(response.status, response.headers, await read_body(response, max_bytes))
    finally:
        await response.close()
